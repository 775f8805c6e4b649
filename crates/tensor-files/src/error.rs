//! The errors of reading and writing files of tensors.

use std::io;
use std::path::{Path, PathBuf};

use safetensors::Dtype;

/// An error of this crate: the file, the tensor and offset where there are some, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorFileError {
    /// The operating system refused to read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The operating system refused to write; what had the name before still has it.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file that does not follow its format.
    #[error("{}: {fault}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The rule that does not hold.
        fault: Box<Malformation>,
    },
    /// A folder that is to be new holds something already.
    #[error("{}: already holds files; choose a new directory or remove it first", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// Another process holds the file.
    #[error("{} is in use by another process; wait for its end", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A folder that is to be replaced, when it is complete, but at which a file system is mounted.
    #[error(
        "{}: a file system is mounted there, so it cannot be replaced as a whole; give the name of a new directory \
         in it",
        path.display()
    )]
    MountPoint {
        /// The folder.
        path: PathBuf,
    },
    /// A path without a last component, such as `/` or `..`.
    #[error("{}: cannot be an output directory; give the name of a new one", path.display())]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// A buffer is not as long as the tensor that is to be read into it.
    #[error(
        "{}: tensor `{tensor}` takes {expected} bytes, but the buffer has {found}",
        path.display()
    )]
    BufferLength {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The tensor's bytes.
        expected: usize,
        /// The buffer's.
        found: usize,
    },
    /// A tensor is to be written that was not declared.
    #[error("{}: tensor `{tensor}` was not declared; declare every tensor first", path.display())]
    Undeclared {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The bytes of a tensor were given too early, too late, or are too many.
    #[error(
        "{}: tensor `{tensor}` takes bytes {begin} to {end} of the data, but {count} bytes of it came at \
         {position}; write every tensor whole and in the declared order",
        path.display()
    )]
    OutOfPlace {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its first byte, from the beginning of the data.
        begin: usize,
        /// The byte behind its last.
        end: usize,
        /// Bytes of the data that were written before.
        position: usize,
        /// Bytes that were to be written.
        count: usize,
    },
    /// A file is to be finished before all its declared tensors were written.
    #[error(
        "{}: {written} bytes of tensors were written, but {expected} were declared; write every tensor \
         whole and in the declared order",
        path.display()
    )]
    Unfinished {
        /// The file.
        path: PathBuf,
        /// The bytes that were written.
        written: usize,
        /// The bytes that were declared.
        expected: usize,
    },
}

/// A way in which a file can fail to follow its format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformation {
    /// A folder, a device or a pipe.
    #[error("not a regular file")]
    NotRegular,
    /// The file ends before what should be in it.
    #[error(
        "truncated: {expected} bytes were expected at offset {offset}, the file has {len}; replace it with \
         an intact copy"
    )]
    Truncated {
        /// Offset of the missing bytes.
        offset: u64,
        /// Their expected length.
        expected: u64,
        /// Length of the file.
        len: u64,
    },
    /// The header would be longer than the file, or than the format allows.
    #[error(
        "the header claims {claimed} bytes of a file of {len}; truncated or not a safetensors file"
    )]
    HeaderLength {
        /// The length it claims, in bytes.
        claimed: u64,
        /// The file's length in bytes.
        len: u64,
    },
    /// Something else than a safetensors file.
    #[error("not a safetensors file but {what}")]
    AnotherFormat {
        /// What it is, and what to do.
        what: &'static str,
    },
    /// The header is not the JSON of a safetensors header.
    #[error("invalid safetensors header: {reason}")]
    HeaderJson {
        /// The rule that does not hold, and its place in the header.
        reason: String,
    },
    /// Two tensors of one name.
    #[error("invalid safetensors header: tensor `{tensor}` is in it twice")]
    DuplicateTensor {
        /// The name.
        tensor: String,
    },
    /// An element type that the format does not have.
    #[error("invalid safetensors header: tensor `{tensor}` is of unknown type `{dtype}`")]
    UnknownDtype {
        /// The tensor.
        tensor: String,
        /// The dtype in the header.
        dtype: String,
    },
    /// A tensor that ends before it begins.
    #[error(
        "invalid safetensors header: tensor `{tensor}` begins at offset {begin} and ends at {end}"
    )]
    ReversedOffsets {
        /// The tensor.
        tensor: String,
        /// Its first byte, from the beginning of the data.
        begin: usize,
        /// The byte behind its last.
        end: usize,
    },
    /// A tensor that begins within another.
    #[error(
        "invalid safetensors header: tensor `{tensor}` begins at offset {begin}, but the one before it \
         ends at {previous_end}"
    )]
    Overlap {
        /// The tensor.
        tensor: String,
        /// Its first byte, from the beginning of the data.
        begin: usize,
        /// The byte behind the last of the one before it.
        previous_end: usize,
    },
    /// Bytes that belong to no tensor.
    #[error(
        "invalid safetensors header: the {} bytes from offset {previous_end} to tensor `{tensor}` belong \
         to no tensor",
        begin - previous_end
    )]
    Gap {
        /// The tensor behind them.
        tensor: String,
        /// Its first byte, from the beginning of the data.
        begin: usize,
        /// The byte behind the last of the one before it.
        previous_end: usize,
    },
    /// A shape with more elements, or bits, than can be counted.
    #[error("invalid safetensors header: tensor `{tensor}` of shape {shape:?} is too large")]
    ShapeOverflow {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Elements of less than a byte that do not fill the last one.
    #[error(
        "invalid safetensors header: tensor `{tensor}` of shape {shape:?} in {dtype} does not end at a whole byte"
    )]
    PartialByte {
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor with more or fewer bytes than its shape and element type take.
    #[error(
        "invalid safetensors header: tensor `{tensor}` of shape {shape:?} in {dtype} takes {expected} \
         bytes, but has {found} at offset {begin}"
    )]
    TensorSize {
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
        /// Its first byte, from the beginning of the data.
        begin: usize,
        /// The bytes it takes.
        expected: usize,
        /// The bytes it has.
        found: usize,
    },
    /// The file is longer or shorter than its header says.
    #[error(
        "the header describes {described} bytes, the file has {len}; truncated or damaged, replace it with \
         an intact copy"
    )]
    DataLength {
        /// Bytes of the header and the tensors in it.
        described: u128,
        /// The file's length.
        len: u64,
    },
}

impl TensorFileError {
    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Read {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Write {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn malformed(path: &Path) -> impl FnOnce(Malformation) -> Self + '_ {
        move |fault| Self::Malformed {
            path: path.to_owned(),
            fault: Box::new(fault),
        }
    }
}
