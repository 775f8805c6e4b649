//! The commands, one module each.

/// `finetune data`.
mod data;
/// `finetune eval`.
mod eval;
/// `finetune generate`.
mod generate;
/// `finetune plan`.
mod plan;
/// `finetune quantize`.
mod quantize;
/// `finetune train`.
mod train;

use crate::flags::Command;
use crate::run::{DataRun, EvalRun, GenerateRun, PlanRun, QuantizeRun, TrainRun};

/// Runs a command.
///
/// # Errors
/// Whatever the command refuses; nothing is half-written then.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Train(flags) => train::run(&TrainRun::resolve(*flags)?),
        Command::Plan(flags) => plan::run(&PlanRun::resolve(*flags)?),
        Command::Data(flags) => data::run(&DataRun::resolve(*flags)?),
        Command::Eval(flags) => eval::run(&EvalRun::resolve(flags)?),
        Command::Generate(flags) => generate::run(&GenerateRun::resolve(flags)?),
        Command::Quantize(flags) => quantize::run(&QuantizeRun::resolve(flags)?),
    }
}
