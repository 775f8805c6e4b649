//! The first steps of a run, taken again: the same, or named what is otherwise.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use qlora_test_support::fixture;
use serde_json::{Value, json};

use crate::support::{self, FINETUNE, Place, Run};

/// A short run that is there to be verified.
struct Verified {
    place: Place,
    model: PathBuf,
    rows: PathBuf,
}

impl Verified {
    fn new() -> Self {
        let place = Place::new();
        let (model, rows) = (place.model("tiny_llama"), place.rows(12));
        Self { place, model, rows }
    }

    fn train(&self, name: &str, more: &[&str]) -> Run {
        let mut command = support::train(&self.model, &self.rows, &self.place.path(name));
        command.args(["--seq-len", "64", "--rank", "2", "--lr", "5e-3"]);
        command.args(["--dropout", "0.1", "--batch-size", "2"]);
        support::run(command.args(more)).ok()
    }

    fn verify(&self, name: &str, more: &[&str]) -> Run {
        support::run(verify(&self.place.path(name)).args(more))
    }

    /// Changes what is in `run.json`.
    fn edit(&self, name: &str, change: &dyn Fn(&mut Value)) {
        let path = self.place.path(name).join("run.json");
        let text = fs::read(&path).expect("there is a run");
        let mut settings = serde_json::from_slice(&text).expect("JSON");
        change(&mut settings);
        fs::write(path, settings.to_string()).expect("written");
    }
}

fn verify(run: &Path) -> Command {
    let mut command = Command::new(FINETUNE);
    command.arg("verify").arg(run);
    command
}

impl Run {
    /// Checks that the run is not the same, and says so with each of `needles`.
    #[track_caller]
    fn not_the_same(&self, needles: &[&str]) {
        assert_eq!(self.code, Some(1), "{self:#?}");
        for needle in needles {
            let told = |line: &str| line.starts_with("Not the same: ") && line.contains(needle);
            assert!(self.stdout.lines().any(told), "`{needle}`: {self:#?}");
        }
        assert!(!self.stdout.contains("are the same"), "{self:#?}");
    }

    /// Checks that `steps` steps are the same, bit by bit.
    #[track_caller]
    fn the_same(self, steps: usize) {
        let run = self.ok();
        let last = run.stdout.lines().last().unwrap_or_default();
        assert_eq!(
            last,
            format!("The first {steps} steps are the same"),
            "{run:#?}"
        );
        assert!(run.stdout.contains("compared bit by bit"), "{run:#?}");
        let told = run
            .stdout
            .lines()
            .filter(|line| line.ends_with(", as recorded"));
        assert_eq!(told.count(), steps, "{run:#?}");
    }
}

/// The files of a folder and of those in it, with their contents.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).expect("read");
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

#[test]
fn a_run_is_the_same_on_one_thread_and_nothing_is_written() {
    let verified = Verified::new();
    verified.train(
        "run",
        &["--steps", "7", "--packing", "--schedule", "cosine"],
    );
    let run = verified.place.path("run");
    let before = contents(&run);
    verified.verify("run", &[]).the_same(5);
    let mut command = verify(&run);
    command.args(["--steps", "7"]).env("RAYON_NUM_THREADS", "1");
    support::run(&mut command).the_same(7);
    assert!(contents(&run) == before);
    verified
        .verify("run", &["--steps", "8"])
        .refused(&["--steps 8", "at most 7"]);

    // A step more than the run can have taken.
    let metrics = run.join("metrics.jsonl");
    let text = fs::read_to_string(&metrics).expect("read");
    let last = text.lines().rfind(|line| line.contains("\"loss\":"));
    let more = last
        .expect("a step")
        .replacen("\"step\":7", "\"step\":8", 1);
    fs::write(&metrics, format!("{text}{more}\n")).expect("written");
    verified
        .verify("run", &["--steps", "8"])
        .not_the_same(&["the run ends after 7"]);
}

#[test]
fn a_run_that_was_stopped_and_trained_again_is_taken_from_its_first_step() {
    let verified = Verified::new();
    let log = verified.place.path("log.jsonl");
    let more = [
        "--save-every",
        "2",
        "--eval-split",
        "0.25",
        "--eval-every",
        "2",
        "--keep-best",
    ];
    let more = [
        &more[..],
        &["--log-json", log.to_str().expect("UTF-8"), "--tensorboard"],
    ]
    .concat();
    verified.train("run", &[&more[..], &["--steps", "2"]].concat());
    verified.train("run", &[&more[..], &["--steps", "5", "--resume"]].concat());
    let before = fs::read(&log).expect("read");
    verified.verify("run", &["--steps", "5"]).the_same(5);
    assert!(fs::read(&log).expect("read") == before);

    // Steps of another machine are told, and held against a tolerance if it was another device.
    let metrics = verified.place.path("run/metrics.jsonl");
    let text = fs::read_to_string(&metrics).expect("read");
    let later = text.rfind("\"device\":\"flex\"").expect("a process");
    let device = "\"device\":\"wgpu\"";
    let edited = [&text[..later], device, &text[later + device.len()..]].concat();
    fs::write(&metrics, edited).expect("written");
    let two = verified.verify("run", &["--steps", "2"]);
    two.the_same(2);
    let five = verified.verify("run", &[]).ok();
    assert!(five.stdout.contains("within 1e-3"), "{five:#?}");
    assert!(
        five.stderr.contains("steps from 3 on were taken on wgpu"),
        "{five:#?}"
    );
}

#[test]
fn adapters_optimizers_and_other_methods_are_taken_again() {
    let verified = Verified::new();
    verified.train("first", &["--steps", "1"]);
    let first = verified.place.path("first");
    let first = first.to_str().expect("UTF-8");
    let config = format!(
        "model = {:?}\ndata = [{:?}]\ninit-adapter = {first:?}\nseq-len = 64\nsteps = 2\ndata-weights = [1.5]\n\
         optimizer = \"paged-adamw\"\noptimizer-budget = \"0\"\nneftune-alpha = 5\ntruncate = true\n",
        verified.model, verified.rows
    );
    let config = verified.place.file("config.toml", config);
    let run = verified.place.path("run");
    let mut command = Command::new(FINETUNE);
    command.arg("train").arg("--config").arg(&config);
    support::run(command.arg("--output").arg(&run)).ok();
    // What stood in the file is written down.
    fs::remove_file(config).expect("removed");
    verified.verify("run", &[]).the_same(2);
}

#[test]
fn preferences_are_taken_again() {
    let verified = Verified::new();
    let labelled = |i: usize| json!({ "prompt": format!("{i}?"), "completion": format!(" {}.", i * i), "label": !i.is_multiple_of(3) });
    let pair = |i: usize| json!({ "prompt": format!("{i}?"), "chosen": format!(" {}.", i * i), "rejected": " who knows" });
    let lines =
        |row: &dyn Fn(usize) -> Value| (0..40).map(|i| format!("{}\n", row(i))).collect::<String>();
    for (objective, text) in [
        ("dpo", lines(&pair)),
        ("orpo", lines(&pair)),
        ("kto", lines(&labelled)),
    ] {
        let data = verified.place.file(&format!("{objective}.jsonl"), text);
        let run = verified.place.path(objective);
        let mut command = support::train(&verified.model, &data, &run);
        command.args([
            "--objective",
            objective,
            "--seq-len",
            "64",
            "--rank",
            "2",
            "--lr",
            "5e-3",
        ]);
        support::run(command.args(["--steps", "3", "--batch-size", "2"])).ok();
        // What the run has of the reference is not what is compared with.
        let _ = fs::remove_file(run.join("reference.cache"));
        verified.verify(objective, &[]).the_same(3);
    }
}

#[test]
fn what_has_moved_is_named_and_found() {
    let verified = Verified::new();
    let place = &verified.place;
    place.file("tokens.txt", "<note>\n");
    // Relative paths, of a folder that the run was started in.
    let mut command = Command::new(FINETUNE);
    command.args([
        "train",
        "--model",
        "tiny_llama",
        "--data",
        "rows.jsonl",
        "--output",
        "run",
    ]);
    command
        .args(["--seq-len", "64", "--steps", "2"])
        .args(["--add-tokens", "tokens.txt"])
        .current_dir(place.path(""));
    support::run(&mut command).ok();
    verified.verify("run", &[]).the_same(2);
    place.file("tokens.txt", "<other>\n");
    verified.verify("run", &[]).not_the_same(&["add-tokens"]);
    place.file("tokens.txt", "<note>\n");
    let moved = place.path("moved");
    fs::rename(&verified.model, &moved).expect("renamed");
    verified
        .verify("run", &[])
        .refused(&["tiny_llama", "--model"]);
    let model = ["--model", moved.to_str().expect("UTF-8")];
    verified.verify("run", &model).the_same(2);
    let rows = place.path("other.jsonl");
    fs::rename(&verified.rows, &rows).expect("renamed");
    verified
        .verify("run", &model)
        .refused(&["rows.jsonl", "--data"]);
    let data = ["--data", rows.to_str().expect("UTF-8")];
    verified
        .verify("run", &[&model[..], &data].concat())
        .the_same(2);
    let twice = [&model[..], &data, &data].concat();
    verified
        .verify("run", &twice)
        .refused(&["--data", "2 times", "1 times"]);
    verified
        .verify("run", &["--init-adapter", "x"])
        .refused(&["--init-adapter", "started from none"]);
}

/// A byte of each file, a setting, and a loss by its last bit.
#[test]
fn whatever_is_otherwise_is_named() {
    let verified = Verified::new();
    verified.train("run", &["--steps", "3"]);
    let changed = |path: &Path, from: &str, to: &str, needles: &[&str]| {
        let before = fs::read(path).expect("read");
        let text = String::from_utf8_lossy(&before).replacen(from, to, 1);
        assert_ne!(text.as_bytes(), before, "{from}");
        fs::write(path, text).expect("written");
        verified.verify("run", &[]).not_the_same(needles);
        fs::write(path, before).expect("written");
    };
    // The last row is in none of the first steps perhaps, and a byte behind all objects in no row at all.
    changed(
        &verified.rows,
        "11 and 121",
        "11 and 122",
        &["rows.jsonl is another file", "another data"],
    );
    changed(
        &verified.rows,
        "}\n",
        "} \n",
        &["rows.jsonl is another file"],
    );
    let tokenizer = verified.model.join("tokenizer.json");
    changed(&tokenizer, "{", "{ ", &["tokenizer.json is another file"]);
    let settings = verified.model.join("tokenizer_config.json");
    changed(
        &settings,
        "{",
        "{ ",
        &["tokenizer_config.json is another file"],
    );
    let config = verified.model.join("config.json");
    changed(
        &config,
        "{",
        "{ ",
        &["config.json is another file", "another model"],
    );

    let weights = verified.model.join("model.safetensors");
    let before = fs::read(&weights).expect("read");
    let mut bytes = before.clone();
    *bytes.last_mut().expect("bytes") ^= 1;
    fs::write(&weights, bytes).expect("written");
    verified
        .verify("run", &[])
        .not_the_same(&["model.safetensors is another file"]);
    fs::write(&weights, before).expect("written");
    verified.verify("run", &[]).the_same(3);

    // Another seed: what is written down of it alone, and the one that the run is done again by.
    let record = fs::read(verified.place.path("run/run.json")).expect("read");
    let restore = || fs::write(verified.place.path("run/run.json"), &record).expect("written");
    verified.edit("run", &|settings| settings["seed"] = 7.into());
    verified
        .verify("run", &[])
        .not_the_same(&["seed = 7, but now it is 42"]);
    restore();
    verified.edit("run", &|settings| {
        settings["seed"] = 7.into();
        let arguments = settings["origin"]["arguments"]
            .as_array_mut()
            .expect("arguments");
        arguments.extend(["--seed".into(), "7".into()]);
    });
    verified
        .verify("run", &[])
        .not_the_same(&["step 1: the loss was "]);
    restore();
    verified.edit("run", &|settings| {
        settings["origin"]["version"] = "0.0.1".into()
    });
    let run = verified.verify("run", &[]).ok();
    assert!(run.stderr.contains("started by finetune 0.0.1"), "{run:#?}");
    restore();

    // A neighbour of the loss of the second step.
    let metrics = verified.place.path("run/metrics.jsonl");
    let text = fs::read_to_string(&metrics).expect("read");
    let line = text
        .lines()
        .find(|line| line.contains("\"step\":2,\"loss\":"))
        .expect("a step");
    let (_, rest) = line.split_once("\"loss\":").expect("a loss");
    let loss = rest.split(',').next().expect("its text");
    let number: f64 = loss.parse().expect("a number");
    for neighbour in [number.next_up(), number.next_down()] {
        let told = format!("step 2: the loss was {neighbour:?}, and is {number:?}");
        let line = line.replacen(loss, &format!("{neighbour:?}"), 1);
        let edited = text.lines().map(|one| {
            if one.contains("\"step\":2,\"loss\":") {
                &line
            } else {
                one
            }
        });
        let edited: String = edited.map(|line| format!("{line}\n")).collect();
        fs::write(&metrics, edited).expect("written");
        verified.verify("run", &[]).not_the_same(&[&told]);
    }
    fs::write(&metrics, &text).expect("written");
    verified.verify("run", &[]).the_same(3);
}

/// A model by its name on the Hub, whose branch has moved on since.
#[cfg(feature = "hub")]
#[test]
fn a_model_of_the_hub_is_found_by_its_name() {
    let verified = Verified::new();
    let cache = verified.place.path("cache");
    let repo = cache.join("hub/models--owner--name");
    fs::create_dir_all(repo.join("refs")).expect("made");
    fs::create_dir_all(repo.join("snapshots")).expect("made");
    fs::write(repo.join("refs/main"), "first").expect("written");
    fs::rename(&verified.model, repo.join("snapshots/first")).expect("moved");
    let name = Path::new("owner/name");
    let mut command = support::train(name, &verified.rows, &verified.place.path("run"));
    command.args(["--seq-len", "64", "--steps", "1"]);
    support::run(command.env("HF_HOME", &cache)).ok();
    let verify = || support::run(verify(&verified.place.path("run")).env("HF_HOME", &cache));
    verify().the_same(1);
    let next = verified.place.model("tiny_llama_tied");
    fs::rename(next, repo.join("snapshots/second")).expect("moved");
    fs::write(repo.join("refs/main"), "second").expect("written");
    verify().not_the_same(&["snapshots/second/model.safetensors is another file"]);
}

/// The last byte of a file whose blocks are kept.
#[test]
fn a_gguf_file_is_held_against_its_checksum() {
    let verified = Verified::new();
    let model = verified.place.path("model.gguf");
    let source = fixture("families/smollm3/gguf/smollm3-f32.gguf");
    fs::copy(source, &model).expect("copied");
    let mut command = support::train(&model, &verified.rows, &verified.place.path("run"));
    support::run(command.args(["--seq-len", "64", "--steps", "1"])).ok();
    verified.verify("run", &[]).the_same(1);
    let mut bytes = fs::read(&model).expect("read");
    *bytes.last_mut().expect("bytes") ^= 1;
    fs::write(&model, bytes).expect("written");
    verified
        .verify("run", &[])
        .not_the_same(&["model.gguf is another file"]);
}

#[test]
fn a_run_that_cannot_be_done_again_says_what_is_missing() {
    let verified = Verified::new();
    verified.train("run", &["--steps", "1"]);
    verified.edit("run", &|settings| {
        settings
            .as_object_mut()
            .expect("an object")
            .remove("origin");
    });
    verified
        .verify("run", &[])
        .refused(&["run.json", "\"origin\"", "older version", "--resume"]);
    // Which goes on as ever.
    verified.train("run", &["--steps", "2", "--resume"]);
    verified
        .verify("none", &[])
        .refused(&["none", "no run.json"]);
    fs::remove_file(verified.place.path("run/metrics.jsonl")).expect("removed");
    verified.edit("run", &|settings| {
        settings["origin"] = json!({ "version": 1 })
    });
    verified.verify("run", &[]).refused(&["\"origin\" is none"]);
}
