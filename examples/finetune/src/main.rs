//! Fine-tune a LLaMA in 4 bits from the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    finetune::main(std::env::args_os())
}
