//! What happens when nobody reads what is printed, or it cannot be written.

#![cfg(unix)]

use std::process::{Command, Stdio};

use crate::support::{self, FINETUNE, Place, Run, log_lines};

/// Runs the binary with nobody at the other end of its stdout or stderr.
fn without_a_reader(command: &mut Command, of_stderr: bool) -> Run {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    if of_stderr {
        drop(child.stderr.take());
    } else {
        drop(child.stdout.take());
    }
    child.wait_with_output().unwrap().into()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(FINETUNE);
    command.args(arguments);
    command
}

#[test]
fn a_command_whose_results_nobody_reads_ends_quietly() {
    let place = Place::new();
    let (model, text) = (place.model("tiny_llama"), place.text());
    let mut plan = command(&["plan", "--model"]);
    let mut eval = command(&[
        "eval",
        "--json",
        "--seq-len",
        "32",
        "--max-rows",
        "2",
        "--data",
    ]);
    for command in [plan.arg(&model), eval.arg(&text).arg("--model").arg(&model)] {
        let run = without_a_reader(command, false);
        assert_eq!((run.code, run.stderr.as_str()), (Some(2), ""));
    }
    // Refusals have nothing to say on stdout, and nobody to say it to on stderr.
    let run = without_a_reader(&mut command(&["plan", "--rank", "0"]), true);
    assert_eq!(run.code, Some(2));
    #[cfg(target_os = "linux")]
    {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let mut plan = command(&["plan", "--model"]);
        let child = plan.arg(&model).stdout(full).stderr(Stdio::piped()).spawn();
        let run = Run::from(child.unwrap().wait_with_output().unwrap());
        run.refused(&["stdout", "No space left"]);
    }
}

#[test]
fn a_training_run_that_nobody_follows_is_saved_and_stops() {
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama_nf4"), place.rows(8));
    for (name, of_stderr) in [("stdout", false), ("stderr", true)] {
        let (output, log) = (place.path(name), place.path(&format!("{name}.jsonl")));
        let train = || {
            let mut train = support::train(&model, &rows, &output);
            train.args(["--steps", "12", "--seq-len", "64"]);
            train.arg("--log-json").arg(&log);
            train
        };
        let run = without_a_reader(&mut train(), of_stderr);
        assert_eq!(run.code, Some(2), "{run:#?}");
        assert!(!run.stderr.contains("panic"), "{}", run.stderr);
        let done = log_lines(&log).len();
        assert!((1..12).contains(&done), "{name}: {done} steps");
        let saved = output.join(format!("checkpoints/step-{done:08}"));
        assert!(saved.is_dir(), "{name}: {:?}", place.listing(name));
        crate::support::run(train().arg("--resume")).ok();
        assert_eq!(log_lines(&log).len(), 12, "{name}");
    }
}
