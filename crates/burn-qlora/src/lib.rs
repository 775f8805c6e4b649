//! QLoRA for authors of Burn modules: a drop-in linear layer whose base weight stays in 4 bits, the
//! LoRA adapters on top of it, and the adapter files that Hugging Face peft reads and writes.
//!
//! - [`linear`]: [`QLoraLinear`], the layer, and [`BaseWeight`], what it stands on.
//! - [`nf4_weight`]: [`Nf4Weight`], the packed weight as a Burn module.
//! - [`branch`]: [`LoraBranch`], the low-rank branch with its dropout.
//! - [`config`]: [`LoraConfig`] and [`Targets`], which layers are adapted and how.
//! - [`model`]: [`LoraModel`], what a model tells about its layers, and what follows from it:
//!   [`attach_adapters`], [`freeze_base`], [`trainable`].
//! - [`peft`]: adapter directories in and out.
//! - [`merge`]: dense weights with the adapters folded in, one layer at a time.
//! - [`atomic`]: files that are complete or not there.
//! - [`error`]: [`LoraError`], everything that can go wrong.

pub mod atomic;
pub mod branch;
pub mod config;
pub mod error;
pub mod linear;
pub mod merge;
pub mod model;
pub mod nf4_weight;
pub mod peft;

pub use branch::LoraBranch;
pub use burn_fused;
pub use burn_nf4::Nf4Tensor;
pub use config::{LoraConfig, Targets};
pub use error::LoraError;
pub use linear::{BaseWeight, QLoraLinear};
pub use merge::merge_linears;
pub use model::{LoraModel, attach_adapters, freeze_base, trainable};
pub use nf4::{Codebook, QuantConfig};
pub use nf4_weight::Nf4Weight;
