//! `finetune train`: everything is checked, then the run goes, stops and goes on.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Error, Result, anyhow};
use burn_finetune::{
    Dataset, Evaluated, Event, FinetuneError, Moment, Outcome, RecordedRun, RunDir, RunOptions,
    RunSettings, RunSource, TrainConfig, Trainer, TrainerBuilder, memory,
};
use burn_qlora::{LoraConfig, attach_adapters, num_adapter_params, peft};
use burn_qlora_llama::{Checkpoint, Decoder};
use serde_json::json;

use super::with_dtype;
use crate::console::{say, tell};
use crate::flags::Init;
use crate::interrupt::Interrupt;
use crate::metrics::Session;
use crate::opened_model::{OpenedModel, open_adapter};
use crate::page;
use crate::plan::{Plan, PlannedRows};
use crate::progress::{self, TrainDisplay, human_bytes};
use crate::recorder::Recorder;
use crate::references::{self, Question};
use crate::report::{one_line, words};
use crate::run::{Adapter, Output, TrainRun};
use crate::samples::{SampleReport, Samples};
use crate::shell::resume_command;
use crate::tensorboard;
use crate::trained_on;
use crate::training_data::TrainingData;

/// Trains adapters and saves them.
///
/// # Errors
/// Whatever is wrong with the model, the data, an adapter or the output directory, found before anything is written; a
/// device or a disk that fails on the way, with the checkpoints before it kept.
pub fn run(run: &TrainRun) -> Result<()> {
    let TrainRun {
        training, output, ..
    } = run;
    // A run that another process trains, or a folder that is taken, is refused before anything takes its time.
    let recorded = if output.resume {
        Some(RecordedRun::open(&output.dir).map_err(in_flags)?)
    } else {
        RunDir::check_vacant(&output.dir).map_err(in_flags)?;
        if let Some(dir) = &output.tensorboard {
            tensorboard::check_vacant(dir)?;
        }
        None
    };
    let started = recorded.as_ref().map(RecordedRun::started).transpose()?;
    let started = started.flatten().unwrap_or_else(Moment::now);
    let trained = match &recorded {
        Some(run) => run.setting(trained_on::SETTING).and_then(trained_on::read),
        None => training.adapter.trained_on(),
    };
    let opened = OpenedModel::open(&training.model, trained)?.with_now(started);
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
        let rows = PlannedRows::of(&data.train)?;
        let plan = Plan::new(training, &planned, lora, rows, program)?;
        plan.check(memory::total_bytes())?;
        Ok(plan)
    };
    // Those of a file are as large as the file; fresh ones may be larger than any memory.
    if let Adapter::Fresh(lora) = &training.adapter {
        plan(lora)?;
    }
    let start = Start::open(&training.adapter, &opened.checkpoint)?;
    let mut model = opened.load(&training.model.device.clone().autodiff())?;
    let lora = start.put_on(&mut model, config.seed)?;
    let plan = plan(&lora)?;
    let goes_on = match &recorded {
        Some(recorded) => recorded.has_checkpoint()?,
        None => false,
    };
    // The factors of a run that goes on are those of its checkpoint.
    if training.init == Init::Loftq && !goes_on {
        let [before, after] = opened
            .fit_adapters(&mut model, config.seed)?
            .relative_errors();
        say!(
            "LoftQ: the weights are {:.2} % off in 4 bits, {:.2} % with the adapters",
            100.0 * before,
            100.0 * after
        );
    }
    let parameters = num_adapter_params(&model);
    let builder = TrainerBuilder::new(model, config)?.with_checkpointing(training.checkpointing)?;

    // Nothing is written before this line.
    let settings = settings(
        run,
        &opened,
        builder.config(),
        lora,
        &data.train,
        &start,
        started,
    )?;
    let run_dir = match recorded {
        Some(recorded) => {
            for change in recorded.changes(&settings) {
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
        .adamw(builder.config(), run_dir.page_file());
    let mut trainer = builder.with_optimizer(optimizer).build()?;
    let interrupt = Interrupt::listen(
        "Stopping: the step is finished and saved first, an evaluation is left out. Ctrl-C again quits at once.",
    )?;
    // Before a checkpoint takes the place of the adapter that the run starts from.
    let question = Question {
        run,
        settings: &settings,
        max_len: encoder.max_len,
        interrupt: &interrupt,
    };
    let asked = question.ask(&trainer, &data.train, data.eval.as_ref());
    match asked.map_err(|error| with_dtype(error, training.model.compute_dtype))? {
        Some(references) => data.references = references,
        None => {
            say!(
                "Stopped before the first step: the reference has not seen all rows, and is asked anew"
            );
            return Ok(());
        }
    }
    // A run that was stopped before its first checkpoint begins anew.
    let done = if run_dir.checkpoints()?.is_empty() {
        0
    } else {
        run_dir.restore(&mut trainer).map_err(in_flags)?
    };
    opened.tell_of_second_quantization();
    say!(
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
    say!(
        "Compute in {} on {}, checkpointing: {}, planned peak memory {}",
        training.model.compute_dtype,
        training.model.device_name,
        training.checkpointing,
        human_bytes(plan.peak())
    );
    let session = session(output, &trainer, &data, &plan, parameters)?;
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

/// Returns what the record of a run says of this process.
fn session(
    output: &Output,
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
        keep_best: output.keep_best,
        planned_bytes: plan.peak(),
        planned_of_process: plan.of_the_process(),
    })
}

/// The course of a run.
struct Course<'a> {
    output: &'a Output,
    data: &'a TrainingData,
    samples: Option<&'a Samples<'a>>,
    run_dir: &'a RunDir,
    interrupt: &'a Interrupt,
    session: Session,
}

impl Course<'_> {
    /// Takes the remaining steps, and saves the adapter after the last one.
    fn take_steps(self, trainer: &mut Trainer<Decoder>, done: usize) -> Result<()> {
        let Self {
            output,
            data,
            samples,
            run_dir,
            interrupt,
            session,
        } = self;
        let is_evaluated = match &data.eval {
            Some(rows) => run_dir.evaluations(rows, done)?.has(done),
            None => true,
        };
        let recorder = Recorder::open(output, run_dir, session, done, is_evaluated)?;
        let recorder = RefCell::new(recorder);
        let steps = trainer.config().steps;
        let display = RefCell::new(TrainDisplay::new(steps, done));
        // What cannot be recorded stops the run as Ctrl-C does, so that what was learnt is saved.
        let failed = RefCell::new(None);
        let keep = |result: Result<()>| {
            if let Err(error) = result {
                failed.borrow_mut().get_or_insert(error);
            }
        };
        let stop = || interrupt.requested() || failed.borrow().is_some();
        let look = |model: &Decoder, step: usize| {
            let Some(samples) = samples.filter(|_| !recorder.borrow().has_samples(step)) else {
                return ControlFlow::Continue(());
            };
            match samples.write(model, step, &stop) {
                Ok(Some(report)) => {
                    display.borrow().say(&told(&report));
                    keep(recorder.borrow_mut().samples(&report));
                }
                Ok(None) => {
                    display.borrow().say(&format!(
                        "step {step}: stopped before its samples were written"
                    ));
                    return ControlFlow::Break(());
                }
                Err(error) => keep(Err(error.context(format!(
                    "--sample-prompts, after step {step}; without it the run goes on"
                )))),
            }
            if failed.borrow().is_some() {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        let options = RunOptions {
            eval: data.eval.as_ref(),
            references: data.references.train.as_ref(),
            eval_references: data.references.eval.as_ref(),
            eval_every: output.eval_every,
            run_dir: Some(run_dir),
            save_every: output.save_every,
            kept_checkpoints: output.save_total,
            keep_best: output.keep_best,
            early_stop: output.early_stop,
            look: Some(&look),
            interrupted: Some(&stop),
        };
        let outcome = trainer.run(&data.train, &options, &mut |event| match event {
            Event::Step(report) => {
                display.borrow_mut().step(report);
                keep(recorder.borrow_mut().step(report));
            }
            Event::Evaluated {
                step,
                report,
                seconds,
            } => {
                display.borrow().say(&format!(
                    "step {step}: held-out loss {}, in {seconds:.1} s",
                    evaluated(&report)
                ));
                keep(recorder.borrow_mut().evaluation(step, report, seconds));
            }
            Event::EvaluationLeftOut { step } if step < steps => display.borrow().say(&format!(
                "step {step}: stopped before its evaluation was done; --resume makes it first"
            )),
            Event::Saved { step, path } if step < steps => {
                display
                    .borrow()
                    .say(&format!("step {step}: saved {}", path.display()));
            }
            _ => {}
        });
        if let Some(error) = failed.borrow_mut().take() {
            display.borrow().finish();
            return Err(error);
        }
        let display = display.borrow();
        display.finish();
        let outcome = outcome?;
        match outcome {
            Outcome::Finished | Outcome::StoppedEarly { .. } => {
                if let Outcome::StoppedEarly { step } = outcome {
                    say!(
                        "Stopped after step {step} of {steps}: the held-out loss has not fallen for {} evaluations",
                        output.early_stop.unwrap_or_default()
                    );
                }
                save_last_or_best(output, trainer, data, run_dir)?;
                TrainingData::remove(run_dir.path());
                match page::write(run_dir.path(), None) {
                    Ok(path) => say!("The report is in {}", path.display()),
                    Err(error) => tell!("warning: there is no report: {}", one_line(&error)),
                }
                let paging = display.paging();
                if paging.bytes_moved > 0 {
                    say!(
                        "The optimizer's state is {}, of which {} stayed resident and {} were moved a step",
                        human_bytes(paging.state_bytes),
                        human_bytes(paging.resident_bytes),
                        human_bytes(paging.bytes_moved),
                    );
                }
                say!(
                    "The adapter is in {} ({:.0} tokens/s)",
                    run_dir.path().display(),
                    display.tokens_per_second(),
                );
            }
            // What was left is the evaluation.
            Outcome::Interrupted { step } if step == steps => {
                save_last_or_best(output, trainer, data, run_dir)?;
                say!(
                    "Stopped in the evaluation after the last step; the adapter is in {}",
                    run_dir.path().display()
                );
            }
            Outcome::Interrupted { step } => {
                say!("Stopped after step {step} of {steps}, saved");
                tell!("Go on with: {}", resume_command(std::env::args_os()));
            }
        }
        Ok(())
    }
}

/// Returns what a terminal shows of an evaluation.
fn evaluated(report: &Evaluated) -> String {
    match report {
        Evaluated::Texts(report) => {
            format!("{:.4}, perplexity {:.3}", report.nll, report.perplexity)
        }
        Evaluated::Preferences(report) => {
            let rewards = progress::rewards(&report.preferences);
            format!("{:.4}{rewards}", report.loss)
        }
    }
}

/// Returns what a terminal shows of samples.
fn told(report: &SampleReport) -> String {
    let count = report.samples.len();
    let memory = report.device_bytes.or(report.peak_rss_bytes);
    let memory = memory.map_or(String::new(), |bytes| {
        format!(", peak memory {}", human_bytes(bytes))
    });
    let first = report
        .samples
        .first()
        .map_or(String::new(), |sample| words(&sample.text));
    format!(
        "step {}: {count} sample{} in {:.1} s{memory}; the first: {first}",
        report.step,
        if count == 1 { "" } else { "s" },
        report.seconds
    )
}

/// Saves the adapter that the run has come to: that of the last step, or of the best.
fn save_last_or_best(
    output: &Output,
    trainer: &Trainer<Decoder>,
    data: &TrainingData,
    run_dir: &RunDir,
) -> Result<()> {
    let step = trainer.steps_done();
    let best = match &data.eval {
        Some(rows) if output.keep_best => run_dir.evaluations(rows, step)?.best(),
        _ => None,
    };
    match best {
        Some(best) if best.step < step => {
            run_dir.save_adapter_of(best.step)?;
            say!(
                "The adapter is that of step {}, whose held-out loss, {:.4}, is the lowest",
                best.step,
                best.nll
            );
        }
        _ => run_dir.save_adapter(trainer.model())?,
    }
    Ok(())
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

/// The adapters that a run starts from.
enum Start<'a> {
    Fresh(&'a LoraConfig),
    Given {
        path: &'a Path,
        adapter: Box<peft::Adapter>,
    },
}

impl<'a> Start<'a> {
    fn open(adapter: &'a Adapter, model: &Checkpoint) -> Result<Self> {
        Ok(match adapter {
            Adapter::Fresh(config) => Self::Fresh(config),
            Adapter::Trained(path) => Self::Given {
                path,
                adapter: Box::new(open_adapter(path, model)?),
            },
        })
    }

    /// Puts them on the model, and returns their configuration.
    fn put_on(&self, model: &mut Decoder, seed: u64) -> Result<LoraConfig> {
        match self {
            Self::Fresh(config) => {
                attach_adapters(model, config, seed).context("--target")?;
                Ok((*config).clone())
            }
            Self::Given { adapter, .. } => Ok(adapter.attach(model)?),
        }
    }

    /// Returns what a run writes down of them.
    fn source(&self) -> Result<RunSource> {
        const NAME: &str = "init-adapter";
        Ok(match self {
            Self::Fresh(_) => RunSource::none(NAME),
            Self::Given { path, adapter } => {
                RunSource::of_file(NAME, path, adapter.weights_path())?
            }
        })
    }
}

/// Returns all that decides what the run computes: it is written down with the run and compared when the run is
/// resumed.
fn settings(
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
    if training.init == Init::Loftq {
        settings.others.insert("init".into(), json!("loftq"));
    }
    if let Some(share) = run.eval_split {
        settings.others.insert("eval-split".into(), json!(share));
    }
    let device = model.device_name.to_string();
    settings.machine.insert("device".into(), device.into());
    let isa = match model.device_name.is_flex() {
        true => Some(qlora_cpu::Isa::selected()?.name()),
        false => None,
    };
    settings
        .machine
        .insert("instruction-set".into(), isa.into());
    Ok(settings)
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
