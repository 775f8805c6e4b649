//! A safetensors file whose tensors are declared first and then written as they come.

use std::collections::HashMap;

use safetensors::Dtype;

use crate::atomic_file::AtomicFile;
use crate::error::TensorFileError;
use crate::header::{ALIGNMENT, Header};
use crate::output::Output;

/// A safetensors file that is being written, of which the writer itself has only the header in memory.
#[derive(Debug)]
pub struct TensorWriter<O = AtomicFile> {
    file: O,
    header: Header,
    /// Bytes of tensors written so far.
    position: usize,
}

impl<O: Output> TensorWriter<O> {
    /// Writes the header of `tensors`, each with its name, element type and shape, to the beginning of `file`.
    ///
    /// The tensors lie in the file in this order. Declare wide elements before narrow ones, so that all are aligned.
    ///
    /// # Errors
    /// [`TensorFileError::Malformed`] for a header that [`TensorFile`](crate::TensorFile) would not read;
    /// [`TensorFileError::Write`].
    pub fn begin(
        file: O,
        metadata: Option<HashMap<String, String>>,
        tensors: impl IntoIterator<Item = (String, Dtype, Vec<usize>)>,
    ) -> Result<Self, TensorFileError> {
        Self::begin_aligned(file, metadata, tensors, ALIGNMENT)
    }

    /// Does what [`begin`](Self::begin) does, with the first tensor at a multiple of `alignment` bytes from the beginning of the
    /// file, which is at least 1.
    ///
    /// # Errors
    /// As for that.
    pub fn begin_aligned(
        mut file: O,
        metadata: Option<HashMap<String, String>>,
        tensors: impl IntoIterator<Item = (String, Dtype, Vec<usize>)>,
        alignment: usize,
    ) -> Result<Self, TensorFileError> {
        let (header, bytes) = Header::describe(metadata, tensors)
            .and_then(|header| {
                let bytes = header.encode(alignment)?;
                Ok((header, bytes))
            })
            .map_err(TensorFileError::malformed(file.path()))?;
        file.write_all(&bytes)?;
        Ok(Self {
            file,
            header,
            position: 0,
        })
    }

    /// Writes the next `bytes` of tensor `name`, little-endian and row-major: all of it, or a piece.
    ///
    /// # Errors
    /// [`TensorFileError::Undeclared`]; [`TensorFileError::OutOfPlace`] when another tensor is due or these are
    /// more bytes than it takes; [`TensorFileError::Write`].
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), TensorFileError> {
        let Some((_, info)) = self.header.find(name) else {
            return Err(TensorFileError::Undeclared {
                path: self.file.path().to_owned(),
                tensor: name.to_owned(),
            });
        };
        let (begin, end) = info.data_offsets;
        let (position, count) = (self.position, bytes.len());
        if position < begin || position > end || count > end - position {
            return Err(TensorFileError::OutOfPlace {
                path: self.file.path().to_owned(),
                tensor: name.to_owned(),
                begin,
                end,
                position,
                count,
            });
        }
        self.file.write_all(bytes)?;
        self.position += count;
        Ok(())
    }

    /// Returns the complete file, to be committed.
    ///
    /// # Errors
    /// [`TensorFileError::Unfinished`].
    pub fn finish(self) -> Result<O, TensorFileError> {
        let (written, expected) = (self.position, self.header.data_len());
        if written != expected {
            return Err(TensorFileError::Unfinished {
                path: self.file.path().to_owned(),
                written,
                expected,
            });
        }
        Ok(self.file)
    }
}
