//! The binary `finetune`: a LLaMA fine-tuned in 4 bits from the command line.
//!
//! A flag goes from `flags`, as typed, through `run`, where it is resolved, to the command that reads it. Everything that is
//! printed goes through `console`.

#![deny(clippy::print_stdout, clippy::print_stderr)]

/// The C library's allocator.
mod allocator;
/// The model's own answers to the prompts of rows.
mod answers;
/// The commands.
mod commands;
/// The command line with a TOML file under it.
mod config;
/// Everything that is printed.
mod console;
/// The device by name.
mod device;
/// The command line as it is typed.
mod flags;
/// Fresh adapters as they are on a model.
mod fresh_adapters;
/// Repositories of the Hugging Face Hub.
#[cfg(feature = "hub")]
mod hub;
/// A data set by its name on the Hugging Face Hub.
mod hub_dataset;
/// Requests to stop.
mod interrupt;
/// The shapes of well-known models.
mod known_models;
/// Logs of a run.
mod log;
/// What a run's folder keeps of its course.
mod metrics;
/// An opened model with its tokenizer and chat template.
mod opened_model;
/// Where a run comes from.
mod origin;
/// A run on one page.
mod page;
/// The memory that a run takes.
mod plan;
/// The live display.
mod progress;
/// Everything that the course of a run is written to.
mod recorder;
/// What the reference gives the rows of a run.
mod references;
/// An error as one line.
mod report;
/// The command line resolved.
mod run;
/// What the model writes while it is trained.
mod samples;
/// Answers over HTTP.
mod serve;
/// Command lines to be pasted into a shell.
mod shell;
/// Rows as they are shown.
mod shown_rows;
/// A model by path or from the Hugging Face Hub.
mod source;
/// The least time that a step takes.
mod step_time;
/// Where an answer ends.
mod stop;
/// Whether a chat template shows the model a system prompt.
mod system_prompt;
/// Event files of TensorBoard.
mod tensorboard;
/// The processes that train a run together.
mod together;
/// The form of the weights that an adapter was trained on.
mod trained_on;
/// The rows of a training run.
mod training_data;
/// A text that the model writes token by token.
mod writing;

use std::ffi::OsString;
use std::process::ExitCode;

pub use allocator::keep_freed_memory;

use console::tell;

/// The exit code of a program that failed.
const EXIT_CODE: u8 = 2;

/// Runs the command line `arguments`, the first of which is the program's name. An error is printed as one line on
/// stderr, with exit code 2, which is also the code where what was to be printed could not be.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    keep_freed_memory();
    let run = |cli: flags::Cli| {
        // Kernels would end the program.
        qlora_cpu::Isa::selected()?;
        commands::run(cli.command)
    };
    let outcome = config::parse(arguments).and_then(run);
    match (outcome, console::failure()) {
        (Ok(code), None) => return code,
        (Ok(_), Some(failure)) if failure.is_closed_pipe() => {}
        (Ok(_), Some(failure)) => tell!("error: {failure}"),
        (Err(error), _) => tell!("error: {}", report::one_line(&error)),
    }
    ExitCode::from(EXIT_CODE)
}
