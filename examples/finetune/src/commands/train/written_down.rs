//! What a run writes down of itself before its first step.

use anyhow::Result;
use burn_finetune::{Dataset, GradientDtype, Moment, RunSettings, RunSource, TrainConfig, Trainer};
use burn_qlora::LoraConfig;
use burn_qlora_llama::Decoder;
use serde_json::json;

use super::start::Start;
use crate::flags::Init;
use crate::metrics::Session;
use crate::opened_model::OpenedModel;
use crate::plan::Plan;
use crate::run::{Model, TrainRun};
use crate::trained_on;
use crate::training_data::TrainingData;

/// Returns all that decides what the run computes: it is written down with the run and compared when the run is
/// resumed. The run is one of a single process.
///
/// # Errors
/// A file that cannot be read for its hash.
pub fn settings(
    run: &TrainRun,
    opened: &OpenedModel,
    config: &TrainConfig,
    lora: LoraConfig,
    data: &Dataset,
    start: &Start<'_>,
    started: Moment,
) -> Result<RunSettings> {
    let training = &run.training;
    let model = &training.model;
    let mut settings = RunSettings::new(config.clone(), lora, &model.name);
    settings.started = started;
    settings.sources = vec![
        RunSource {
            name: "model",
            path: Some(model.name.clone()),
            fingerprint: Some(opened.checkpoint.fingerprint()?),
        },
        RunSource {
            name: "data",
            path: Some(run.data.described()),
            fingerprint: Some(data.fingerprint()?),
        },
        start.source()?,
    ];
    let others = [
        (trained_on::SETTING, trained_on::written(opened.weights())),
        ("compute-dtype", json!(model.compute_dtype.to_string())),
        ("seq-len", json!(opened.encoder(training.limits)?.max_len)),
        ("packing", json!(training.packing)),
    ];
    for (key, value) in others {
        settings.others.insert(key.into(), value);
    }
    settings.companions = opened.tokenizer_files()?;
    if !training.tokens.added.is_empty() {
        let added = json!(training.tokens.added);
        settings.others.insert("add-tokens".into(), added);
    }
    if training.init == Init::Loftq {
        settings.others.insert("init".into(), json!("loftq"));
    }
    if let Some(share) = run.eval_split {
        settings.others.insert("eval-split".into(), json!(share));
    }
    if run.allreduce_dtype != GradientDtype::F32 {
        let dtype = json!(run.allreduce_dtype.name());
        settings.others.insert("allreduce-dtype".into(), dtype);
    }
    let machine = [
        ("device", json!(model.device_name.to_string())),
        ("instruction-set", json!(instruction_set(model)?)),
        ("ranks", json!(1)),
    ];
    let machine = machine.map(|(key, value)| (key.to_owned(), value));
    settings.machine.extend(machine);
    Ok(settings)
}

/// Returns the instruction set of the kernels that a model runs on, on Flex.
fn instruction_set(model: &Model) -> Result<Option<String>> {
    Ok(match model.device_name.is_flex() {
        true => Some(qlora_cpu::Isa::selected()?.name().to_owned()),
        false => None,
    })
}

/// Returns what decides the bits that a model computes: the kind of its device, and on Flex the kernels.
///
/// # Errors
/// An instruction set that the machine lacks.
pub fn machine(model: &Model) -> Result<String> {
    let kind = model.device_name.kind_name();
    let set = instruction_set(model)?;
    Ok(format!("{kind} {}", set.unwrap_or_default()))
}

/// Returns what the record of a run says of this process.
///
/// # Errors
/// Held-out rows that cannot be read for their hash, and an instruction set that the machine lacks.
pub fn session(
    run: &TrainRun,
    trainer: &Trainer<Decoder>,
    data: &TrainingData,
    plan: &Plan,
    parameters: usize,
) -> Result<Session> {
    let counts = data.train.counts();
    let held_out = data.eval.as_ref();
    let fingerprint = held_out.map(Dataset::fingerprint).transpose()?;
    Ok(Session {
        time: Moment::now().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        device: Some(run.training.model.device_name.to_string()),
        instruction_set: instruction_set(&run.training.model)?,
        ranks: Some(trainer.ranks().size()).filter(|ranks| *ranks > 1),
        steps: trainer.config().steps,
        parameters,
        rows: data.train.len(),
        examples: data.train.examples(),
        tokens: counts.tokens,
        targets: counts.targets,
        longest: data.train.longest(),
        left_out: counts.dropped.as_ref().map_or(0, |told| told.count),
        held_out_rows: held_out.map_or(0, Dataset::len),
        held_out_fingerprint: fingerprint.map(|fingerprint| format!("{fingerprint:016x}")),
        keep_best: run.output.keep_best,
        planned_bytes: plan.peak(),
        planned_of_process: plan.of_the_process(),
    })
}
