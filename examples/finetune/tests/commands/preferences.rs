//! Training on preferences.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::finetune;
use crate::interrupt::{stop_after, stop_at};
use crate::support::{self, Place, Run, log_lines, number, printed_bytes};

/// A model with rows for each objective.
struct Short {
    place: Place,
    model: PathBuf,
}

impl Short {
    fn new() -> Self {
        let place = Place::new();
        let model = place.model("tiny_llama");
        let pair = |i: usize| json!({ "prompt": format!("{i}?"), "chosen": format!(" {}.", i * i), "rejected": " who knows" });
        let labelled = |i: usize| json!({ "prompt": format!("{i}?"), "completion": format!(" {}.", i * i), "label": !i.is_multiple_of(3) });
        let lines = |row: &dyn Fn(usize) -> Value| {
            (0..12).map(|i| format!("{}\n", row(i))).collect::<String>()
        };
        place.file("pairs.jsonl", lines(&pair));
        place.file("labelled.jsonl", lines(&labelled));
        Self { place, model }
    }

    fn data(&self, objective: &str) -> PathBuf {
        let name = match objective {
            "kto" => "labelled.jsonl",
            _ => "pairs.jsonl",
        };
        self.place.path(name)
    }

    fn command(&self, objective: &str, name: &str) -> std::process::Command {
        let mut command =
            support::train(&self.model, &self.data(objective), &self.place.path(name));
        command.args(["--objective", objective, "--seq-len", "64", "--rank", "2"]);
        command
    }

    fn train(&self, objective: &str, name: &str, more: &str) -> Run {
        let more = more.split(' ').filter(|flag| !flag.is_empty());
        support::run(self.command(objective, name).args(more))
    }
}

/// Each objective, with held-out rows, logged by TRL's names and written down with its numbers. Going on has the bits of a run
/// that was not stopped, whether the reference is asked again or not.
#[test]
fn runs_go_on_as_if_they_had_not_been_stopped() {
    let short = Short::new();
    for (objective, flags, logged) in [
        (
            "dpo",
            "--beta 0.2 --label-smoothing 0.1",
            "rewards/accuracies",
        ),
        ("orpo", "--beta 0.3", "log_odds_chosen"),
        ("kto", "--desirable-weight 0.5 --undesirable-weight 1", "kl"),
    ] {
        let flags = format!("{flags} --eval-split 0.25 --eval-every 2 --save-every 2 --lr 5e-3");
        let log = short.place.path(&format!("{objective}.jsonl"));
        let whole = format!("{objective}-whole");
        let logging = format!("{flags} --steps 4 --log-json {}", log.display());
        let run = short.train(objective, &whole, &logging).ok();
        assert!(run.stderr.contains("held-out loss"), "{}", run.stderr);
        let lines = log_lines(&log);
        assert_eq!(lines.len(), 4);
        for line in &lines {
            number(line, logged);
            number(line, "loss");
        }
        let margins = lines
            .iter()
            .filter_map(|line| line["rewards/margins"].as_f64());
        assert!(margins.count() > 1);

        let text = fs::read(short.place.path(&whole).join("run.json")).unwrap();
        let settings: Value = serde_json::from_slice(&text).unwrap();
        assert!(
            settings["objective"][objective]["beta"].is_number(),
            "{settings}"
        );

        let has_reference = objective != "orpo";
        for asked_again in [false, true] {
            let name = format!("{objective}-{asked_again}");
            short
                .train(objective, &name, &format!("{flags} --steps 2"))
                .ok();
            let files = ["reference.cache", "eval-reference.cache"];
            let kept = files.map(|file| short.place.path(&name).join(file));
            for file in &kept {
                assert_eq!(file.is_file(), has_reference, "{}", file.display());
                if asked_again && has_reference {
                    let mut bytes = fs::read(file).unwrap();
                    *bytes.last_mut().unwrap() ^= 1;
                    fs::write(file, bytes).unwrap();
                }
            }
            let resumed = short
                .train(objective, &name, &format!("{flags} --steps 4 --resume"))
                .ok();
            let is_asked = resumed
                .stdout
                .contains("The reference is the model without an adapter");
            assert_eq!(is_asked, asked_again && has_reference, "{}", resumed.stdout);
            assert!(
                short.place.adapter(&name) == short.place.adapter(&whole),
                "{name}"
            );
        }
    }
    short
        .train("dpo", "dpo-whole", "--beta 0.3 --label-smoothing 0.1 --eval-split 0.25 --eval-every 2 --save-every 2 --lr 5e-3 --steps 4 --resume")
        .refused(&["objective = ", "beta"]);
}

#[cfg(unix)]
#[test]
fn a_run_that_is_interrupted_goes_on_with_the_same_bits() {
    let short = Short::new();
    let flags = |name: &str| {
        let log = short.place.path(&format!("{name}.jsonl"));
        let mut command = short.command("kto", name);
        command.args([
            "--steps",
            "60",
            "--dropout",
            "0.1",
            "--packing",
            "--grad-accum",
            "2",
        ]);
        command.args(["--batch-size", "1", "--checkpointing", "layer"]);
        command.arg("--log-json").arg(&log);
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        (command, log)
    };
    let (mut whole, log) = flags("whole");
    support::run(&mut whole).ok();
    let losses = |log: &Path| -> Vec<f64> {
        log_lines(log)
            .iter()
            .map(|line| number(line, "loss"))
            .collect()
    };
    let expected = losses(&log);
    assert_eq!(expected.len(), 60);
    let (mut stopped, log) = flags("run");
    let stopped = stop_after(&mut stopped, &log, 3, "-INT").ok();
    if stopped.stdout.contains("Stopped after step") {
        let (mut resumed, _) = flags("run");
        support::run(resumed.arg("--resume")).ok();
    }
    assert_eq!(losses(&log), expected);
    assert!(short.place.adapter("run") == short.place.adapter("whole"));
}

/// What the reference has given is there as soon as it has given it: a kill, and Ctrl-C, lose a batch at most.
#[cfg(unix)]
#[test]
fn a_reference_that_is_killed_on_the_way_goes_on_where_it_was() {
    const ROWS: usize = 600;
    let short = Short::new();
    let pair = |i: usize| json!({ "prompt": format!("{i}?"), "chosen": format!(" {}.", i * i), "rejected": " who knows" });
    let lines = (0..ROWS).map(|i| format!("{}\n", pair(i)));
    short.place.file("pairs.jsonl", lines.collect::<String>());
    let command = |name: &str, more: &[&str]| {
        let mut command = short.command("dpo", name);
        command
            .args(["--steps", "1", "--batch-size", "1"])
            .args(more);
        command.stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::piped());
        command
    };
    support::run(&mut command("whole", &[])).ok();
    let read = |name: &str| fs::read(short.place.path(name).join("reference.cache")).unwrap();
    let whole = read("whole");
    for (name, signal) in [("killed", "-KILL"), ("stopped", "-INT")] {
        let part = short.place.path(name).join("reference.cache.part");
        let stopped = stop_at(&mut command(name, &[]), &part, 2000, signal);
        assert_eq!(
            stopped.code,
            (name == "stopped").then_some(0),
            "{stopped:#?}"
        );
        assert!(part.is_file(), "it was over before it was stopped");
        if name == "stopped" {
            assert!(stopped.stderr.contains("--resume"), "{stopped:#?}");
        }
        // A piece of 48 bytes a row, behind 24.
        let seen = (fs::metadata(&part).unwrap().len() as usize - 24) / 48;
        assert!((1..ROWS).contains(&seen), "{seen}");
        let resumed = support::run(&mut command(name, &["--resume"])).ok();
        let told = format!("The reference has seen {seen} of {ROWS} rows");
        assert!(resumed.stdout.contains(&told), "{told}: {resumed:#?}");
        assert!(!part.exists());
        assert!(read(name) == whole, "{name}");
        assert!(
            short.place.adapter(name) == short.place.adapter("whole"),
            "{name}"
        );
    }
}

/// An adapter that a run starts from is its reference: of the first step nothing is learnt yet.
#[test]
fn the_reference_of_a_given_adapter_is_that_adapter() {
    let short = Short::new();
    short.train("orpo", "first", "--steps 2 --lr 5e-2").ok();
    let log = short.place.path("second.jsonl");
    let first = short.place.path("first");
    let mut command = support::train(
        &short.model,
        &short.data("dpo"),
        &short.place.path("second"),
    );
    command
        .args(["--objective", "dpo", "--steps", "1", "--init-adapter"])
        .arg(&first);
    command.arg("--log-json").arg(&log);
    let run = support::run(&mut command).ok();
    assert!(
        run.stdout
            .contains("with the adapter that the run starts from"),
        "{}",
        run.stdout
    );
    let line = &log_lines(&log)[0];
    let loss = number(line, "loss");
    assert!((loss - 2f64.ln()).abs() < 1e-9, "{loss}");
    assert_eq!(number(line, "rewards/chosen"), 0.0);
}

#[test]
fn what_does_not_fit_the_objective_is_refused() {
    let short = Short::new();
    let rows = short.place.rows(4);
    let (pairs, labelled) = (short.data("dpo"), short.data("kto"));
    let refused = |data: &Path, flags: &str, needles: &[&str]| {
        let output = short.place.path("run");
        let run = support::run(support::train(&short.model, data, &output).args(flags.split(' ')));
        run.refused(needles);
        assert!(!output.exists(), "{flags}");
    };
    refused(
        &pairs,
        "--seq-len 64",
        &["pairs.jsonl:1: ", "--objective dpo, orpo or kto"],
    );
    refused(
        &rows,
        "--objective dpo",
        &["rows.jsonl:1: ", "--objective sft learns such rows"],
    );
    refused(
        &labelled,
        "--objective orpo",
        &["labelled.jsonl:1: ", "--objective kto learns such rows"],
    );
    refused(
        &rows,
        "--objective kto",
        &[
            "rows.jsonl:1: ",
            "needs \"prompt\", \"completion\" and \"label\"",
        ],
    );
    refused(
        &pairs,
        "--beta 0.1",
        &["--beta belongs to --objective dpo, orpo or kto"],
    );
    refused(
        &pairs,
        "--objective orpo --label-smoothing 0.1",
        &["--label-smoothing belongs to --objective dpo"],
    );
    refused(
        &pairs,
        "--objective dpo --desirable-weight 2",
        &["--desirable-weight belongs to --objective kto"],
    );
    refused(
        &pairs,
        "--objective dpo --undesirable-weight 2",
        &["--undesirable-weight belongs to --objective kto"],
    );
    refused(
        &pairs,
        "--objective dpo --learn everything",
        &["--learn belongs to --objective sft"],
    );
    refused(
        &labelled,
        "--objective kto --batch-size 1",
        &["at least 2 with KTO"],
    );
    refused(
        &short.place.text(),
        "--objective dpo",
        &["a text holds no preferences"],
    );
}

#[test]
fn preferences_are_shown_counted_and_planned() {
    let short = Short::new();
    let look = |objective: &str| {
        let flags = ["--objective", objective, "--show", "1", "--json"];
        finetune!("data", "--model", &short.model, "--data", short.data(objective); flags).ok()
    };
    let run = look("dpo");
    let expected = "--- chosen\n0?⟦ 0.</s>⟧\n--- rejected\n0?⟦ who knows</s>⟧\n";
    assert!(run.stdout.contains(expected), "{}", run.stdout);
    assert_eq!(
        run.last_json()["shown"][0]["verdicts"],
        json!(["chosen", "rejected"])
    );
    let run = look("kto");
    assert!(
        run.stdout.contains("--- undesirable\n0?⟦ 0.</s>⟧\n"),
        "{}",
        run.stdout
    );
    assert!(
        run.stdout
            .contains("labels      8 desirable, 4 undesirable\n"),
        "{}",
        run.stdout
    );
    assert_eq!(
        run.last_json()["labels"],
        json!({"desirable": 8, "undesirable": 4})
    );

    let plan = |flags: &str| {
        let run = finetune!("plan", "--like", "llama-7b"; flags.split(' ')).ok();
        (printed_bytes(&run.stdout, "head "), run.stdout)
    };
    let (texts, _) = plan("--batch-size 4 --seq-len 256");
    let (pairs, stdout) = plan("--batch-size 2 --seq-len 256 --objective dpo");
    assert_eq!(pairs, texts);
    assert!(stdout.contains("batches of 4 × 256 tokens"), "{stdout}");
    let run = short.train("kto", "run", "--steps 1").ok();
    assert!(
        run.stderr.contains("8 answers are desirable and 4 are not: --desirable-weight 0.50 or --undesirable-weight 2.00"),
        "{}",
        run.stderr
    );
}
