//! A safetensors file whose tensors are read on demand.

use std::collections::HashMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use crate::checksum::Checksum;
use crate::error::{Malformation, TensorFileError};
use crate::format::{SAFETENSORS, recognize};
use crate::header::{Header, LENGTH_BYTES, MAX_HEADER};
use crate::input::InputFile;

/// Bytes that [`StoredTensor::for_each_chunk`] reads at a time: a multiple of every whole element.
const CHUNK: usize = 1 << 20;

/// An opened safetensors file: its header is in memory and validated, its tensors are still on disk.
///
/// No size in the file is trusted. The header is held against the file's length before memory is allocated for
/// it, and every tensor lies within the file, has as many bytes as its shape takes, and shares none with another.
#[derive(Debug)]
pub struct TensorFile {
    input: InputFile,
    header: Header,
    /// Offset of the values in the file.
    data_start: u64,
}

/// A tensor of a [`TensorFile`], not read yet.
#[derive(Debug, Clone, Copy)]
pub struct StoredTensor<'a> {
    file: &'a TensorFile,
    name: &'a str,
    info: &'a TensorInfo,
}

impl TensorFile {
    /// Opens the file at `path` and validates its header.
    ///
    /// # Errors
    /// [`TensorFileError::Read`]; [`TensorFileError::Malformed`] with the first [`Malformation`] found.
    pub fn open(path: &Path) -> Result<Self, TensorFileError> {
        Self::of(InputFile::open(path)?)
    }

    /// Validates the header of a file that is open.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of(input: InputFile) -> Result<Self, TensorFileError> {
        let path = input.path();
        let len = input.len();
        let mut length = [0; LENGTH_BYTES as usize];
        input.read_at(0, &mut length)?;
        let claimed = u64::from_le_bytes(length);
        if claimed > MAX_HEADER || claimed > len - LENGTH_BYTES {
            return Err(TensorFileError::malformed(path)(no_header(
                &input, claimed,
            )?));
        }
        let mut text = vec![0; claimed as usize];
        input.read_at(LENGTH_BYTES, &mut text)?;
        let header = Header::parse(&text).map_err(TensorFileError::malformed(path))?;
        let data_start = LENGTH_BYTES + claimed;
        // Two lengths of 64 bits, which may both be as large as they can.
        let described = u128::from(data_start) + header.data_len() as u128;
        if described != u128::from(len) {
            let fault = Malformation::DataLength { described, len };
            return Err(TensorFileError::malformed(path)(fault));
        }
        Ok(Self {
            input,
            header,
            data_start,
        })
    }

    /// Returns the path it was opened at.
    pub fn path(&self) -> &Path {
        self.input.path()
    }

    /// Returns what the file says about itself as a whole, when it does.
    pub fn metadata(&self) -> Option<&HashMap<String, String>> {
        self.header.metadata()
    }

    /// Returns how many tensors there are.
    pub fn len(&self) -> usize {
        self.header.tensors().len()
    }

    /// Returns whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.header.tensors().is_empty()
    }

    /// Returns the names of all tensors, in the order of their bytes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.header.tensors().iter().map(|(name, _)| name.as_str())
    }

    /// Returns the tensor of this name, `None` when there is none.
    pub fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let (name, info) = self.header.find(name)?;
        Some(StoredTensor {
            file: self,
            name,
            info,
        })
    }
}

/// Returns what is wrong with a file whose first bytes are no header's length.
fn no_header(input: &InputFile, claimed: u64) -> Result<Malformation, TensorFileError> {
    let len = input.len();
    let mut start = [0; 24];
    let start = &mut start[..len.min(24) as usize];
    input.read_at(0, start)?;
    Ok(match recognize(start).filter(|what| *what != SAFETENSORS) {
        Some(what) => Malformation::AnotherFormat { what },
        None => Malformation::HeaderLength { claimed, len },
    })
}

impl<'a> StoredTensor<'a> {
    /// Returns its name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Returns its element type.
    pub fn dtype(&self) -> Dtype {
        self.info.dtype
    }

    /// Returns its shape.
    pub fn shape(&self) -> &'a [usize] {
        &self.info.shape
    }

    /// Returns how many bytes it takes, which the file is known to have.
    pub fn byte_len(&self) -> usize {
        let (begin, end) = self.info.data_offsets;
        end - begin
    }

    /// Reads all of it, little-endian and row-major.
    ///
    /// # Errors
    /// [`TensorFileError::Read`].
    pub fn read(&self) -> Result<Vec<u8>, TensorFileError> {
        let mut bytes = vec![0; self.byte_len()];
        self.read_into(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads all of it into `buffer`.
    ///
    /// # Errors
    /// [`TensorFileError::BufferLength`] when `buffer` is not [`byte_len`](Self::byte_len) long;
    /// [`TensorFileError::Read`].
    pub fn read_into(&self, buffer: &mut [u8]) -> Result<(), TensorFileError> {
        if buffer.len() != self.byte_len() {
            return Err(TensorFileError::BufferLength {
                path: self.file.path().to_owned(),
                tensor: self.name.to_owned(),
                expected: self.byte_len(),
                found: buffer.len(),
            });
        }
        self.file.input.read_at(self.offset(0), buffer)
    }

    /// Calls `use_chunk` with its bytes, 1 MiB at a time and less at the end.
    ///
    /// # Errors
    /// [`TensorFileError::Read`], and what `use_chunk` fails with.
    pub fn for_each_chunk<E: From<TensorFileError>>(
        &self,
        mut use_chunk: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let len = self.byte_len();
        let mut buffer = vec![0; CHUNK.min(len)];
        for position in (0..len).step_by(CHUNK) {
            let chunk = &mut buffer[..CHUNK.min(len - position)];
            self.file.input.read_at(self.offset(position), chunk)?;
            use_chunk(chunk)?;
        }
        Ok(())
    }

    /// Adds name, type and shape, and a [sample](InputFile::sample) of the bytes, to `sum`.
    ///
    /// # Errors
    /// [`TensorFileError::Read`].
    pub fn sample(&self, sum: &mut Checksum) -> Result<(), TensorFileError> {
        let described = format!("{} {} {:?}", self.name, self.dtype(), self.shape());
        sum.add_framed(described.as_bytes());
        self.file
            .input
            .sample(self.offset(0), self.byte_len() as u64, sum)
    }

    /// Returns whether it has the same type, shape and bytes as `other`, reading 1 MiB of each at a time.
    ///
    /// # Errors
    /// [`TensorFileError::Read`].
    pub fn has_bytes_of(&self, other: &StoredTensor<'_>) -> Result<bool, TensorFileError> {
        if (self.dtype(), self.shape()) != (other.dtype(), other.shape()) {
            return Ok(false);
        }
        let len = self.byte_len();
        let mut buffers = [vec![0; CHUNK.min(len)], vec![0; CHUNK.min(len)]];
        for position in (0..len).step_by(CHUNK) {
            let [own, others] = &mut buffers;
            let (own, others) = (
                &mut own[..CHUNK.min(len - position)],
                &mut others[..CHUNK.min(len - position)],
            );
            self.file.input.read_at(self.offset(position), own)?;
            other.file.input.read_at(other.offset(position), others)?;
            if own != others {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns where in the file the byte at `position` of the tensor is.
    fn offset(&self, position: usize) -> u64 {
        self.file.data_start + (self.info.data_offsets.0 + position) as u64
    }
}
