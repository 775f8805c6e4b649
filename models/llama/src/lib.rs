//! LLaMA for Burn: a causal language model as ordinary Burn modules, the checkpoints it is loaded from,
//! and text generation.
//!
//! - [`DecoderConfig`] and [`rope`]: the shape of a model and its rotary positions.
//! - [`Decoder`], [`Block`], [`Attention`], [`Mlp`], [`RmsNorm`], [`Projection`]: the modules;
//!   [`Residual`], what goes from block to block.
//! - [`Checkpoint`]: model files on disk, as Hugging Face, bitsandbytes and llama.cpp write them, with
//!   tokenizer, special tokens and chat template.
//! - [`LoadOptions`], [`Weights`] and [`ComputeDtype`]: how [`Decoder::load`] brings a checkpoint to a device.
//! - `memory`: what a training run takes in memory, from the model's dimensions alone (feature `qlora`).
//! - [`SamplingConfig`], [`Generation`], [`KvCache`]: continuing a prompt with [`Decoder::generate`], several with
//!   [`Decoder::generate_batch`]; [`GenerationBatch`], prompts that come and go; [`SeenText`], what a prompt need not give
//!   the model again.
//! - [`write_bitsandbytes`]: a 4-bit checkpoint that transformers and bitsandbytes load; `write_native`: the same laid out to be
//!   read from while it is used; `write_hf`: one in 16 or 32 bits, of a `MergedCheckpoint`, into which an adapter is folded
//!   (feature `qlora`).
//! - [`DecoderError`]: everything that can go wrong.
//!
//! Dense by default; with the feature `qlora` the projections can stay in 4 bits and carry LoRA adapters
//! (`Decoder` then implements `burn_qlora::LoraModel` and `burn_qlora::CausalLm`, whose backward pass can run block by
//! block to save memory), and with `gguf` llama.cpp's files are read.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use burn_qlora_llama::{Checkpoint, Decoder, LoadOptions, SamplingConfig};
//! use std::ops::ControlFlow;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let checkpoint = Checkpoint::open("SmolLM2-135M-Instruct")?;
//! let tokenizer = checkpoint.tokenizer()?;
//! let model = Decoder::load(&checkpoint, &LoadOptions::default(), &Device::default())?;
//! let prompt = tokenizer.encode("The capital of France is", true)?;
//! let config = SamplingConfig::new().with_max_tokens(16);
//! let answer = model.generate(prompt.get_ids(), &config, 0, |_| ControlFlow::Continue(()))?;
//! println!("{}", tokenizer.decode(&answer.tokens, true)?);
//! # Ok(())
//! # }
//! ```

mod attention;
#[cfg(feature = "qlora")]
mod backward;
mod block;
mod cache;
mod checkpoint;
mod config;
#[cfg(feature = "qlora")]
mod continuations;
mod dtype;
mod error;
mod export;
mod family;
mod generate;
mod load;
#[cfg(feature = "qlora")]
mod lora;
#[cfg(feature = "qlora")]
pub mod memory;
mod mlp;
mod model;
mod norm;
#[cfg(feature = "qlora")]
mod paging;
mod projection;
mod residual;
pub mod rope;
mod sampling;
mod tensors;
#[cfg(feature = "qlora")]
mod token_rows;
#[cfg(feature = "gguf")]
mod tokenizer;

pub use attention::Attention;
pub use block::Block;
pub use cache::{KvCache, LayerCache};
pub use checkpoint::{Checkpoint, FloatType, SpecialToken, SpecialTokens};
pub use config::{Biases, DecoderConfig, LayerConfig, NormPlacement, QueryKeyNorm};
pub use dtype::{ComputeDtype, KvCacheDtype};
pub use error::DecoderError;
pub use export::write_bitsandbytes;
#[cfg(all(feature = "gguf", feature = "qlora"))]
pub use export::{GgufExport, GgufOptions, GgufType, write_gguf_adapter};
#[cfg(feature = "qlora")]
pub use export::{
    HfOptions, LOFTQ_ADAPTER, LoftqOptions, MergeBase, MergeReport, MergedCheckpoint,
    NativeOptions, unfinished_export, write_hf, write_loftq, write_native,
};
pub use family::Family;
pub use generate::{
    Finish, Generation, GenerationBatch, GenerationRequest, Guesses, SeenText, Start,
};
pub use load::{LoadOptions, Weights};
pub use mlp::Mlp;
pub use model::Decoder;
pub use norm::RmsNorm;
pub use projection::{LayerInput, Projection, Projections};
pub use residual::Residual;
pub use sampling::SamplingConfig;

/// Compiles and runs the example of the package's README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
