//! QLoRA for authors of Burn modules: a drop-in linear layer whose base weight stays in 4 bits, the
//! LoRA adapters on top of it, and the adapter files that Hugging Face peft reads and writes.
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::LinearConfig;
//! use burn::tensor::{Device, Tensor};
//! use burn_qlora::{LoraConfig, LoraModel, QLoraLinear, QuantConfig, attach_adapters, freeze_base};
//!
//! #[derive(Module, Debug)]
//! struct Net {
//!     proj: QLoraLinear, // was: Linear
//! }
//!
//! impl LoraModel for Net {
//!     fn lora_linears(&self) -> Vec<(String, &QLoraLinear)> {
//!         vec![("proj".into(), &self.proj)]
//!     }
//!     fn lora_linears_mut(&mut self) -> Vec<(String, &mut QLoraLinear)> {
//!         vec![("proj".into(), &mut self.proj)]
//!     }
//! }
//!
//! # fn main() -> Result<(), burn_qlora::LoraError> {
//! let device = Device::flex().autodiff();
//! let dense = LinearConfig::new(64, 32).init(&device);
//! let mut net = Net { proj: QLoraLinear::from_linear(dense, QuantConfig::default())? };
//! attach_adapters(&mut net, &LoraConfig::new(8, 16.0), 0)?;
//! let net = freeze_base(net);
//! let loss = net.proj.forward(Tensor::<3>::ones([2, 5, 64], &device)).mean();
//! let _gradients = loss.backward(); // of the adapter, through the packed weight
//! # Ok(())
//! # }
//! ```
//!
//! - [`linear`]: [`QLoraLinear`], the layer, and [`BaseWeight`], what it stands on.
//! - [`nf4_weight`]: [`Nf4Weight`], the packed weight as a Burn module.
//! - [`branch`]: [`LoraBranch`], the low-rank branch with its dropout.
//! - [`config`]: [`LoraConfig`] and [`Targets`], which layers are adapted and how.
//! - [`model`]: [`LoraModel`], what a model tells about its layers, and what follows from it:
//!   [`attach_adapters`], [`freeze_base`], [`trainable`].
//! - [`backward`]: [`BackwardPass`] and [`Checkpointing`], what a backward pass is asked for, and
//!   [`LossAndGradients`], what it gives.
//! - [`peft`]: adapter directories in and out.
//! - [`merge`]: dense weights with the adapters folded in, one layer at a time.
//! - [`atomic`]: files that are complete or not there.
//! - [`tensor_file`]: safetensors files written as they come.
//! - [`error`]: [`LoraError`], everything that can go wrong.

pub mod atomic;
pub mod backward;
pub mod branch;
pub mod config;
pub mod error;
pub mod linear;
pub mod merge;
pub mod model;
pub mod nf4_weight;
pub mod peft;
pub mod tensor_file;

pub use backward::{BackwardPass, Checkpointing, LossAndGradients, adapter_gradients, derive_seed};
pub use branch::LoraBranch;
pub use burn_nf4::Nf4Tensor;
pub use config::{LoraConfig, Targets};
pub use error::LoraError;
pub use linear::{BaseWeight, QLoraLinear};
pub use merge::merge_linears;
pub use model::{LoraModel, attach_adapters, freeze_base, trainable};
pub use nf4::{Codebook, QuantConfig};
pub use nf4_weight::Nf4Weight;

/// Compiles and runs the README's example.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
