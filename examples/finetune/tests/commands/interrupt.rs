//! Stopping a run and going on as if nothing had happened.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{self, Place, Run, log_lines, number};

/// Long enough that a run is caught in the middle.
const STEPS: usize = 400;

fn train(place: &Place, model: &Path, name: &str) -> Command {
    let mut command = support::train(model, &place.path("rows.jsonl"), &place.path(name));
    command
        .arg("--log-json")
        .arg(place.path(&format!("{name}.jsonl")));
    command.args([
        "--steps",
        "400",
        "--seq-len",
        "64",
        "--batch-size",
        "8",
        "--dropout",
        "0.1",
    ]);
    command.args(["--schedule", "cosine", "--save-every", "20"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts a run, waits until its log has `lines` lines, and sends it a signal.
pub fn stop_after(command: &mut Command, log: &Path, lines: usize, signal: &str) -> Run {
    #[cfg(unix)]
    with_default_signals(command);
    stop(command.spawn().unwrap(), log, lines, signal)
}

/// Starts a run, waits until a file that it writes has `bytes` bytes, and sends it a signal.
#[cfg(unix)]
pub fn stop_at(command: &mut Command, file: &Path, bytes: u64, signal: &str) -> Run {
    with_default_signals(command);
    let child = command.spawn().unwrap();
    wait_until(|| std::fs::metadata(file).is_ok_and(|file| file.len() >= bytes));
    send(signal, &child);
    child.wait_with_output().unwrap().into()
}

/// Lets `command` be interrupted and hung up, whatever this process was started with: in the background, or by `nohup`, it
/// would pass on that these signals are ignored.
#[cfg(unix)]
pub fn with_default_signals(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: `signal` may be called between fork and exec, and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGTERM] {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        });
    }
}

/// Waits until the log of a run has `lines` lines, and sends it a signal.
fn stop(child: Child, log: &Path, lines: usize, signal: &str) -> Run {
    wait_for(log, lines);
    send(signal, &child);
    child.wait_with_output().unwrap().into()
}

fn wait_for(log: &Path, lines: usize) {
    let written = || std::fs::read_to_string(log).map_or(0, |text| text.lines().count());
    wait_until(|| written() >= lines);
}

fn wait_until(is_there: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_there() {
        assert!(
            started.elapsed() < Duration::from_secs(120),
            "the run does not get on"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

pub fn losses(log: &Path) -> Vec<(f64, f64, f64)> {
    let triple = |line| {
        (
            number(line, "step"),
            number(line, "loss"),
            number(line, "grad_norm"),
        )
    };
    log_lines(log).iter().map(triple).collect()
}

#[cfg(unix)]
#[test]
fn a_system_that_ends_the_run_lets_it_save() {
    let place = Place::new();
    let model = place.model("tiny_llama_nf4");
    place.rows(50);
    for (name, signal) in [("term", "-TERM"), ("hup", "-HUP")] {
        let log = place.path(&format!("{name}.jsonl"));
        let run = stop_after(&mut train(&place, &model, name), &log, 3, signal).ok();
        let done = log_lines(&log).len();
        assert!((3..STEPS).contains(&done), "{done} steps");
        assert!(run.stderr.contains("--resume"), "{}", run.stderr);
        let saved = place.path(name).join(format!("checkpoints/step-{done:08}"));
        assert!(saved.is_dir(), "{name}");
    }

    // What `nohup` does: the signal is ignored, and the run goes on until it is told to stop.
    let log = place.path("nohup.jsonl");
    let train = train(&place, &model, "nohup");
    let mut command = Command::new("bash");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "bash"]);
    command.arg(train.get_program()).args(train.get_args());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_for(&log, 3);
    send("-HUP", &child);
    let run: Run = stop(child, &log, 40, "-TERM").ok();
    assert!(log_lines(&log).len() >= 40, "{}", run.stderr);
}

#[cfg(unix)]
#[test]
fn a_stopped_run_goes_on_with_the_same_bits() {
    let place = Place::new();
    let model = place.model("tiny_llama_nf4");
    place.rows(50);
    crate::support::run(&mut train(&place, &model, "whole")).ok();
    let whole = losses(&place.path("whole.jsonl"));
    assert_eq!(whole.len(), STEPS);

    // Ctrl-C: the step is finished and saved, and the way on is told.
    let log = place.path("int.jsonl");
    let run = stop_after(&mut train(&place, &model, "int"), &log, 31, "-INT").ok();
    let done = log_lines(&log).len();
    assert!((31..STEPS).contains(&done), "{done} steps");
    let command = run
        .stderr
        .lines()
        .find(|line| line.contains("--resume"))
        .expect("the way on");
    let words = [
        "finetune",
        "train",
        "--model",
        model.to_str().unwrap(),
        "--resume",
    ];
    assert!(words.iter().all(|word| command.contains(word)), "{command}");

    // Killed: the last checkpoint counts, and the log forgets the steps after it.
    let killed = place.path("kill.jsonl");
    let run = stop_after(&mut train(&place, &model, "kill"), &killed, 31, "-KILL");
    assert_eq!(run.code, None);

    // What is kept for the backward pass is no part of what a run computes, and may change.
    for (name, log, checkpointing) in [("int", &log, "none"), ("kill", &killed, "layer")] {
        let mut command = train(&place, &model, name);
        command.args(["--resume", "--checkpointing", checkpointing]);
        crate::support::run(&mut command).ok();
        assert_eq!(losses(log), whole, "{name}");
        let adapter =
            |name: &str| std::fs::read(place.path(name).join("adapter_model.safetensors")).unwrap();
        assert!(
            adapter(name) == adapter("whole"),
            "{name}: another adapter came out"
        );
    }
    // A run that is done has nothing left to do.
    crate::support::run(train(&place, &model, "whole").arg("--resume")).ok();
    assert_eq!(losses(&place.path("whole.jsonl")), whole);
}

/// The evaluation after the last step takes long; the steps are saved before it.
#[cfg(unix)]
#[test]
fn a_run_that_is_stopped_in_its_last_evaluation_is_done() {
    let place = Place::new();
    let (model, text) = (place.model("tiny_llama"), place.long_text());
    let rows = place.rows(8);
    let log = place.path("last.jsonl");
    let mut command = support::train(&model, &rows, &place.path("last"));
    command.arg("--eval-data").arg(text);
    command.arg("--log-json").arg(&log);
    command.args(["--steps", "1", "--seq-len", "64"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // The only step is in the log when the evaluation begins.
    let run = stop_after(&mut command, &log, 1, "-INT").ok();
    for words in ["evaluation after the last step", "the adapter is in"] {
        assert!(run.stdout.contains(words), "{}", run.stdout);
    }
    assert_eq!(place.listing("last/checkpoints").len(), 1);
    assert!(place.path("last/adapter_model.safetensors").is_file());
}

#[test]
fn resuming_with_other_settings_is_refused() {
    let place = Place::new();
    let (model, rows, output) = (place.model("tiny_llama"), place.rows(8), place.path("run"));
    let base = |extra: &[&str]| {
        let mut command = support::train(&model, &rows, &output);
        command
            .args(["--steps", "2", "--seq-len", "64"])
            .args(extra);
        support::run(&mut command)
    };
    base(&["--rank", "4"]).ok();
    base(&["--rank", "8", "--alpha", "8", "--resume"]).refused(&["rank", "4", "8"]);
    base(&["--rank", "4", "--lr", "1", "--resume"]).refused(&["lr"]);
    base(&["--rank", "4", "--resume"]).ok();

    // As many rows and tokens as before, but not the same ones.
    let text = std::fs::read_to_string(&rows).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    std::fs::write(&rows, format!("{rest}{first}\n")).unwrap();
    base(&["--rank", "4", "--resume"]).refused(&["another data"]);
}
