//! The model against recorded outputs of transformers and bitsandbytes, and against damaged files.

#[path = "llama/added_tokens.rs"]
mod added_tokens;
#[cfg(feature = "qlora")]
#[path = "llama/batches.rs"]
mod batches;
#[cfg(feature = "qlora")]
#[path = "llama/bitsandbytes.rs"]
mod bitsandbytes;
#[path = "llama/compute_dtype.rs"]
mod compute_dtype;
#[path = "llama/config_refusals.rs"]
mod config_refusals;
#[cfg(feature = "qlora")]
#[path = "llama/export.rs"]
mod export;
#[cfg(feature = "qlora")]
#[path = "llama/families.rs"]
mod families;
#[path = "llama/family_configs.rs"]
mod family_configs;
#[cfg(feature = "gguf")]
#[path = "llama/family_tokenizers.rs"]
mod family_tokenizers;
#[path = "llama/fixtures.rs"]
mod fixtures;
#[cfg(feature = "gguf")]
#[path = "llama/gemma3.rs"]
mod gemma3;
#[cfg(feature = "gguf")]
#[path = "llama/gguf.rs"]
mod gguf;
#[cfg(all(feature = "gguf", feature = "qlora"))]
#[path = "llama/gguf_export.rs"]
mod gguf_export;
#[cfg(feature = "gguf")]
#[path = "llama/gguf_families.rs"]
mod gguf_families;
#[cfg(feature = "gguf")]
#[path = "llama/gguf_file.rs"]
mod gguf_file;
#[cfg(feature = "gguf")]
#[path = "llama/gguf_vocabulary.rs"]
mod gguf_vocabulary;
#[path = "llama/hostile.rs"]
mod hostile;
#[cfg(feature = "qlora")]
#[path = "llama/memory.rs"]
mod memory;
#[cfg(feature = "qlora")]
#[path = "llama/native.rs"]
mod native;
#[path = "llama/places.rs"]
mod places;
#[cfg(feature = "gguf")]
#[path = "llama/smollm2.rs"]
mod smollm2;
#[path = "llama/tensor_table.rs"]
mod tensor_table;
#[path = "llama/transformers.rs"]
mod transformers;
