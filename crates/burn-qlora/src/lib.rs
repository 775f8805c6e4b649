//! QLoRA for authors of Burn modules: a drop-in linear layer whose base weight stays in 4 bits, the
//! LoRA adapters on top of it, and the adapter files that Hugging Face peft reads and writes.
//!
//! ```
//! use burn::module::Module;
//! use burn::tensor::{Device, Tensor};
//! use burn_qlora::{AnyLinear, AnyLinearConfig, LoraConfig, LoraModel, QuantConfig, attach_adapters, freeze_base};
//!
//! #[derive(Module, LoraModel, Debug)]
//! struct Net {
//!     proj: AnyLinear, // was: Linear
//! }
//!
//! # fn main() -> Result<(), burn_qlora::LoraError> {
//! let device = Device::flex().autodiff();
//! let mut net = Net { proj: AnyLinearConfig::new(64, 32).init(&device) };
//! net.quantize(&QuantConfig::default())?; // NF4 in place of the dense weight
//! attach_adapters(&mut net, &LoraConfig::new(8, 16.0), 0)?;
//! let net = freeze_base(net);
//! let loss = net.proj.forward(Tensor::<3>::ones([2, 5, 64], &device)).mean();
//! let _gradients = loss.backward(); // of the adapter, through the packed weight
//! # Ok(())
//! # }
//! ```

/// The layer that is dense first and in 4 bits later.
mod any_linear;
/// The request and the result of a backward pass.
mod backward;
/// The packed weight as a Burn module.
mod blockwise_weight;
/// The low-rank branch with its dropout.
mod branch;
/// Language models with adapters, and the batch they are trained on.
mod causal_lm;
/// The layers that are adapted, and the shape of their adapters.
mod config;
/// A text and what may follow it.
mod continuations;
pub mod cuda;
/// Everything that can go wrong.
mod error;
/// The factors of one layer on the host.
mod factors;
/// The head of a language model, with an adapter beside the layers'.
mod head;
/// The layers of a module, with their paths.
mod layers;
/// The layer with a frozen base.
mod linear;
/// Adapters that start as what quantization took from the weights.
mod loftq;
/// Dense weights with the adapters folded in, one layer at a time.
mod merge;
/// The layers of a model that can carry adapters, and what is done to all of them.
mod model;
/// The packed weight that is read when it is used.
mod paged_weight;
pub mod peft;
/// Layers of a model, quantized where they are.
mod quantize;
/// The operations of the layers where another process asks for them.
#[cfg(feature = "router")]
mod router;
/// Rows of an embedding or a head that are trained.
mod token_rows;

pub use any_linear::{AnyLinear, AnyLinearConfig};
pub use backward::{
    BackwardPass, Checkpointing, LossAndGradients, adapter_gradients, derive_seed, noise_magnitude,
    token_row_gradients,
};
pub use blockwise_weight::BlockwiseWeight;
pub use branch::LoraBranch;
pub use burn_fused::{Epilogue, Prologue};
pub use burn_nf4::{BlockwiseTensor, BlockwiseTensorError, Format, GgufFormat};
pub use burn_qlora_derive::{LoraLayers, LoraModel};
pub use causal_lm::{CausalLm, TokenBatch};
pub use config::{Blocks, LoraConfig, Overrides, Targets, TokenIndices};
pub use continuations::Continuations;
pub use error::LoraError;
pub use factors::{Factors, WeightChange};
pub use head::AdaptableHead;
pub use layers::{LayerMut, LayerRef, Layers, LoraLayers};
pub use linear::{BaseWeight, QLoraLinear};
pub use loftq::{LoftqReport, loftq_bytes, loftq_init, loftq_rounds};
pub use merge::merge_linears;
pub use model::{
    LoraModel, WholeWeight, attach_adapters, detach_adapters, freeze_base, num_adapter_params,
    trainable,
};
pub use nf4::{Codebook, QuantConfig};
pub use paged_weight::PagedWeight;
#[cfg(feature = "router")]
pub use router::register_ops;
pub use token_rows::TokenRows;

/// Compiles and runs the example of the package's README.
#[cfg(all(doctest, feature = "flex"))]
#[doc = include_str!("../README.md")]
struct Readme;
