//! Tensor files on disk: safetensors read and written as streams, and files and folders that appear whole
//! or not at all.
//!
//! Nothing here knows Burn or a quantized format.
//!
//! - [`TensorFile`]: a safetensors file whose header is validated and whose tensors are read on demand, in
//!   pieces or into a buffer of the caller's.
//! - [`TensorWriter`]: a safetensors file whose tensors are declared first and then written as they come.
//! - [`TensorSpool`]: a safetensors file whose tensors are not known before they come.
//! - [`AtomicFile`], [`FileGroup`]: one file, and several files of one folder, that take their names when
//!   they are complete.
//! - [`StagedDir`]: a folder that takes its name when it is complete.
//! - [`LockedFile`]: a file that one process holds.
//! - [`InputFile`]: a file, on disk or in memory, read at positions that are checked first.
//! - [`Output`]: what a file is written to; [`MemoryFile`]: one in memory.
//! - [`recognize`]: what a file is that is not what its name says.
//! - [`catch_panic`]: a reader of another library whose panic becomes an error.
//! - [`Checksum`]: what tells that bytes are the same.
//! - [`ScratchFile`]: a nameless file for what is too much for memory.
//! - [`TensorFileError`], and [`Malformation`], the ways in which a file can be broken.
//!
//! # Why not another crate
//! The `safetensors` crate gives the data types and writes the header. Its reader wants the whole file in memory or
//! mapped, takes the last of two tensors of one name, and does not say which tensor of a broken header is wrong;
//! its writer wants every tensor at once. burn-pack's `AtomicFile` would bring burn-std into crates that do not
//! need Burn, so `tempfile` stands below [`AtomicFile`] here; neither has folders that replace another.

mod atomic_file;
mod checksum;
mod error;
mod file_group;
mod foreign;
mod format;
mod header;
mod input;
mod locked_file;
mod mount;
mod output;
mod scratch_file;
mod spool;
mod staged_dir;
mod sync;
mod tensor_file;
mod writer;

pub use atomic_file::AtomicFile;
pub use checksum::Checksum;
pub use error::{Malformation, TensorFileError};
pub use file_group::FileGroup;
pub use foreign::catch_panic;
pub use format::recognize;
pub use input::{InputFile, InputReader};
pub use locked_file::LockedFile;
pub use output::{MemoryFile, Output};
pub use safetensors::Dtype;
pub use scratch_file::ScratchFile;
pub use spool::TensorSpool;
pub use staged_dir::StagedDir;
pub use tensor_file::{StoredTensor, TensorFile};
pub use writer::TensorWriter;

/// Compiles and runs the example of the package's README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
