//! Fine-tune a LLaMA in 4 bits from the command line: what the binary `finetune` is made of.
//!
//! - [`cli`]: every command and flag, with its default and its help.
//! - [`config`]: the command line with a TOML file under it.
//! - [`commands`]: [train](commands::train), [plan](commands::plan), [eval](commands::eval),
//!   [generate](commands::generate) and [quantize](commands::quantize).
//! - [`source`]: a model by path or from the Hugging Face Hub.
//! - [`session`]: an opened model with its tokenizer and chat template, and the weights loaded.
//! - [`exact_match`]: answers compared to the letter.
//! - [`model`]: [`LlamaLm`](model::LlamaLm), LLaMA as burn-finetune wants it.
//! - [`device`]: the device by name.
//! - [`plan`](mod@plan): what a run takes in memory.
//! - [`progress`]: the live display.
//! - [`log`]: the step log.
//! - [`interrupt`]: what Ctrl-C does.
//! - [`report`]: an error as one line.
//! - [`allocator`]: how freed memory is kept.
//! - [`records`]: the demo's data set, drawn from a seed.

pub mod allocator;
pub mod cli;
pub mod commands;
pub mod config;
pub mod device;
pub mod exact_match;
pub mod interrupt;
pub mod log;
pub mod model;
pub mod plan;
pub mod progress;
pub mod records;
pub mod report;
pub mod session;
pub mod source;
