//! The binary `finetune`: a LLaMA fine-tuned in 4 bits from the command line.
//!
//! A flag goes from `flags`, as typed, through `run`, where it is resolved, to the command that reads it.

/// The C library's allocator.
mod allocator;
/// The commands.
mod commands;
/// The command line with a TOML file under it.
mod config;
/// The device by name.
mod device;
/// Answers compared to the letter.
mod exact_match;
/// The command line as it is typed.
mod flags;
/// A data set by its name on the Hugging Face Hub.
mod hub_dataset;
/// Ctrl-C.
mod interrupt;
/// The shapes of well-known models.
mod known_models;
/// The step log.
mod log;
/// An opened model with its tokenizer and chat template.
mod opened_model;
/// The memory that a run takes.
mod plan;
/// The live display.
mod progress;
/// An error as one line.
mod report;
/// The command line resolved.
mod run;
/// Rows as they are shown.
mod shown_rows;
/// A model by path or from the Hugging Face Hub.
mod source;
/// The rows of a training run.
mod training_data;

use std::ffi::OsString;
use std::process::ExitCode;

pub use allocator::keep_freed_memory;

/// Runs the command line `arguments`, the first of which is the program's name. An error is printed as one line on
/// stderr, with exit code 2.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    keep_freed_memory();
    match config::parse(arguments).and_then(|cli| commands::run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", report::one_line(&error));
            ExitCode::from(2)
        }
    }
}
