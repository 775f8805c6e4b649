//! Tests of burn-qlora against recorded outputs of its peers.
//!
//! The claims are in `tests/claims/`, one file each; this library has what several of them start from.
//!
//! * [`devices`], [`loss_tolerance`]: the devices compiled in, and what each is held to
//! * [`model`], [`adapted`], [`merge`]: the recorded models and adapters, in this project's types
//! * [`Curve`], [`CurveBatches`]: the recorded training runs, at their start and step by step
//! * [`adapter_bits`], [`adapter_values`]: what was learnt

mod device;
mod recorded;

pub use device::{devices, loss_tolerance};
pub use recorded::{Curve, CurveBatches, adapted, adapter_bits, adapter_values, merge, model};
