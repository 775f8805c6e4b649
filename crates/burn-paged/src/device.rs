//! Pages where the update runs on a CubeCL device: resident ones on the device, the others in host memory.
//!
//! A page is in one place at a time. Copies go through the device's queue in order with the updates: the next page is
//! written to one buffer while the page in the other is updated, and the page before is read back behind.
//!
//! CUDA and ROCm read into pinned memory, from which they also write without a copy in between, so there the bytes that
//! came back are kept as they are. (That was compiled for CUDA and run on neither.) Elsewhere what a page is read
//! into is a staging buffer of the runtime's, which is given back.
//!
//! - [`pages`]: resident and streamed pages as one.
//! - [`update`]: one AdamW update.

mod pages;
mod update;

pub(crate) use pages::DevicePages;
pub(crate) use update::adamw;
