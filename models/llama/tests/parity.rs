//! The model against recorded outputs of transformers and bitsandbytes, and against damaged files.

#[path = "parity/fixtures.rs"]
mod fixtures;
#[path = "parity/transformers.rs"]
mod transformers;
