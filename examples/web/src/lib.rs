//! QLoRA in a browser: a model's GGUF file is brought to 4 bits as it is read, adapters are trained on a text, one step a call,
//! and come back as the two files of a peft adapter. The page in `page/` calls this from a worker.
//!
//! It computes on Flex, Burn's backend in pure Rust, for which the browser needs no GPU and no flag, or with the feature `wgpu`
//! on WebGPU. What is computed there can be awaited and not waited for, so all that reads a result is asynchronous.

/// All this as JavaScript sees it.
#[cfg(target_family = "wasm")]
mod bindings;
/// What JavaScript's console is told.
#[cfg(target_family = "wasm")]
mod console;
mod error;
mod processor;
mod session;

pub use error::SessionError;
pub use processor::Processor;
pub use session::Session;
