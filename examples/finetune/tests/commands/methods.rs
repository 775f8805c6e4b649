//! Ways of training beside the plain one: LoRA+, noise on the embeddings, other optimizers.

use std::fs;
use std::path::PathBuf;

use crate::support::{self, Place, Run, eval, log_lines, number, printed_bytes};

/// A short run.
struct Short {
    place: Place,
    model: PathBuf,
    rows: PathBuf,
}

impl Short {
    fn new() -> Self {
        let place = Place::new();
        let (model, rows) = (place.model("tiny_llama_nf4"), place.rows(12));
        Self { place, model, rows }
    }

    fn train(&self, name: &str, more: &[&str]) -> Run {
        let mut command = support::train(&self.model, &self.rows, &self.place.path(name));
        command.args(["--seq-len", "64", "--rank", "2", "--dropout", "0.1"]);
        command.args(["--steps", "4", "--save-every", "2"]);
        command.arg("--log-json");
        command.arg(self.place.path(&format!("{name}.jsonl")));
        support::run(command.args(more))
    }

    fn losses(&self, name: &str) -> Vec<f64> {
        let lines = log_lines(&self.place.path(&format!("{name}.jsonl")));
        lines.iter().map(|line| number(line, "loss")).collect()
    }

    /// Takes a finished run back to its second step, goes on, and holds what comes out to what did.
    fn goes_on(&self, name: &str, more: &[&str]) {
        let whole = (self.place.adapter(name), self.losses(name));
        let run = self.place.path(name);
        fs::remove_dir_all(run.join("checkpoints/step-00000004")).expect("removed");
        self.train(name, &[more, &["--resume"]].concat()).ok();
        assert!(
            (self.place.adapter(name), self.losses(name)) == whole,
            "{name}"
        );
    }
}

#[test]
fn lora_plus_and_noise_train_otherwise_and_go_on_with_the_same_bits() {
    let short = Short::new();
    short.train("plain", &[]).ok();
    let none = [
        "--lora-plus-ratio",
        "1",
        "--neftune-alpha",
        "0",
        "--optimizer",
        "adamw",
    ];
    short.train("none", &none).ok();
    assert!(short.place.adapter("none") == short.place.adapter("plain"));
    for flags in [["--lora-plus-ratio", "16"], ["--neftune-alpha", "5"]] {
        let name = flags[0].trim_start_matches('-');
        let measured = [&flags[..], &["--eval-data", short.rows.to_str().unwrap()]].concat();
        short.train(name, &measured).ok();
        assert!(
            short.place.adapter(name) != short.place.adapter("plain"),
            "{name}"
        );
        short.goes_on(name, &measured);
        short
            .train("plain", &[&flags[..], &["--resume"]].concat())
            .refused(&[name]);
        // What is measured has no noise.
        let run = support::run(
            eval(&short.model, &short.rows)
                .args(["--seq-len", "64", "--json", "--adapter"])
                .arg(short.place.path(name)),
        );
        let evaluations = short.place.evaluations(name);
        let nll = number(&evaluations.last().expect("one")["evaluation"], "nll");
        assert_eq!(number(&run.ok().last_json(), "nll"), nll, "{name}");
    }
    // The first step's loss has the noise in it, but none of B's other rate.
    let first = |name: &str| short.losses(name)[0];
    assert_eq!(first("lora-plus-ratio"), first("plain"));
    assert_ne!(first("neftune-alpha"), first("plain"));
    for bad in [["--lora-plus-ratio", "0"], ["--neftune-alpha", "-1"]] {
        let flag = format!("{}={}", bad[0], bad[1]);
        short.train("bad", &[&flag]).refused(&[bad[0]]);
    }
}

#[test]
fn other_optimizers_learn_go_on_and_are_planned() {
    let short = Short::new();
    short.train("adamw", &[]).ok();
    for (name, lr, factor) in [
        ("lion", "1e-3", 0.5),
        ("muon", "2e-2", 0.5),
        ("adafactor", "5e-3", 0.0),
    ] {
        let flags = ["--optimizer", name, "--lr", lr, "--weight-decay", "0.01"];
        short.train(name, &flags).ok();
        let losses = short.losses(name);
        assert!(losses[3] < losses[0], "{name}: {losses:?}");
        assert!(
            short.place.adapter(name) != short.place.adapter("adamw"),
            "{name}"
        );
        short.goes_on(name, &flags);
        let state = |name: &str| {
            let lines = log_lines(&short.place.path(&format!("{name}.jsonl")));
            number(&lines[3], "optimizer_state_bytes")
        };
        if factor > 0.0 {
            assert_eq!(state(name), factor * state("adamw"), "{name}");
        } else {
            assert!(state(name) < 0.4 * state("adamw"), "{name}");
        }
        let mut plan = support::train(&short.model, &short.rows, &short.place.path(name));
        let arguments: Vec<_> = plan.get_args().skip(1).map(ToOwned::to_owned).collect();
        plan = std::process::Command::new(support::FINETUNE);
        plan.arg("plan")
            .args(arguments)
            .args(["--seq-len", "64", "--rank", "2"])
            .args(flags);
        let planned = printed_bytes(&support::run(&mut plan).ok().stdout, "optimizer");
        // As printed, to the nearest kilobyte.
        assert!(
            (planned - state(name)).abs() <= 500.0,
            "{name}: {planned} is not {}",
            state(name)
        );
        short
            .train(name, &["--resume", "--lr", lr, "--weight-decay", "0.01"])
            .refused(&["optimizer", name, "adamw"]);
        short
            .train("paged", &["--optimizer", name, "--optimizer-budget", "0"])
            .refused(&["--optimizer-budget", name, "paged-adamw"]);
    }
}
