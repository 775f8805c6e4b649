//! Pages where the update runs on a CubeCL device: resident ones on the device, the others in host memory.
//!
//! A page is in one place at a time. The next one is written to one buffer while the page in the other is updated, and the page
//! before is read back behind: on CUDA and ROCm on streams of their own, elsewhere in the device's one queue.
//!
//! CUDA and ROCm read into pinned memory, from which they also write without a copy in between, so there the bytes that
//! came back are kept as they are. (That was run on a CUDA device in software, and compiled for ROCm.) Elsewhere what a page is
//! read into is a staging buffer of the runtime's, which is given back.
//!
//! - [`pages`]: resident and streamed pages as one.
//! - [`queue`]: the streams of copies and updates, and their order.
//! - [`update`]: one AdamW update.

mod pages;
mod queue;
mod update;

pub(crate) use pages::DevicePages;
pub(crate) use update::adamw;
