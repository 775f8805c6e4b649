//! Stopping and going on.

use crate::support::{CONTEXT, Toy, lora, rows, trainer};
use burn::tensor::Device;
use burn_finetune::{Dataset, Event, FinetuneError, Outcome, Row, RunDir, RunOptions, Trainer};
use serde_json::{Map, Value, json};
use std::cell::Cell;
use std::fs;
use std::path::Path;

fn settings() -> Map<String, Value> {
    let Value::Object(settings) = json!({"lr": 0.02, "rank": 4}) else {
        unreachable!("json! of braces is an object");
    };
    settings
}

const DROPOUT: f64 = 0.2;

fn create(path: &Path) -> RunDir {
    RunDir::create(path, &settings(), lora(DROPOUT), "toy").unwrap()
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
    let run_dir = RunDir::resume(&path, &settings(), lora(DROPOUT), "toy").unwrap();
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

pub fn a_folder_with_another_run_is_refused(_: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let error = RunDir::resume(dir.path(), &settings(), lora(DROPOUT), "toy").unwrap_err();
    assert!(
        matches!(error, FinetuneError::NothingToResume { .. }),
        "{error}"
    );
    create(dir.path());
    let error = RunDir::create(dir.path(), &settings(), lora(DROPOUT), "toy").unwrap_err();
    assert!(
        matches!(error, FinetuneError::OutputInUse { .. }),
        "{error}"
    );
    let file = dir.path().join("run.json");
    let error = RunDir::create(&file, &settings(), lora(DROPOUT), "toy").unwrap_err();
    assert!(matches!(error, FinetuneError::Write { .. }), "{error}");
}

pub fn a_changed_setting_is_refused_by_name(_: &Device) {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path());
    let mut changed = settings();
    changed.insert("lr".into(), json!(0.01));
    let error = RunDir::resume(dir.path(), &changed, lora(DROPOUT), "toy").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("was started with lr = 0.02, but now it is 0.01"),
        "{error}"
    );
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
    for name in ["optimizer.safetensors", "state.json"] {
        let file = last.join(name);
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
        let error = run_dir.restore(&mut trainer).unwrap_err();
        assert!(
            matches!(&error, FinetuneError::Malformed { path, .. } if *path == file),
            "{error}"
        );
        fs::write(&file, bytes).unwrap();
    }
    run_dir.restore(&mut trainer).unwrap();
}

pub fn rows_longer_than_the_context_are_refused(device: &Device) {
    let data = Dataset::from_rows(vec![Row::all(vec![0; CONTEXT + 1])]);
    let error = trainer(device, 0.0, 1)
        .run(&data, &RunOptions::default(), &mut |_| ())
        .unwrap_err();
    assert!(matches!(error, FinetuneError::RowLength { value, .. } if value == CONTEXT + 1));
}
