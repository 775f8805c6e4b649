//! A run that is killed at each of its writes ends with the same best step.

use crate::evaluations::{WEIGHTS, backwards, run_to_the_best, saved_steps};
use crate::runs::{DROPOUT, create, resume};
use crate::support::trainer;
use burn::tensor::Device;
use burn_finetune::{Dataset, Evaluation, Event, Outcome, RunDir, RunRecord};
use qlora_test_support::alone;
use std::fs;
use std::path::Path;

/// What a run that ends with its best step has come to.
#[derive(Debug, PartialEq)]
struct Ended {
    outcome: Outcome,
    /// Steps and the bits of their losses.
    evaluations: Vec<(usize, u64)>,
    checkpoints: Vec<usize>,
    best: Vec<u8>,
}

impl Ended {
    fn of(run_dir: &RunDir, eval: &Dataset, outcome: Outcome) -> Self {
        let record = RunRecord::read(run_dir.path()).unwrap();
        let rows = format!("{:016x}", eval.fingerprint().unwrap());
        let evaluations = record.evaluations(&rows).unwrap();
        let best = Evaluation::best(&evaluations).unwrap().step;
        run_dir.save_adapter_of(best).unwrap();
        let evaluations = evaluations.iter();
        Self {
            outcome,
            evaluations: evaluations
                .map(|one| (one.step, one.loss().to_bits()))
                .collect(),
            checkpoints: saved_steps(run_dir),
            best: fs::read(run_dir.path().join(WEIGHTS)).unwrap(),
        }
    }
}

/// The folder as it is between any two writes of a run is what a kill there leaves: before an evaluation is written down,
/// after its step was saved, after that was written down, and while checkpoints that need not stay are removed.
#[test]
fn a_run_that_is_killed_between_any_two_writes_ends_with_the_same_best_step() {
    let _alone = alone();
    let device = Device::flex().autodiff();
    let dir = tempfile::tempdir().unwrap();
    let eval = backwards();
    let path = dir.path().join("whole");
    let run_dir = create(&path);
    let mut states = vec![(String::from("nothing done"), dir.path().join("0"))];
    copy(&path, &states[0].1);
    let mut whole = trainer(&device, DROPOUT, 13);
    let outcome = run_to_the_best(&mut whole, &eval, &run_dir, &mut |event| {
        let name = match event {
            Event::Step(report) => format!("step {} taken", report.step),
            Event::Evaluated(evaluation) => format!("step {} evaluated", evaluation.step),
            Event::Saved { step, .. } => format!("step {step} saved"),
            _ => return,
        };
        let before = states.last().unwrap().1.clone();
        let mut add = |name: String, change: &dyn Fn(&Path)| {
            let state = dir.path().join(states.len().to_string());
            copy(&path, &state);
            change(&state);
            states.push((name, state));
        };
        if let Event::Saved { .. } = event {
            // Those that have gone meanwhile are there yet, or half there.
            add(format!("{name}, nothing removed"), &|state| {
                copy_missing(&before, state, "step-");
            });
            add(format!("{name}, one half removed"), &|state| {
                copy_missing(&before, state, ".unfinished-");
            });
        }
        add(name, &|_| ());
    });
    let expected = Ended::of(&run_dir, &eval, outcome);
    assert!(states.len() > 20, "{}", states.len());
    for (name, state) in &states {
        let run_dir = resume(state);
        let mut again = trainer(&device, DROPOUT, 13);
        if !run_dir.checkpoints().unwrap().is_empty() {
            run_dir.restore(&mut again).unwrap();
        }
        let outcome = run_to_the_best(&mut again, &eval, &run_dir, &mut |_| ());
        assert_eq!(Ended::of(&run_dir, &eval, outcome), expected, "{name}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Copies the checkpoints of the run in `from` that are not in `to`, under names that begin with `prefix`; what is under another
/// name than a checkpoint's lacks a file.
fn copy_missing(from: &Path, to: &Path, prefix: &str) {
    let [from, to] = [from, to].map(|run| run.join("checkpoints"));
    let Ok(entries) = fs::read_dir(&from) else {
        return;
    };
    for entry in entries.map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let Some(step) = name.strip_prefix("step-") else {
            continue;
        };
        if to.join(&name).exists() {
            continue;
        }
        let to = to.join(format!("{prefix}{step}"));
        copy(&entry.path(), &to);
        if prefix != "step-" {
            fs::remove_file(to.join("state.json")).unwrap();
        }
    }
}
