//! The commands, one module each.

/// `finetune data`.
mod data;
/// `finetune eval`.
mod eval;
/// `finetune export`.
mod export;
/// `finetune generate`.
mod generate;
/// `finetune plan`.
mod plan;
/// `finetune quantize`.
mod quantize;
/// `finetune report`.
mod report;
/// `finetune serve`.
mod serve;
/// `finetune train`.
mod train;
/// `finetune verify`.
mod verify;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Error, anyhow};
use burn_finetune::FinetuneError;
use burn_qlora_llama::{ComputeDtype, DecoderError, unfinished_export};

use crate::flags::Command;
use crate::run::{
    DataRun, EvalRun, ExportRun, GenerateRun, PlanRun, QuantizeRun, ReportRun, ServeRun, TrainRun,
    VerifyRun,
};
use crate::together::Together;

/// Runs a command, and returns the exit code.
///
/// # Errors
/// Whatever the command refuses; nothing is half-written then.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Verify(flags) => return verify::run(&VerifyRun::resolve(flags)?),
        Command::Train(mut flags) => {
            let (together, ranks) = Together::join(&mut flags)?;
            together.end(TrainRun::resolve(*flags).and_then(|run| train::run(&run, ranks)))
        }
        Command::Plan(flags) => plan::run(&PlanRun::resolve(*flags)?),
        Command::Data(flags) => data::run(&DataRun::resolve(*flags)?),
        Command::Eval(flags) => eval::run(&EvalRun::resolve(*flags)?),
        Command::Generate(flags) => generate::run(&GenerateRun::resolve(flags)?),
        Command::Serve(flags) => serve::run(&ServeRun::resolve(flags)?),
        Command::Quantize(flags) => quantize::run(&QuantizeRun::resolve(flags)?),
        Command::Report(flags) => report::run(&ReportRun::resolve(flags)?),
        Command::Export(flags) => export::run(&ExportRun::resolve(*flags)?),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Says where what is complete of `output` is kept, if another call can go on from there.
fn interrupted(error: DecoderError, output: &Path) -> Error {
    match unfinished_export(output) {
        None => error.into(),
        Some(folder) => anyhow!(
            "{error}; what is complete is kept in {}: give the same command again to go on, or remove it",
            folder.display()
        ),
    }
}

/// Names the dtype that was computed in where it may be why a loss is no number.
fn with_dtype(error: Error, dtype: ComputeDtype) -> Error {
    let not_finite = matches!(
        error.downcast_ref(),
        Some(
            FinetuneError::NotFinite { .. }
                | FinetuneError::EvalNotFinite { .. }
                | FinetuneError::ReferenceNotFinite { .. }
        )
    );
    if not_finite && dtype == ComputeDtype::F16 {
        error.context(
            "f16 holds nothing above 65504; --compute-dtype bf16 or f32 has the range that this model may need",
        )
    } else {
        error
    }
}
