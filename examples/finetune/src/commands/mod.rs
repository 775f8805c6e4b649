//! One module a command.

pub mod eval;
pub mod generate;
pub mod plan;
pub mod quantize;
pub mod train;

use crate::cli::Command;

/// Does what the command line says.
///
/// # Errors
/// Whatever the command refuses; nothing is half-written then.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Train(args) => train::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Quantize(args) => quantize::run(&args),
    }
}
