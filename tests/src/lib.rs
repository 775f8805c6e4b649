//! Tests of burn-qlora against recorded outputs of its peers.
//!
//! The claims are in `tests/claims/`, one file each; this library has what several of them start from.
//!
//! * [`devices`], [`loss_tolerance`]: the devices compiled in, and what each is held to
//! * [`model`], [`adapted`]: the recorded models and adapters, in this project's types
//! * [`curve_config`], [`curve_trainer`], [`CurveBatches`]: the recorded training run, at its start and step by step
//! * [`adapter_bits`]: what was learnt

mod device;
mod recorded;

pub use device::{devices, loss_tolerance};
pub use recorded::{
    CurveBatches, adapted, adapter_bits, curve_builder, curve_config, curve_trainer, model,
};
