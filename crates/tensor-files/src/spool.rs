//! A safetensors file whose tensors are not known before they come.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use crate::atomic_file::AtomicFile;
use crate::error::TensorFileError;
use crate::header::{ALIGNMENT, Header};
use crate::sync::parent;

/// Bytes of each part that are gathered before they are written.
const BUFFER: usize = 1 << 20;
/// Widths of elements in bits, widest first; the last is for all that are narrower.
const WIDTHS: [usize; 4] = [64, 32, 16, 8];

/// Collects tensors in one nameless file per element width and joins them at the end.
///
/// torch reads a tensor in place and needs it aligned, so wide elements come before narrow ones, and which there will
/// be is not known before every tensor has come. Only their names are in memory.
#[derive(Debug)]
pub struct TensorSpool {
    path: PathBuf,
    parts: [Option<Part>; WIDTHS.len()],
}

/// The tensors of one width.
#[derive(Debug)]
struct Part {
    file: BufWriter<File>,
    tensors: Vec<(String, Dtype, Vec<usize>)>,
}

impl TensorSpool {
    /// Begins the file at `path`, whose folder must be there and have room for it.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            parts: Default::default(),
        }
    }

    /// Adds a tensor; `bytes` are its values, little-endian and row-major.
    ///
    /// # Errors
    /// [`TensorFileError::Malformed`] for a shape that is too large; [`TensorFileError::BufferLength`] when `bytes`
    /// are not as many as it takes; [`TensorFileError::Write`].
    pub fn push(
        &mut self,
        name: impl Into<String>,
        dtype: Dtype,
        shape: Vec<usize>,
        bytes: &[u8],
    ) -> Result<(), TensorFileError> {
        let name = name.into();
        let alone = [(name.clone(), dtype, shape.clone())];
        let expected = Header::describe(None, alone)
            .map_err(TensorFileError::malformed(&self.path))?
            .data_len();
        if bytes.len() != expected {
            return Err(TensorFileError::BufferLength {
                path: self.path.clone(),
                tensor: name,
                expected,
                found: bytes.len(),
            });
        }
        let width = WIDTHS.iter().position(|width| dtype.bitsize() >= *width);
        let slot = &mut self.parts[width.unwrap_or(WIDTHS.len() - 1)];
        add(slot, &self.path, (name, dtype, shape), bytes)
            .map_err(TensorFileError::write(&self.path))
    }

    /// Joins header and parts into the file and commits it. `metadata` is said about the file as a whole.
    ///
    /// # Errors
    /// [`TensorFileError::Malformed`] when two tensors have one name; [`TensorFileError::Write`].
    pub fn finish(self, metadata: Option<HashMap<String, String>>) -> Result<(), TensorFileError> {
        let mut parts: Vec<Part> = self.parts.into_iter().flatten().collect();
        let tensors = parts.iter_mut().flat_map(|part| part.tensors.drain(..));
        let header = Header::describe(metadata, tensors)
            .and_then(|header| header.encode(ALIGNMENT))
            .map_err(TensorFileError::malformed(&self.path))?;
        let mut file = AtomicFile::create(&self.path)?;
        file.write_all(&header)?;
        for part in parts {
            // Its room on the disk is free again as soon as it is copied.
            let mut part = rewound(part.file).map_err(TensorFileError::write(&self.path))?;
            file.copy_from(&mut part)?;
        }
        file.commit()
    }
}

/// Adds a tensor to the part in `slot`, which is begun in the folder of `path` when there is none.
fn add(
    slot: &mut Option<Part>,
    path: &Path,
    tensor: (String, Dtype, Vec<usize>),
    bytes: &[u8],
) -> io::Result<()> {
    let part = match slot {
        Some(part) => part,
        None => slot.insert(Part {
            file: BufWriter::with_capacity(BUFFER, tempfile::tempfile_in(parent(path))?),
            tensors: Vec::new(),
        }),
    };
    part.file.write_all(bytes)?;
    part.tensors.push(tensor);
    Ok(())
}

/// Returns the file with all that was written, at its beginning.
fn rewound(file: BufWriter<File>) -> io::Result<File> {
    let mut file = file.into_inner().map_err(|error| error.into_error())?;
    file.rewind()?;
    Ok(file)
}
