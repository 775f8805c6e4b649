//! The helpers that the tests of all crates share. It depends on no crate of this workspace, so that any of them can
//! have it as a dev-dependency; which devices there are is decided by the features of the crate that asks.
//!
//! * [`fixture`], [`read_fixture`], [`json`]: where the recordings of bitsandbytes, transformers, peft and torch lie
//! * [`Recording`]: a recorded safetensors file
//! * [`FAMILIES`]: the recorded decoder families
//! * [`targets`], [`token_losses`]: from labels and logits to the losses of tokens
//! * [`bitsandbytes`]: recorded bytes as the words of a device
//! * [`smollm2`], [`gemma3`]: the published models that tests run on; [`tokenizers`], [`directory_with_tokenizer`]: published
//!   tokenizers
//! * [`byte_tokenizer`]: a tokenizer of one token a byte
//! * [`assert_close`], [`assert_within`]: comparison, with a [`Tolerance`] and its reason
//! * [`random`]: numbers that depend on a seed alone
//! * [`alone`]: one test at a time; [`in_own_process`], [`assert_passed`]: a test in a process of its own
//! * [`CountingAllocator`]: the memory that a test binary holds
//! * [`devices!`], [`on_every_device!`], [`TestDevice`] (feature `burn`): the devices compiled in
//! * [`runtime`], [`on_every_runtime!`] (feature `cubecl`): the runtimes of CubeCL compiled in
//! * [`block_on`] (feature `burn`): waits for what a browser awaits
//! * [`tensor`], [`values`] (feature `burn`): into a tensor and out of it

mod alone;
pub mod bitsandbytes;
mod byte_tokenizer;
mod close;
mod counting_allocator;
#[cfg(feature = "burn")]
mod device;
mod families;
#[cfg(any(feature = "burn", feature = "cubecl"))]
mod features;
mod fixtures;
mod losses;
mod own_process;
mod published;
pub mod random;
mod recording;
#[cfg(feature = "cubecl")]
mod runtime;
#[cfg(feature = "burn")]
mod tensors;

pub use alone::alone;
#[cfg(feature = "burn")]
pub use burn_std::future::block_on;
pub use byte_tokenizer::byte_tokenizer;
pub use close::{Tolerance, assert_close, assert_within};
pub use counting_allocator::CountingAllocator;
#[cfg(feature = "burn")]
pub use device::{Device, DeviceKind, NO_DEVICE, TestDevice, chosen};
pub use families::FAMILIES;
pub use fixtures::{fixture, json, read_fixture};
pub use losses::{targets, token_losses};
pub use own_process::{assert_passed, in_own_process};
pub use published::{directory_with_tokenizer, gemma3, smollm2, tokenizers};
pub use recording::Recording;
#[cfg(feature = "cubecl")]
pub use runtime::{NO_RUNTIME, runtime};
#[cfg(feature = "burn")]
pub use tensors::{tensor, values};
