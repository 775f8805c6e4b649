//! Fine-tune a LLaMA in 4 bits from the command line.

use std::process::ExitCode;

use finetune::{allocator, commands, config, report};

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    match config::parse(std::env::args_os()).and_then(|cli| commands::run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", report::one_line(&error));
            ExitCode::from(2)
        }
    }
}
