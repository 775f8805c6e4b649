//! Models written for other programs, a tensor at a time.
//!
//! - `merged`: a checkpoint with an adapter folded in, read tensor by tensor (feature `qlora`). Every format that takes adapters
//!   is written from it.
//! - `hf`: a Hugging Face directory in 16 or 32 bits.
//! - `gguf`: a file of llama.cpp (feature `gguf`).
//! - `bitsandbytes`: one in 4 bits.
//! - `native`: one in 4 bits to read from while it is used (feature `qlora`).
//! - `loftq`: the same with an adapter that makes up for what it lost (feature `qlora`).
//! - `shards`: weights spread over several files.
//! - `companions`: the files beside the weights.
//! - `encoding`: values before they are encoded.

mod bitsandbytes;
mod companions;
#[cfg(feature = "qlora")]
mod encoding;
#[cfg(all(feature = "gguf", feature = "qlora"))]
mod gguf;
#[cfg(feature = "qlora")]
mod hf;
#[cfg(feature = "qlora")]
mod loftq;
#[cfg(feature = "qlora")]
mod merged;
#[cfg(feature = "qlora")]
mod native;
#[cfg(feature = "qlora")]
mod shards;

pub use bitsandbytes::write_bitsandbytes;
#[cfg(all(feature = "gguf", feature = "qlora"))]
pub use gguf::{GgufExport, GgufOptions, GgufType, write_gguf_adapter};
#[cfg(feature = "qlora")]
pub use hf::{HfOptions, unfinished_export, write_hf};
#[cfg(feature = "qlora")]
pub use loftq::{LOFTQ_ADAPTER, LoftqOptions, write_loftq};
#[cfg(feature = "qlora")]
pub use merged::{MergeBase, MergeReport, MergedCheckpoint};
#[cfg(feature = "qlora")]
pub use native::{NativeOptions, write_native};
