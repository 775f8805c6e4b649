//! The model against recorded outputs of transformers and bitsandbytes, and against damaged files.

#[cfg(feature = "qlora")]
#[path = "parity/bitsandbytes.rs"]
mod bitsandbytes;
#[path = "parity/compute_dtype.rs"]
mod compute_dtype;
#[path = "parity/fixtures.rs"]
mod fixtures;
#[cfg(feature = "gguf")]
#[path = "parity/gguf.rs"]
mod gguf;
#[cfg(feature = "gguf")]
#[path = "parity/gguf_file.rs"]
mod gguf_file;
#[path = "parity/hostile.rs"]
mod hostile;
#[cfg(feature = "qlora")]
#[path = "parity/memory.rs"]
mod memory;
#[path = "parity/transformers.rs"]
mod transformers;
