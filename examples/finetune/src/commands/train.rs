//! `finetune train`: everything is checked, then the run goes, stops and goes on.

use std::cell::RefCell;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use burn_finetune::{
    Dataset, Event, FinetuneError, Outcome, RunDir, RunOptions, ScheduleKind, TrainConfig, Trainer,
    TrainerBuilder, memory,
};
use burn_qlora::{LoraConfig, attach_adapters, peft};
use burn_qlora_llama::ComputeDtype;
use serde_json::{Map, Value, json};

use crate::cli::{ScheduleName, TrainArgs};
use crate::interrupt::Interrupt;
use crate::log::StepLog;
use crate::model::LlamaLm;
use crate::plan::Plan;
use crate::progress::{TrainDisplay, human_bytes};
use crate::session::{RowLimits, Session};

/// The optimizer's scratch space in the output directory.
const PAGE_FILE: &str = "optimizer.pages";

/// Trains adapters and saves them.
///
/// # Errors
/// Whatever is wrong with the flags, the model, the data, an adapter or the output directory, found
/// before anything is written; a device or a disk that fails on the way, with the checkpoints before
/// it kept.
pub fn run(args: &TrainArgs) -> Result<()> {
    let data_path = args
        .data
        .as_ref()
        .context("no data is given; name a file with --data")?;
    let output = args
        .output
        .as_ref()
        .context("no output is given; name one with --output")?;
    let device = args.model.open_device()?.autodiff();
    let session = Session::open(args.model.model.as_deref())?;
    let limits = RowLimits {
        seq_len: args.seq_len,
        truncate: args.truncate,
    };
    let data = session.training_data(data_path, limits, args.packing)?;
    let eval = args
        .eval_data
        .as_ref()
        .map(|path| session.dataset(path, limits))
        .transpose()?;
    let config = train_config(args, data.len());
    config.validate()?;
    let budget = args.budget()?;

    let program = memory::rss_bytes();
    let mut model = session.load(&args.model, &args.quant, &device)?;
    let lora = adapt(&mut model, args)?;
    let plan = Plan::new(args, &session, &lora, data.longest(), program)?;
    let parameters = model.adapter_parameters();
    let builder =
        TrainerBuilder::new(model, config)?.with_checkpointing(args.checkpointing.into())?;

    // Nothing is written before this line.
    let settings = settings(args, &session, builder.config(), &lora, &data)?;
    let base = args.model.model.clone().unwrap_or_default();
    let open = if args.resume {
        RunDir::resume
    } else {
        RunDir::create
    };
    let run_dir = open(output, &settings, lora, base).map_err(|error| match error {
        // The library knows no flags.
        FinetuneError::OutputInUse { path } => anyhow!(
            "{} already holds a run; continue it with --resume or give another folder",
            path.display()
        ),
        other => other.into(),
    })?;
    let optimizer = builder
        .config()
        .adamw()
        .with_budget(budget)
        .with_memory_limit(args.device_memory)
        .with_page_file(Some(run_dir.path().join(PAGE_FILE)));
    let mut trainer = builder.with_optimizer(optimizer).build()?;
    // A run that was stopped before its first checkpoint begins anew.
    let done = match run_dir.checkpoints()?.is_empty() {
        true => 0,
        false => run_dir.restore(&mut trainer)?,
    };
    println!(
        "{} {parameters} adapter parameters on {}: {} steps of {} rows{}",
        if args.resume {
            "Go on training"
        } else {
            "Train"
        },
        described(&data),
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
        ComputeDtype::from(args.model.compute_dtype),
        args.model.device,
        args.checkpointing,
        human_bytes(plan.peak())
    );
    let went = go(args, &mut trainer, &data, eval.as_ref(), &run_dir, done);
    if went.is_ok() {
        compare(&plan, args);
    }
    // With it goes the page file.
    drop(trainer);
    if went.is_err() && run_dir.checkpoints().is_ok_and(|saved| saved.is_empty()) {
        remove_empty_run(run_dir.path());
    }
    went
}

/// How many rows there are, and how many examples in them where that is not one each.
fn described(data: &Dataset) -> String {
    match (data.examples(), data.len()) {
        (examples, rows) if examples > rows => format!("{examples} examples in {rows} rows"),
        (_, rows) => format!("{rows} rows"),
    }
}

/// Takes the steps that are left, and saves the adapter when they are taken.
fn go(
    args: &TrainArgs,
    trainer: &mut Trainer<LlamaLm>,
    data: &Dataset,
    eval: Option<&Dataset>,
    run_dir: &RunDir,
    done: usize,
) -> Result<()> {
    let resumed_at = args.resume.then_some(done);
    let mut log = args
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
        eval,
        eval_every: (args.eval_every > 0).then_some(args.eval_every),
        run_dir: Some(run_dir),
        save_every: (args.save_every > 0).then_some(args.save_every),
        interrupted: Some(&stop),
    };
    let outcome = trainer.run(data, &options, &mut |event| match event {
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

/// Prints what was planned and what was measured.
fn compare(plan: &Plan, args: &TrainArgs) {
    let Some(measured) = memory::peak_rss_bytes() else {
        return;
    };
    let planned = human_bytes(plan.peak());
    let measured = human_bytes(measured);
    match plan.of_the_process() {
        true => println!("Peak memory: planned {planned}, measured {measured}"),
        false => println!(
            "Peak memory: planned {planned} on {}, measured {measured} in this process",
            args.model.device
        ),
    }
}

/// Puts fresh adapters on the model, or those of `--init-adapter`.
fn adapt(model: &mut LlamaLm, args: &TrainArgs) -> Result<LoraConfig> {
    if let Some(adapter) = &args.init_adapter {
        return Ok(peft::load(model, adapter)?);
    }
    let lora = args.lora();
    attach_adapters(model, &lora, args.seed).context("--target")?;
    Ok(lora)
}

fn train_config(args: &TrainArgs, rows: usize) -> TrainConfig {
    let mut config = TrainConfig {
        batch_size: args.batch_size,
        grad_accum: args.grad_accum,
        lr: args.lr,
        schedule: match args.schedule {
            ScheduleName::Constant => ScheduleKind::Constant,
            ScheduleName::Linear => ScheduleKind::Linear,
            ScheduleName::Cosine => ScheduleKind::Cosine,
        },
        warmup_steps: args.warmup_steps,
        optimizer: args.optimizer_kind(),
        weight_decay: args.weight_decay,
        max_grad_norm: args.max_grad_norm,
        seed: args.seed,
        shuffle: !args.no_shuffle,
        ..TrainConfig::default()
    };
    config.steps = args.steps.unwrap_or_else(|| {
        let per_epoch = config.steps_of_epochs(rows, 1) as f64;
        (per_epoch * args.epochs.unwrap_or(1.0)).ceil() as usize
    });
    config
}

/// All that decides what the run computes, by the names of the flags where there are any: written
/// down with the run and compared when it is resumed.
fn settings(
    args: &TrainArgs,
    session: &Session,
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
    let limits = RowLimits {
        seq_len: args.seq_len,
        truncate: args.truncate,
    };
    settings.extend([
        ("model".to_string(), json!(args.model.model)),
        (
            "weights".to_string(),
            json!(format!("{:?}", session.weights(&args.quant)?)),
        ),
        (
            "compute-dtype".to_string(),
            json!(ComputeDtype::from(args.model.compute_dtype).to_string()),
        ),
        ("data".to_string(), json!(args.data)),
        // In hexadecimal, because JSON numbers hold fewer bits.
        (
            "data-fingerprint".to_string(),
            json!(format!("{:016x}", data.fingerprint())),
        ),
        ("seq-len".to_string(), json!(session.seq_len(limits)?)),
        ("packing".to_string(), json!(args.packing)),
        ("init-adapter".to_string(), json!(args.init_adapter)),
    ]);
    Ok(settings)
}

/// Takes away what a run without a checkpoint has written, so that the same command can begin again.
fn remove_empty_run(path: &Path) {
    // The run has failed already; what cannot be removed changes nothing about that.
    let _ = std::fs::remove_file(path.join("run.json"));
    let _ = std::fs::remove_dir(path.join("checkpoints"));
    let _ = std::fs::remove_dir(path);
}

/// The command line that goes on with this run, to be pasted into a shell.
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
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
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
