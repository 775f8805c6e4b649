//! `finetune train`: everything is checked, then the run goes, stops and goes on.

use std::cell::RefCell;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use burn_finetune::{
    Dataset, Event, FinetuneError, Outcome, RunDir, RunOptions, TrainConfig, Trainer,
    TrainerBuilder, memory,
};
use burn_qlora::{LoraConfig, attach_adapters, num_adapter_params, peft};
use burn_qlora_llama::Decoder;
use serde_json::{Map, Value, json};

use crate::interrupt::Interrupt;
use crate::log::StepLog;
use crate::opened_model::OpenedModel;
use crate::plan::Plan;
use crate::progress::{TrainDisplay, human_bytes};
use crate::run::{Adapter, Output, TrainRun};
use crate::training_data::TrainingData;

/// The optimizer's scratch space in the output directory.
const PAGE_FILE: &str = "optimizer.pages";

/// Trains adapters and saves them.
///
/// # Errors
/// Whatever is wrong with the model, the data, an adapter or the output directory, found before anything is written; a
/// device or a disk that fails on the way, with the checkpoints before it kept.
pub fn run(run: &TrainRun) -> Result<()> {
    let TrainRun {
        training, output, ..
    } = run;
    let opened = OpenedModel::open(&training.model)?;
    let mut data = TrainingData::read(run, &opened)?;
    let config = training.config(data.train.len())?;

    let program = memory::rss_bytes();
    let mut model = opened.load(&training.model.device.clone().autodiff())?;
    let lora = adapt(&mut model, &training.adapter, config.seed)?;
    let plan = Plan::new(
        training,
        &opened.planned()?,
        &lora,
        data.train.longest(),
        program,
    )?;
    let parameters = num_adapter_params(&model);
    let builder = TrainerBuilder::new(model, config)?.with_checkpointing(training.checkpointing)?;

    // Nothing is written before this line.
    let settings = settings(run, &opened, builder.config(), &lora, &data.train)?;
    let open = if output.resume {
        RunDir::resume
    } else {
        RunDir::create
    };
    let run_dir =
        open(&output.dir, &settings, lora, &training.model.name).map_err(|error| match error {
            // The library knows no flags.
            FinetuneError::OutputInUse { path } => anyhow!(
                "{} already holds a run; continue it with --resume or give another folder",
                path.display()
            ),
            other => other.into(),
        })?;
    data.keep(run, &opened);
    let optimizer = training
        .optimizer
        .placement
        .adamw(builder.config(), run_dir.path().join(PAGE_FILE));
    let mut trainer = builder.with_optimizer(optimizer).build()?;
    // A run that was stopped before its first checkpoint begins anew.
    let done = if run_dir.checkpoints()?.is_empty() {
        0
    } else {
        run_dir.restore(&mut trainer)?
    };
    println!(
        "{} {parameters} adapter parameters on {}: {} steps of {} rows{}",
        if output.resume {
            "Go on training"
        } else {
            "Train"
        },
        described(&data.train),
        trainer.config().steps,
        trainer.config().rows_per_step(),
        if done > 0 {
            format!(", {done} of them done")
        } else {
            String::new()
        },
    );
    println!(
        "Compute in {} on {}, checkpointing: {}, planned peak memory {}",
        training.model.compute_dtype,
        training.model.device_name,
        training.checkpointing,
        human_bytes(plan.peak())
    );
    let outcome = take_steps(output, &mut trainer, &data, &run_dir, done);
    if outcome.is_ok() {
        compare(&plan, run, trainer.peak_device_bytes());
    }
    // With it goes the page file.
    drop(trainer);
    if outcome.is_err() && run_dir.checkpoints().is_ok_and(|saved| saved.is_empty()) {
        remove_empty_run(run_dir.path());
    }
    outcome
}

/// Returns the number of rows, and of the examples in them where that is not one each.
fn described(data: &Dataset) -> String {
    match (data.examples(), data.len()) {
        (examples, rows) if examples > rows => format!("{examples} examples in {rows} rows"),
        (_, rows) => format!("{rows} rows"),
    }
}

/// Takes the remaining steps, and saves the adapter after the last one.
fn take_steps(
    output: &Output,
    trainer: &mut Trainer<Decoder>,
    data: &TrainingData,
    run_dir: &RunDir,
    done: usize,
) -> Result<()> {
    let resumed_at = output.resume.then_some(done);
    let mut log = output
        .log_json
        .as_ref()
        .map(|path| StepLog::open(path, resumed_at))
        .transpose()?;
    let interrupt = Interrupt::listen(
        "Stopping: this step is finished and saved first. Ctrl-C again quits at once.",
    )?;
    let steps = trainer.config().steps;
    let mut display = TrainDisplay::new(steps, done);
    // A log that cannot be written stops the run as Ctrl-C does, so that what was learnt is saved.
    let log_failed = RefCell::new(None);
    let stop = || interrupt.pressed() || log_failed.borrow().is_some();
    let options = RunOptions {
        eval: data.eval.as_ref(),
        eval_every: output.eval_every,
        run_dir: Some(run_dir),
        save_every: output.save_every,
        interrupted: Some(&stop),
    };
    let outcome = trainer.run(&data.train, &options, &mut |event| match event {
        Event::Step(report) => {
            display.step(report);
            if let Some(Err(error)) = log.as_mut().map(|log| log.append(report)) {
                log_failed.borrow_mut().get_or_insert(error);
            }
        }
        Event::Evaluated { step, report } => display.say(&format!(
            "step {step}: held-out loss {:.4}, perplexity {:.3}",
            report.nll, report.perplexity
        )),
        Event::Saved { step, path } if step < steps => {
            display.say(&format!("step {step}: saved {}", path.display()));
        }
        _ => {}
    });
    display.finish();
    if let Some(error) = log_failed.into_inner() {
        return Err(error);
    }
    match outcome? {
        Outcome::Finished => {
            run_dir.save_adapter(trainer.model())?;
            TrainingData::remove(run_dir.path());
            let paging = display.paging();
            if paging.bytes_moved > 0 {
                println!(
                    "The optimizer's state is {}, of which {} stayed resident and {} were moved a step",
                    human_bytes(paging.state_bytes),
                    human_bytes(paging.resident_bytes),
                    human_bytes(paging.bytes_moved),
                );
            }
            println!(
                "The adapter is in {} ({:.0} tokens/s)",
                run_dir.path().display(),
                display.tokens_per_second(),
            );
        }
        Outcome::Interrupted { step } => {
            println!("Stopped after step {step} of {steps}, saved");
            eprintln!("Go on with: {}", resume_command(std::env::args()));
        }
    }
    Ok(())
}

/// Prints the planned and the measured peak of memory.
fn compare(plan: &Plan, run: &TrainRun, of_the_device: Option<u64>) {
    let planned = human_bytes(plan.peak());
    if let Some(measured) = of_the_device {
        println!(
            "Peak memory: planned {planned} on {}, measured {} by the device",
            run.training.model.device_name,
            human_bytes(measured)
        );
    } else if let Some(measured) = memory::peak_rss_bytes() {
        println!(
            "Peak memory: planned {planned}, measured {}",
            human_bytes(measured)
        );
    }
}

/// Puts the adapters to start from on the model, and returns their configuration.
fn adapt(model: &mut Decoder, adapter: &Adapter, seed: u64) -> Result<LoraConfig> {
    match adapter {
        Adapter::Trained(dir) => Ok(peft::load(model, dir)?),
        Adapter::Fresh(config) => {
            attach_adapters(model, config, seed).context("--target")?;
            Ok(config.clone())
        }
    }
}

/// Returns all that decides what the run computes, by the names of the flags where there are any: it is written down
/// with the run and compared when the run is resumed.
fn settings(
    run: &TrainRun,
    opened: &OpenedModel,
    config: &TrainConfig,
    lora: &LoraConfig,
    data: &Dataset,
) -> Result<Map<String, Value>> {
    let mut settings = Map::new();
    for part in [serde_json::to_value(config)?, serde_json::to_value(lora)?] {
        if let Value::Object(part) = part {
            settings.extend(
                part.into_iter()
                    .map(|(key, value)| (key.replace('_', "-"), value)),
            );
        }
    }
    let training = &run.training;
    settings.extend(
        [
            ("model", json!(training.model.name)),
            ("weights", json!(format!("{:?}", opened.weights()))),
            (
                "compute-dtype",
                json!(training.model.compute_dtype.to_string()),
            ),
            ("data", run.data.setting()),
            // In hexadecimal, because JSON numbers hold fewer bits.
            (
                "data-fingerprint",
                json!(format!("{:016x}", data.fingerprint()?)),
            ),
            ("seq-len", json!(opened.seq_len(training.limits)?)),
            ("packing", json!(training.packing)),
            ("init-adapter", json!(training.adapter.dir())),
        ]
        .map(|(key, value)| (key.to_string(), value)),
    );
    if let Some(share) = run.eval_split {
        settings.insert("eval-split".into(), json!(share));
    }
    Ok(settings)
}

/// Removes what a run without a checkpoint has written, so that the same command can begin again.
fn remove_empty_run(path: &Path) {
    // The run has failed already; what cannot be removed changes nothing about that.
    TrainingData::remove(path);
    let _ = std::fs::remove_file(path.join("run.json"));
    let _ = std::fs::remove_dir(path.join("checkpoints"));
    let _ = std::fs::remove_dir(path);
}

/// Returns the command line that goes on with this run, to be pasted into a shell.
fn resume_command(arguments: impl Iterator<Item = String>) -> String {
    let mut words: Vec<String> = arguments.map(|word| quoted(&word)).collect();
    if !words.iter().any(|word| word == "--resume") {
        words.push("--resume".to_string());
    }
    words.join(" ")
}

/// A word as a POSIX shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_on_can_be_pasted() {
        let words = [
            "finetune",
            "train",
            "--data",
            "my notes.jsonl",
            "--output",
            "it's",
        ];
        assert_eq!(
            resume_command(words.iter().map(|word| word.to_string())),
            r"finetune train --data 'my notes.jsonl' --output 'it'\''s' --resume"
        );
        let again = ["finetune", "train", "--resume"].map(str::to_string);
        assert_eq!(resume_command(again.into_iter()), "finetune train --resume");
    }
}
