//! Pages where the update runs on the host: resident ones in RAM, the others in a file.
//!
//! - [`buffer`]: bytes that are aligned for the values in them.
//! - [`stream`]: the two buffers, read ahead and written behind by a thread.
//! - [`pages`]: resident and streamed pages as one.
//! - [`update`]: one AdamW update.
//!
//! The [page file](crate::page_file) is read and written at positions, not mapped into memory: a mapped file that was truncated or does not
//! fit on its disk kills the process with a signal, and its pages count as the process's own for as long as
//! the system likes. Two buffers are two buffers.

mod buffer;
mod pages;
mod stream;
mod update;

pub(crate) use pages::HostPages;
pub(crate) use update::adamw;
