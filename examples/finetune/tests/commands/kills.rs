//! Runs that are killed at random moments, while they load, train, evaluate and save, end in the bits of one that is
//! left alone.

#![cfg(unix)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::support::{Place, log_lines, number};

/// A run with everything on that could remember something: packed rows, dropout, a schedule, pages, evaluations.
struct Killed {
    place: Place,
    model: PathBuf,
    rows: PathBuf,
    random: u64,
}

impl Killed {
    fn new(seed: u64) -> Self {
        let place = Place::new();
        let (model, rows) = (place.model("tiny_llama_nf4"), place.rows(40));
        Self {
            place,
            model,
            rows,
            random: seed,
        }
    }

    fn train(&self, name: &str, resume: bool) -> Command {
        let output = self.place.path(name);
        let mut command = crate::support::train(&self.model, &self.rows, &output);
        command.arg("--eval-data").arg(&self.rows);
        command
            .arg("--log-json")
            .arg(self.place.path(&format!("{name}.jsonl")));
        command.args(["--steps", "10", "--seq-len", "96", "--batch-size", "2"]);
        command.args(["--packing", "--dropout", "0.1", "--schedule", "cosine"]);
        command.args([
            "--save-every",
            "1",
            "--save-total",
            "4",
            "--eval-every",
            "3",
            "--keep-best",
        ]);
        command.args(["--optimizer", "paged-adamw", "--optimizer-budget", "0"]);
        command.args(resume.then_some("--resume"));
        command.env("HF_ENDPOINT", "http://127.0.0.1:9");
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// SplitMix64: a share of the unit interval.
    fn next(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Runs to the end with at most `kills` on the way, each within `time` of its start; returns how many there were.
    fn run_to_end(&mut self, name: &str, kills: usize, time: Duration) -> usize {
        let mut done = 0;
        loop {
            let resume = self.place.path(name).join("run.json").exists();
            let mut child = self.train(name, resume).spawn().expect("it starts");
            if done < kills {
                std::thread::sleep(time.mul_f64(self.next()));
                // It may be over already; what wait says tells.
                let _ = child.kill();
            }
            let ended = child.wait_with_output().expect("it ends");
            match ended.status.code() {
                None => done += 1,
                Some(code) => {
                    let stderr = String::from_utf8_lossy(&ended.stderr);
                    assert_eq!(code, 0, "after {done} kills: {stderr}");
                    return done;
                }
            }
        }
    }

    fn outcome(&self, name: &str) -> Outcome {
        let read = |file: &str| fs::read(self.place.path(name).join(file)).expect("written");
        let log = log_lines(&self.place.path(&format!("{name}.jsonl")));
        let losses = log.iter();
        let losses = losses.map(|line| (number(line, "step"), number(line, "loss")));
        Outcome {
            adapter: read("adapter_model.safetensors"),
            moments: read("checkpoints/step-00000010/optimizer.safetensors"),
            losses: losses.collect(),
            files: [name.to_owned(), format!("{name}/checkpoints")]
                .map(|folder| self.place.listing(&folder)),
        }
    }
}

/// What a run has come to.
#[derive(PartialEq)]
struct Outcome {
    adapter: Vec<u8>,
    /// Those after the last step.
    moments: Vec<u8>,
    /// By their steps, as logged.
    losses: Vec<(f64, f64)>,
    /// In the run's folder, and in that of its checkpoints.
    files: [Vec<String>; 2],
}

/// Kills runs `kills` times in all, three times each at most.
fn kill(kills: usize) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = now.expect("after 1970").as_nanos() as u64;
    println!("seed {seed}");
    let mut runs = Killed::new(seed);
    let started = Instant::now();
    assert_eq!(runs.run_to_end("whole", 0, Duration::ZERO), 0);
    let time = started.elapsed();
    let expected = runs.outcome("whole");
    assert_eq!(expected.losses.len(), 10);
    let (mut done, mut run) = (0, 0);
    while done < kills {
        run += 1;
        let name = format!("run{run}");
        done += runs.run_to_end(&name, (kills - done).min(3), time);
        assert!(
            runs.outcome(&name) == expected,
            "seed {seed}, {name}: other bits"
        );
        fs::remove_dir_all(runs.place.path(&name)).expect("removed");
    }
    println!("{done} kills in {run} runs, all of which ended in the same bits");
}

#[test]
fn killed_runs_end_in_the_same_bits() {
    kill(5);
}

/// `scripts/kill-test.sh`.
#[test]
#[ignore = "takes minutes; scripts/kill-test.sh runs it"]
fn many() {
    let kills = std::env::var("KILLS").map_or(200, |kills| kills.parse().expect("a number"));
    kill(kills);
}
