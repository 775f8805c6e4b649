//! `finetune train`: everything is checked, then the run goes, stops and goes on.

/// The course of a run.
mod course;
/// The course of a run on another rank than the first.
mod follow;
/// The ranks of a run.
mod ranks;
/// Where a run starts from.
mod start;
/// What a run writes down of itself.
mod written_down;

use anyhow::{Error, Result, anyhow};
use burn_finetune::{
    Dataset, FinetuneError, Ranks, RecordedRun, RunDir, RunRecord, TrainerBuilder, memory,
};
use burn_qlora::{LoraConfig, num_adapter_params, peft};

use super::with_dtype;
use crate::console::{say, tell};
use crate::interrupt::Interrupt;
use crate::opened_model::OpenedModel;
use crate::origin::Origin;
use crate::page;
use crate::plan::{Plan, PlannedRows};
use crate::progress::human_bytes;
use crate::recorder::Recorder;
use crate::references::{self, Question};
use crate::run::TrainRun;
use crate::samples::Samples;
use crate::shell::resume_command;
use crate::tensorboard;
use crate::trained_on;
use crate::training_data::TrainingData;
use course::Course;
use follow::follow;
use ranks::Adapters;
pub use start::{Start, Started};
pub use written_down::settings;
use written_down::{machine, session};

/// Trains adapters and saves them.
///
/// # Errors
/// Whatever is wrong with the model, the data, an adapter or the output directory, found before anything is written; a
/// device or a disk that fails on the way, with the checkpoints before it kept.
pub fn run(run: &TrainRun, ranks: Ranks) -> Result<()> {
    let TrainRun {
        training, output, ..
    } = run;
    let ranks = ranks.computing_on(&machine(&training.model)?)?;
    // A run that another process trains, or a folder that is taken, is refused before anything takes its time.
    let recorded = match (ranks.is_first(), output.resume) {
        (true, true) => Some(RecordedRun::open(&output.dir).map_err(in_flags)?),
        (true, false) => {
            RunDir::check_vacant(&output.dir).map_err(in_flags)?;
            if let Some(dir) = &output.tensorboard {
                tensorboard::check_vacant(dir)?;
            }
            None
        }
        (false, _) => None,
    };
    let record = recorded.as_ref().map(RecordedRun::record);
    let followed = match (ranks.is_first(), output.resume) {
        (false, true) => Some(RunRecord::read(&output.dir)?),
        _ => None,
    };
    let record = record.or(followed.as_ref());
    let started = record.map(RunRecord::started).transpose()?.flatten();
    let started = ranks::started(&ranks, started)?;
    let trained = match record {
        Some(run) => run.setting(trained_on::SETTING).and_then(trained_on::read),
        None => training.adapter.trained_on(),
    };
    let opened = OpenedModel::open(&training.model, trained, training.more_tokens())?;
    let opened = opened.with_now(started);
    opened.check_init(training.init)?;
    let encoder = opened.encoder(training.limits)?;
    let mut data = TrainingData::read(run, &opened, &encoder)?;
    let samples = match &output.sample_prompts {
        Some(prompts) => {
            let read = Samples::read(&prompts.file, prompts.max_tokens, &opened, &encoder);
            Some(read?)
        }
        None => None,
    };
    let config = training.config(data.train.len())?;
    references::tell_of_balance(training.objective(), data.train.counts());

    let program = memory::rss_bytes();
    let planned = opened.planned()?;
    let plan = |lora: &LoraConfig| -> Result<Plan> {
        let rows = PlannedRows::of(&data.train, &config)?;
        let plan = Plan::new(training, &planned, lora, rows, program)?;
        plan.check(memory::total_bytes())?;
        Ok(plan)
    };
    let start = Start::open(training, &opened)?;
    let plan = plan(&start.lora(opened.checkpoint.config())?)?;
    if let Start::Fresh(lora) = &start {
        opened.tell_of_tied_head(lora)?;
    }
    let goes_on = ranks.first(match &recorded {
        Some(recorded) => recorded.has_checkpoint()?,
        None => false,
    })?;
    let Started {
        model,
        lora,
        fitted,
    } = start.load(training, &opened, goes_on, plan.workload.weights_budget)?;
    if let Some(fitted) = fitted {
        let [before, after] = fitted.relative_errors();
        say!(
            "LoftQ: the weights are {:.2} % off in 4 bits, {:.2} % with the adapters",
            100.0 * before,
            100.0 * after
        );
    }
    let parameters = num_adapter_params(&model);
    let adapters = Adapters::of(&model, &ranks)?;
    let builder = TrainerBuilder::new(model, config)?
        .with_checkpointing(training.checkpointing)?
        .with_ranks(ranks.clone());

    // Nothing is written before this line.
    let mut settings = settings(
        run,
        &opened,
        builder.config(),
        lora,
        &data.train,
        &start,
        started,
    )?;
    let count = serde_json::to_value(ranks.size())?;
    settings.machine.insert("ranks".into(), count);
    ranks::check(&ranks, &settings, data.eval.as_ref(), &adapters)?;
    ranks::tell_of_shares(&ranks, builder.config());
    let interrupt = Interrupt::listen(
        "Stopping: the step is finished and saved first, an evaluation is left out. Ctrl-C again quits at once.",
    )?;
    if !ranks.is_first() {
        let optimizer = training.optimizer.placement;
        let optimizer = optimizer.adamw(builder.config(), None);
        let trainer = builder.with_optimizer(optimizer).build()?;
        let question = Question {
            run,
            settings: &settings,
            max_len: encoder.max_len,
            interrupt: &interrupt,
        };
        return follow(&question, trainer, &mut data);
    }
    if recorded.is_none() {
        let origin = Origin::look(run, &opened, start.file())?;
        settings.origin = Some(serde_json::to_value(origin)?);
    }
    let run_dir = match recorded {
        Some(recorded) => {
            for change in recorded.record().changes(&settings) {
                tell!("warning: {change}");
            }
            let resumed = recorded.resume(&settings);
            if resumed.is_ok() {
                page::remove_unfinished(&output.dir)?;
            }
            resumed
        }
        None => RunDir::create(&output.dir, &settings),
    };
    let run_dir = run_dir.map_err(in_flags)?;
    if !run_dir.is_locked() {
        tell!(
            "warning: the file system of {} has no locks; let no other process train there",
            output.dir.display()
        );
    }
    // Dropped before the run, which goes if nothing was saved in it.
    let _kept = Kept(&run_dir);
    data.keep(run, &encoder);
    let optimizer = training
        .optimizer
        .placement
        .adamw(builder.config(), Some(run_dir.page_file()));
    let mut trainer = builder.with_optimizer(optimizer).build()?;
    // Before a checkpoint takes the place of the adapter that the run starts from.
    let question = Question {
        run,
        settings: &settings,
        max_len: encoder.max_len,
        interrupt: &interrupt,
    };
    let asked = question.ask(&trainer, &data.train, data.eval.as_ref());
    let asked = asked.map_err(|error| with_dtype(error, training.model.compute_dtype))?;
    ranks.first(asked.is_none())?;
    match asked {
        Some(references) => data.references = references,
        None => {
            run_dir.keep();
            say!(
                "Stopped before the first step: the reference has not seen all rows, and goes on where it was"
            );
            tell!("Go on with: {}", resume_command(std::env::args_os()));
            return Ok(());
        }
    }
    // A run that was stopped before its first checkpoint begins anew.
    let done = if run_dir.checkpoints()?.is_empty() {
        0
    } else {
        run_dir.restore(&mut trainer).map_err(in_flags)?
    };
    ranks::check_restored(&trainer)?;
    opened.tell_of_second_quantization();
    say!(
        "{} {parameters} adapter parameters on {}: {} steps of {} rows{}{}",
        if output.resume {
            "Go on training"
        } else {
            "Train"
        },
        described(&data.train),
        trainer.config().steps,
        trainer.config().rows_per_step(),
        if ranks.are_many() {
            format!(" on {} ranks", ranks.size())
        } else {
            String::new()
        },
        if done > 0 {
            format!(", {done} of them done")
        } else {
            String::new()
        },
    );
    say!(
        "Compute in {} on {}, checkpointing: {}, planned peak memory {}",
        training.model.compute_dtype,
        training.model.device_name,
        training.checkpointing,
        human_bytes(plan.peak())
    );
    let session = session(run, &trainer, &data, &plan, parameters)?;
    let course = Course {
        output,
        data: &data,
        samples: samples.as_ref(),
        run_dir: &run_dir,
        interrupt: &interrupt,
        session,
    };
    course
        .take_steps(&mut trainer, done)
        .map_err(|error| with_dtype(error, training.model.compute_dtype))?;
    compare(&plan, run, trainer.peak_device_bytes());
    Ok(())
}

/// Says by flags what the library, which knows none, says without.
fn in_flags(error: FinetuneError) -> Error {
    match error {
        FinetuneError::OutputInUse { path } => anyhow!(
            "{} already holds a run; continue it with --resume or give another folder",
            path.display()
        ),
        FinetuneError::LengthChanged {
            path,
            schedule,
            recorded,
            current,
        } => {
            let adapter = if path.join(peft::WEIGHTS_FILE).exists() {
                path.clone()
            } else {
                path.join("checkpoints").join("step-...")
            };
            anyhow!(
                "{} was started for {recorded} steps, but now it is {current}, and the learning rate of --schedule \
                 {schedule} depends on that: resume with --steps {recorded}, or start another run with --init-adapter {}",
                path.display(),
                adapter.display()
            )
        }
        FinetuneError::AlreadyFurther { path, done, steps } => anyhow!(
            "{} has done {done} steps already, and {steps} are asked for: give --steps {done} or more, or start another \
             run in another --output",
            path.display()
        ),
        other => other.into(),
    }
}

/// Returns the number of rows, and of the examples in them where that is not one each.
fn described(data: &Dataset) -> String {
    match (data.examples(), data.len()) {
        (examples, rows) if examples > rows => format!("{examples} examples in {rows} rows"),
        (_, rows) => format!("{rows} rows"),
    }
}

/// Prints the planned and the measured peak of memory.
fn compare(plan: &Plan, run: &TrainRun, of_the_device: Option<u64>) {
    let planned = human_bytes(plan.peak());
    if let Some(measured) = of_the_device {
        say!(
            "Peak memory: planned {planned} on {}, measured {} by the device",
            run.training.model.device_name,
            human_bytes(measured)
        );
    } else if let Some(measured) = memory::peak_rss_bytes() {
        say!(
            "Peak memory: planned {planned}, measured {}",
            human_bytes(measured)
        );
    }
}

/// Removes the kept rows, what the reference gives them, and the record of a run that goes because nothing was saved in it.
struct Kept<'a>(&'a RunDir);

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        if self.0.is_unsaved() {
            TrainingData::remove(self.0.path());
            references::remove(self.0.path());
            Recorder::remove(self.0.path());
        }
    }
}
