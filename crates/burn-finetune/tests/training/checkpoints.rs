//! Stopping and going on.

use crate::support::{CONTEXT, Toy, config, lora, rows, trainer};
use burn::tensor::Device;
use burn_finetune::{
    Dataset, Event, FinetuneError, OptimizerKind, Outcome, RecordedRun, Row, RunDir, RunOptions,
    RunSettings, TrainConfig, Trainer,
};
use burn_qlora::{CausalLm, LoraModel};
use serde_json::{Value, json};
use std::cell::Cell;
use std::fs;
use std::path::Path;

const DROPOUT: f64 = 0.2;

fn settings() -> RunSettings {
    RunSettings::new(config(13), lora(DROPOUT), "toy")
}

fn create(path: &Path) -> RunDir {
    RunDir::create(path, &settings()).unwrap()
}

fn resume(path: &Path) -> RunDir {
    let recorded = RecordedRun::open(path).unwrap();
    recorded.resume(&settings()).unwrap()
}

/// The events of a run until its end, with `evaluated` and `saved` steps, and the way it ended.
struct Told {
    events: Vec<String>,
    outcome: Result<Outcome, FinetuneError>,
}

/// Runs with evaluations, and is interrupted at the `stop`-th time that it asks.
fn tell(trainer: &mut Trainer<Toy>, eval: &Dataset, run_dir: &RunDir, stop: usize) -> Told {
    let asked = Cell::new(0);
    let interrupted = || {
        asked.set(asked.get() + 1);
        asked.get() > stop
    };
    let options = RunOptions {
        run_dir: Some(run_dir),
        eval: Some(eval),
        eval_every: Some(2),
        interrupted: Some(&interrupted),
        ..RunOptions::default()
    };
    let mut events = Vec::new();
    let outcome = trainer.run(&rows(10), &options, &mut |event| {
        events.push(match event {
            Event::Step(report) => format!("step {}", report.step),
            Event::Saved { step, .. } => format!("saved {step}"),
            Event::Evaluated { step, .. } => format!("evaluated {step}"),
            Event::EvaluationLeftOut { step } => format!("left out {step}"),
            _ => "other".into(),
        });
    });
    Told { events, outcome }
}

/// Losses of the steps until the end, or until `stop` steps are done.
fn run(
    trainer: &mut Trainer<Toy>,
    run_dir: &RunDir,
    stop: Option<usize>,
) -> (Outcome, Vec<f64>, Vec<usize>) {
    let done = Cell::new(0);
    let mut losses = Vec::new();
    let mut saved = Vec::new();
    let interrupted = || stop == Some(done.get());
    let options = RunOptions {
        run_dir: Some(run_dir),
        save_every: Some(4),
        interrupted: Some(&interrupted),
        ..RunOptions::default()
    };
    let outcome = trainer
        .run(&rows(10), &options, &mut |event| match event {
            Event::Step(report) => {
                done.set(report.step);
                losses.push(report.loss);
            }
            Event::Saved { step, path } => {
                assert!(path.is_dir());
                saved.push(step);
            }
            _ => (),
        })
        .unwrap();
    (outcome, losses, saved)
}

pub fn stopped_and_resumed_is_not_stopped(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let mut whole = trainer(device, DROPOUT, 13);
    let (outcome, expected, saved) = run(&mut whole, &create(&dir.path().join("whole")), None);
    assert_eq!(outcome, Outcome::Finished);
    assert_eq!(saved, [4, 8, 12, 13]);

    let path = dir.path().join("stopped");
    let mut first = trainer(device, DROPOUT, 13);
    let (outcome, mut losses, saved) = run(&mut first, &create(&path), Some(7));
    assert_eq!(outcome, Outcome::Interrupted { step: 7 });
    assert_eq!(saved, [4, 7]);
    drop(first);
    let run_dir = resume(&path);
    let mut second = trainer(device, DROPOUT, 13);
    assert_eq!(run_dir.restore(&mut second).unwrap(), 7);
    losses.extend(run(&mut second, &run_dir, None).1);
    assert_eq!(losses, expected);
    assert_eq!(second.model().factors(), whole.model().factors());

    run_dir.save_adapter(second.model()).unwrap();
    let mut loaded = Toy::new(device, 0.0);
    burn_qlora::peft::load(&mut loaded, &path).unwrap();
    assert_eq!(loaded.factors(), whole.model().factors());
    // A finished run has nothing left to do.
    assert_eq!(run(&mut second, &run_dir, None).1, Vec::<f64>::new());
}

pub fn every_optimizer_goes_on_from_its_state(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    for optimizer in [
        OptimizerKind::Lion,
        OptimizerKind::Muon,
        OptimizerKind::Adafactor,
    ] {
        let with = |optimizer| {
            let config = TrainConfig {
                optimizer,
                lora_plus_ratio: 4.0,
                lr: 2e-3,
                ..config(6)
            };
            Trainer::new(Toy::new(device, DROPOUT), config).unwrap()
        };
        let folder = dir.path().join(optimizer.to_string());
        let mut whole = with(optimizer);
        let (_, losses, _) = run(&mut whole, &create(&folder.join("whole")), None);
        // Each epoch takes two steps.
        let [first, last] = [0, 4].map(|step| losses[step] + losses[step + 1]);
        assert!(last < first, "{optimizer}: {losses:?}");
        let path = folder.join("stopped");
        let mut first = with(optimizer);
        let run_dir = create(&path);
        run(&mut first, &run_dir, Some(3));
        drop(run_dir);
        let run_dir = resume(&path);
        let mut second = with(optimizer);
        assert_eq!(run_dir.restore(&mut second).unwrap(), 3);
        run(&mut second, &run_dir, None);
        assert_eq!(
            second.model().factors(),
            whole.model().factors(),
            "{optimizer}"
        );

        // The state of one is not another's, and one that is damaged is not taken.
        let mut other = with(OptimizerKind::AdamW);
        let error = run_dir.restore(&mut other).unwrap_err().to_string();
        assert!(error.contains("optimizer.safetensors"), "{error}");
        let mut third = with(optimizer);
        let file = path.join("checkpoints/step-00000006/optimizer.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 0x40;
        fs::write(&file, bytes).unwrap();
        assert!(run_dir.restore(&mut third).is_err());
    }
}

pub fn a_folder_with_another_run_is_refused(_: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let error = RecordedRun::open(dir.path()).unwrap_err();
    assert!(
        matches!(error, FinetuneError::NothingToResume { .. }),
        "{error}"
    );
    fs::write(dir.path().join("notes.txt"), "").unwrap();
    let error = RunDir::create(dir.path(), &settings()).unwrap_err();
    assert!(
        matches!(error, FinetuneError::OutputInUse { .. }),
        "{error}"
    );
    let error = RunDir::create(dir.path().join("notes.txt"), &settings()).unwrap_err();
    assert!(matches!(error, FinetuneError::Write { .. }), "{error}");
}

pub fn a_run_is_one_process_own(_: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let run_dir = create(&path);
    assert!(run_dir.is_locked());
    let before = fs::read(path.join("run.json")).unwrap();
    for error in [
        RunDir::create(&path, &settings()).err().unwrap(),
        RecordedRun::open(&path).err().unwrap(),
    ] {
        assert!(matches!(error, FinetuneError::RunInUse { .. }), "{error}");
        assert!(error.to_string().contains("run is in use"), "{error}");
    }
    assert_eq!(fs::read(path.join("run.json")).unwrap(), before);
    // Nothing was saved in it, so it goes as it came.
    drop(run_dir);
    assert!(!path.exists());

    // A run that was there stays, and so does one in which something was saved.
    fs::create_dir(&path).unwrap();
    fs::write(path.join("run.json"), before).unwrap();
    drop(resume(&path));
    assert!(path.join("run.json").exists());
}

pub fn what_a_killed_process_left_goes(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    // Killed while it wrote the settings.
    fs::write(dir.path().join("run.json.Ab12cd.tmp"), "{").unwrap();
    let run_dir = create(dir.path());
    run(&mut trainer(device, DROPOUT, 13), &run_dir, Some(1));
    drop(run_dir);
    let kept = ["run.json", "checkpoints"];
    let own = [
        "adapter_model.safetensors.x1y2z3.tmp",
        "adapter_config.json.x1y2z3.tmp",
    ];
    let others = ["notes.tmp", "optimizer.pages"];
    for name in own.iter().chain(&others) {
        fs::write(dir.path().join(name), "half").unwrap();
    }
    let unfinished = dir.path().join("checkpoints/.unfinished-00000002");
    fs::create_dir(&unfinished).unwrap();
    fs::write(unfinished.join("state.json"), "").unwrap();
    let _run_dir = resume(dir.path());
    let left = |folder: &Path| {
        let names = fs::read_dir(folder).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    let mut expected = [&kept[..], &others].concat();
    expected.sort();
    assert_eq!(left(dir.path()), expected);
    assert_eq!(left(&dir.path().join("checkpoints")), ["step-00000001"]);
}

pub fn a_changed_setting_is_refused_by_name(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = create(dir.path());
    run(&mut trainer(device, DROPOUT, 13), &run_dir, Some(3));
    drop(run_dir);
    let refused = |change: &dyn Fn(&mut RunSettings)| {
        let mut changed = settings();
        change(&mut changed);
        let error = RecordedRun::open(dir.path()).unwrap().resume(&changed);
        error.unwrap_err().to_string()
    };
    let error = refused(&|changed| changed.config.lr = 0.01);
    assert!(
        error.contains("was started with lr = 0.02, but now it is 0.01"),
        "{error}"
    );
    // The schedule is constant, so more steps are no other run, and fewer than are done make no sense.
    let mut more = settings();
    more.config.steps = 20;
    let run_dir = RecordedRun::open(dir.path())
        .unwrap()
        .resume(&more)
        .unwrap();
    assert_eq!(
        run_dir.restore(&mut trainer(device, DROPOUT, 20)).unwrap(),
        3
    );
    let error = run_dir
        .restore(&mut trainer(device, DROPOUT, 2))
        .unwrap_err();
    assert!(
        matches!(
            error,
            FinetuneError::AlreadyFurther {
                done: 3,
                steps: 2,
                ..
            }
        ),
        "{error}"
    );
}

pub fn a_longer_run_goes_on_as_if_it_had_been_meant(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let mut whole = trainer(device, DROPOUT, 13);
    run(&mut whole, &create(&dir.path().join("whole")), None);
    let path = dir.path().join("grown");
    let mut short = settings();
    short.config.steps = 6;
    let run_dir = RunDir::create(&path, &short).unwrap();
    run(&mut trainer(device, DROPOUT, 6), &run_dir, None);
    drop(run_dir);
    let run_dir = resume(&path);
    let mut grown = trainer(device, DROPOUT, 13);
    assert_eq!(run_dir.restore(&mut grown).unwrap(), 6);
    run(&mut grown, &run_dir, None);
    assert_eq!(grown.model().factors(), whole.model().factors());
}

/// Saved first, then evaluated; and asked between batches whether to stop.
pub fn a_step_is_saved_before_it_is_evaluated(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let eval = rows(7);
    // After each step but the last it asks once, before each of the three batches of an evaluation too.
    let whole = tell(
        &mut trainer(device, DROPOUT, 3),
        &eval,
        &create(&path("whole")),
        99,
    );
    assert_eq!(
        whole.events,
        [
            "step 1",
            "step 2",
            "evaluated 2",
            "step 3",
            "saved 3",
            "evaluated 3"
        ]
    );
    assert!(matches!(whole.outcome, Ok(Outcome::Finished)));

    let middle = tell(
        &mut trainer(device, DROPOUT, 3),
        &eval,
        &create(&path("middle")),
        3,
    );
    assert_eq!(middle.events, ["step 1", "step 2", "left out 2", "saved 2"]);
    assert!(matches!(
        middle.outcome,
        Ok(Outcome::Interrupted { step: 2 })
    ));

    // What was given up is made up for.
    let mut three = settings();
    three.config.steps = 3;
    let run_dir = RecordedRun::open(path("middle")).unwrap();
    let run_dir = run_dir.resume(&three).unwrap();
    let mut resumed = trainer(device, DROPOUT, 3);
    assert_eq!(run_dir.restore(&mut resumed).unwrap(), 2);
    let rest = tell(&mut resumed, &eval, &run_dir, 99);
    assert_eq!(
        rest.events,
        ["evaluated 2", "step 3", "saved 3", "evaluated 3"]
    );

    let last = tell(
        &mut trainer(device, DROPOUT, 3),
        &eval,
        &create(&path("last")),
        6,
    );
    assert_eq!(last.events[3..], ["step 3", "saved 3", "left out 3"]);
    assert!(matches!(last.outcome, Ok(Outcome::Interrupted { step: 3 })));
}

/// Held-out rows in which other tokens follow than in those that are learnt: their loss falls for a while, as far as the
/// lengths of rows go, and rises for good.
pub fn the_best_step_stays_and_a_run_that_gains_nothing_stops(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let forwards = rows(7);
    let backwards = forwards.rows().map(|row| {
        let mut ids = row.unwrap().ids;
        ids.reverse();
        Row::all(ids)
    });
    let eval = Dataset::from_rows(backwards.collect());
    let path = dir.path().join("run");
    let run = |trainer: &mut Trainer<Toy>, run_dir: &RunDir| {
        let options = RunOptions {
            run_dir: Some(run_dir),
            eval: Some(&eval),
            eval_every: Some(1),
            kept_checkpoints: Some(1),
            keep_best: true,
            early_stop: Some(3),
            ..RunOptions::default()
        };
        let mut losses = Vec::new();
        let outcome = trainer.run(&rows(10), &options, &mut |event| {
            if let Event::Evaluated { report, .. } = event {
                losses.push(report.loss());
            }
        });
        (outcome.unwrap(), losses)
    };
    let run_dir = create(&path);
    let mut whole = trainer(device, DROPOUT, 13);
    let (outcome, losses) = run(&mut whole, &run_dir);
    let stopped = losses.len();
    assert!((4..13).contains(&stopped), "{losses:?}");
    assert_eq!(outcome, Outcome::StoppedEarly { step: stopped });
    let best = run_dir.evaluations(&eval, stopped).unwrap().best().unwrap();
    assert_eq!(best.step, stopped - 3);
    assert!(losses.iter().all(|loss| *loss >= best.loss), "{losses:?}");
    let steps = |run_dir: &RunDir| -> Vec<usize> {
        let saved = run_dir.checkpoints().unwrap();
        saved.into_iter().map(|(step, _)| step).collect()
    };
    assert_eq!(steps(&run_dir), [best.step, stopped]);

    run_dir.save_adapter_of(best.step).unwrap();
    let weights = "adapter_model.safetensors";
    let checkpoint = path.join(format!("checkpoints/step-{:08}", best.step));
    assert!(fs::read(path.join(weights)).unwrap() == fs::read(checkpoint.join(weights)).unwrap());

    // Gone on with, it knows what it has seen.
    drop(run_dir);
    let run_dir = resume(&path);
    let mut again = trainer(device, DROPOUT, 13);
    run_dir.restore(&mut again).unwrap();
    assert_eq!(run(&mut again, &run_dir), (outcome, Vec::new()));
}

/// The model is looked at before the first step, where evaluations are due, and after the last step; a look that gives up stops
/// the run, and the one that goes on takes it first.
pub fn the_model_is_looked_at_and_the_steps_have_the_same_bits(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let mut plain = trainer(device, DROPOUT, 5);
    run(&mut plain, &create(&dir.path().join("plain")), None);

    let path = dir.path().join("run");
    let looked = |trainer: &mut Trainer<Toy>, run_dir: &RunDir, give_up: Option<usize>| {
        let steps = std::cell::RefCell::new(Vec::new());
        let look = |model: &Toy, step: usize| {
            assert_eq!(model.factors().len(), 4);
            steps.borrow_mut().push(step);
            // As whoever draws numbers would.
            model.device().seed(99);
            if give_up == Some(step) {
                std::ops::ControlFlow::Break(())
            } else {
                std::ops::ControlFlow::Continue(())
            }
        };
        let options = RunOptions {
            run_dir: Some(run_dir),
            eval_every: Some(2),
            look: Some(&look),
            ..RunOptions::default()
        };
        let outcome = trainer.run(&rows(10), &options, &mut |_| ()).unwrap();
        (outcome, steps.into_inner())
    };
    let run_dir = create(&path);
    let mut first = trainer(device, DROPOUT, 5);
    let outcome = looked(&mut first, &run_dir, Some(2));
    assert_eq!(outcome, (Outcome::Interrupted { step: 2 }, vec![0, 2]));
    drop(run_dir);
    let run_dir = resume(&path);
    let mut second = trainer(device, DROPOUT, 5);
    assert_eq!(run_dir.restore(&mut second).unwrap(), 2);
    let outcome = looked(&mut second, &run_dir, None);
    assert_eq!(outcome, (Outcome::Finished, vec![2, 4, 5]));
    assert_eq!(second.model().factors(), plain.model().factors());
}

/// A run whose held-out rows have a token that makes the loss no number, and one whose rate grows beyond all measure.
pub fn what_was_learnt_is_saved_before_numbers_are_none(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let mut toy = Toy::new(device, DROPOUT);
    toy.spoil(crate::support::VOCAB - 1);
    let eval = Dataset::from_rows(vec![
        Row::all(vec![0, 1, 2]),
        Row::all(vec![0, 1]),
        Row::all(vec![0, 1]),
        Row::all(vec![3, crate::support::VOCAB as u32 - 1, 3]),
    ]);
    let data = Dataset::from_rows((0..6).map(|_| Row::all(vec![0, 1, 4])).collect());
    let run_dir = create(&dir.path().join("eval"));
    let mut trainer = Trainer::new(toy.clone(), config(5)).unwrap();
    let options = RunOptions {
        run_dir: Some(&run_dir),
        eval: Some(&eval),
        eval_every: Some(2),
        ..RunOptions::default()
    };
    let error = trainer.run(&data, &options, &mut |_| ()).unwrap_err();
    assert!(
        matches!(&error, FinetuneError::EvalNotFinite { rows, .. } if rows == &["row 4"]),
        "{error}"
    );
    assert_eq!(run_dir.checkpoints().unwrap()[0].0, 2);

    // The rows of the third step: 12 to 17.
    let mut bad: Vec<Row> = (0..18).map(|_| Row::all(vec![0, 1, 4])).collect();
    bad[15] = Row::all(vec![0, crate::support::VOCAB as u32 - 1, 4]);
    let mut in_order = config(5);
    in_order.shuffle = false;
    let mut trainer = Trainer::new(toy, in_order).unwrap();
    let run_dir = create(&dir.path().join("train"));
    let options = RunOptions {
        run_dir: Some(&run_dir),
        ..RunOptions::default()
    };
    let error = trainer
        .run(&Dataset::from_rows(bad), &options, &mut |_| ())
        .unwrap_err();
    let FinetuneError::NotFinite { step: 3, rows, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(rows.first().map(String::as_str), Some("row 13"));
    assert_eq!(rows.len(), 6);
    assert_eq!(trainer.steps_done(), 2);
    assert_eq!(run_dir.checkpoints().unwrap()[0].0, 2);

    let mut absurd = config(2);
    absurd.warmup_steps = 0;
    absurd.lr = 1e39;
    let mut trainer = Trainer::new(Toy::new(device, DROPOUT), absurd).unwrap();
    let before = trainer.model().factors();
    let run_dir = create(&dir.path().join("absurd"));
    let options = RunOptions {
        run_dir: Some(&run_dir),
        ..RunOptions::default()
    };
    let error = trainer.run(&data, &options, &mut |_| ()).unwrap_err();
    assert!(
        matches!(error, FinetuneError::UpdateTooLarge { step: 1, .. }),
        "{error}"
    );
    assert_eq!(trainer.model().factors(), before);
    assert_eq!(run_dir.checkpoints().unwrap().len(), 0);
}

pub fn adapters_that_are_not_finite_are_not_saved(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = create(dir.path());
    let mut toy = Toy::new(device, 0.0);
    for (_, linear) in toy.lora_linears_mut() {
        let branch = linear.adapter.as_mut().unwrap();
        branch.lora.a = branch.lora.a.clone().map(|a| a.full_like(f32::NAN));
    }
    let error = run_dir.save_adapter(&toy).unwrap_err();
    assert!(
        matches!(&error, FinetuneError::AdapterNotFinite { layer } if layer == "mix"),
        "{error}"
    );
    let error = run_dir
        .save(&Trainer::new(toy, config(1)).unwrap())
        .unwrap_err();
    assert!(
        matches!(error, FinetuneError::AdapterNotFinite { .. }),
        "{error}"
    );
    assert!(run_dir.checkpoints().unwrap().is_empty());
}

pub fn a_failed_save_leaves_the_last_checkpoint(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = create(dir.path());
    let mut trainer = trainer(device, DROPOUT, 9);
    run(&mut trainer, &run_dir, Some(5));
    let checkpoints = run_dir.checkpoints().unwrap();
    assert_eq!(checkpoints.len(), 2);
    // A file where the unfinished checkpoint would be written.
    let folder = dir.path().join("checkpoints");
    fs::write(folder.join(".unfinished-00000005"), "").unwrap();
    let error = run_dir.save(&trainer).unwrap_err();
    assert!(matches!(error, FinetuneError::Write { .. }), "{error}");
    assert_eq!(run_dir.checkpoints().unwrap(), checkpoints);
    run_dir.restore(&mut trainer).unwrap();
}

pub fn broken_checkpoints_are_refused(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = create(dir.path());
    let mut trainer = trainer(device, DROPOUT, 5);
    let error = run_dir.restore(&mut trainer).unwrap_err();
    assert!(
        matches!(error, FinetuneError::NothingToResume { .. }),
        "{error}"
    );
    run(&mut trainer, &run_dir, None);
    let (_, last) = run_dir.checkpoints().unwrap().pop().unwrap();
    let before = trainer.model().factors();
    let mut refused = |name: &str, damaged: Vec<u8>| {
        let file = last.join(name);
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, damaged).unwrap();
        let error = run_dir.restore(&mut trainer).unwrap_err();
        fs::write(&file, bytes).unwrap();
        let way = format!("remove {} to go on from step 4", last.display());
        assert!(error.to_string().contains(&way), "{error}");
        let FinetuneError::Checkpoint { source, .. } = error else {
            panic!("{error}");
        };
        assert!(
            matches!(&*source, FinetuneError::Malformed { path, .. } if *path == file),
            "{source}"
        );
        source.to_string()
    };
    let names = [
        "optimizer.safetensors",
        "adapter_model.safetensors",
        "adapter_config.json",
    ];
    for name in names {
        let mut bytes = fs::read(last.join(name)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        refused(name, bytes.clone());
        bytes.pop();
        refused(name, bytes);
    }
    let mut bytes = fs::read(last.join("state.json")).unwrap();
    bytes.pop();
    refused("state.json", bytes);
    let state = |state: Value| serde_json::to_vec(&state).unwrap();
    let reason = refused("state.json", state(json!({"step": 4})));
    assert!(
        reason.contains("step 4") && reason.contains("step 5"),
        "{reason}"
    );

    // Without checksums, as older versions wrote them, the numbers themselves are looked at.
    let old = state(json!({"step": 5}));
    fs::write(last.join("state.json"), &old).unwrap();
    run_dir.restore(&mut trainer).unwrap();
    assert_eq!(trainer.model().factors(), before);
    for (name, from, to, needle) in [
        (
            "adapter_config.json",
            "\"lora_alpha\": 8",
            "\"lora_alpha\": 80",
            "lora_alpha is 80",
        ),
        ("adapter_config.json", "\"r\": 4", "\"r\": 2", ""),
    ] {
        let text = fs::read_to_string(last.join(name)).unwrap();
        assert!(text.contains(from), "{text}");
        let file = last.join(name);
        fs::write(&file, text.replace(from, to)).unwrap();
        let error = run_dir.restore(&mut trainer).unwrap_err().to_string();
        assert!(
            error.contains(needle) && error.contains("to go on from step 4"),
            "{error}"
        );
        fs::write(&file, text).unwrap();
    }
    let moments = last.join("optimizer.safetensors");
    let whole = fs::read(&moments).unwrap();
    for (place, value, needle) in [
        // The last is one of the second moments, the counts are the first.
        (whole.len() - 4, f32::NAN.to_le_bytes(), "is NaN"),
        (whole.len() - 4, (-1.0f32).to_le_bytes(), "is -1"),
        (data_start(&whole), 7u32.to_le_bytes(), "of 7 steps"),
    ] {
        let mut bytes = whole.clone();
        bytes[place..place + 4].copy_from_slice(&value);
        fs::write(&moments, bytes).unwrap();
        let error = run_dir.restore(&mut trainer).unwrap_err().to_string();
        assert!(
            error.contains(needle) && error.contains("optimizer.safetensors"),
            "{error}"
        );
    }
    fs::write(&moments, whole).unwrap();
    run_dir.restore(&mut trainer).unwrap();
}

/// Where the values of a safetensors file begin.
fn data_start(bytes: &[u8]) -> usize {
    8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize
}

pub fn rows_longer_than_the_context_are_refused(device: &Device) {
    let data = Dataset::from_rows(vec![Row::all(vec![0; CONTEXT + 1])]);
    let error = trainer(device, 0.0, 1)
        .run(&data, &RunOptions::default(), &mut |_| ())
        .unwrap_err();
    assert!(matches!(error, FinetuneError::RowLength { value, .. } if value == CONTEXT + 1));
}
