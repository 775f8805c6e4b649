//! Every parser on damaged and hostile input: it gives a value or an error, never a panic, and takes no more memory than the input
//! explains.
//!
//! An input is a good file with mistakes made in it. Each target runs for a second;
//! `BOLERO_RANDOM_TEST_TIME_MS` and `BOLERO_RANDOM_ITERATIONS` set more (`scripts/fuzz.sh`).

mod adapter;
mod allocations;
mod checkpoint;
mod config;
mod data;
mod edits;
mod gguf;
mod pages;
mod safetensors;
mod target;
mod template;
mod tokenizer;
