//! Tests of burn-qlora against recorded outputs of its peers.
//!
//! The claims are in `tests/parity/`, one file each; this library only finds the recorded data and the
//! devices to hold it against.
//!
//! * [`fixtures`]: where the recordings lie and how one is read
//! * [`device`]: the devices compiled in, with the tolerance each is held to

pub mod device;
pub mod fixtures;
