//! Tokens of one's own: added, trained, saved, read back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{self, FINETUNE, Place, Run, byte_tokenizer, eval, log_lines, number};

/// What all runs here have in common.
const SETTINGS: [&str; 8] = [
    "--quant",
    "none",
    "--seq-len",
    "64",
    "--rank",
    "2",
    "--lr",
    "1e-2",
];

/// A model that has a row for each token of its tokenizer and no more, and rows with two tokens that it lacks.
struct Extended {
    place: Place,
    model: PathBuf,
    rows: PathBuf,
    tokens: PathBuf,
}

impl Extended {
    fn new(fixture: &str) -> Self {
        let place = Place::new();
        let model = place.model(fixture);
        let mut tokenizer = byte_tokenizer();
        // As llama.cpp has words for: GPT-2's way of cutting, and at least one pair that is merged.
        tokenizer["pre_tokenizer"]["use_regex"] = json!(true);
        tokenizer["model"]["vocab"]["th"] = json!(259);
        tokenizer["model"]["merges"] = json!([["t", "h"]]);
        let added = tokenizer["added_tokens"].as_array_mut().expect("a list");
        for id in 260..512 {
            added.push(
                json!({ "id": id, "content": format!("<filler {id}>"), "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false, "special": true }),
            );
        }
        fs::write(model.join("tokenizer.json"), tokenizer.to_string()).expect("written");
        let row = |i: usize| json!({ "prompt": format!("<call> {i}"), "completion": format!(" {} <end call>", i * i) });
        let text: String = (0..12).map(|i| format!("{}\n", row(i))).collect();
        Self {
            rows: place.file("calls.jsonl", text),
            tokens: place.file("tokens.txt", "<call>\n<end call>\n"),
            place,
            model,
        }
    }

    fn command(&self, command: &str, name: &str) -> Command {
        let mut train = support::train(&self.model, &self.rows, &self.place.path(name));
        if command != "train" {
            let arguments: Vec<_> = train.get_args().skip(1).map(ToOwned::to_owned).collect();
            train = Command::new(FINETUNE);
            train.arg(command).args(arguments);
        }
        train.args(SETTINGS);
        train.args(["--steps", "4"]);
        train
    }

    fn train(&self, name: &str, more: &[&str]) -> Run {
        let mut train = self.command("train", name);
        train
            .args(["--save-every", "2", "--eval-data"])
            .arg(&self.rows);
        support::run(train.args(more))
    }

    fn with_tokens(&self, name: &str, more: &[&str]) -> Run {
        let tokens = self.tokens.to_str().expect("UTF-8");
        self.train(name, &[more, &["--add-tokens", tokens]].concat())
    }

    fn nll(&self, model: &Path, adapter: Option<&Path>) -> Value {
        let mut command = eval(model, &self.rows);
        command.args(["--quant", "none", "--seq-len", "64", "--json"]);
        if let Some(adapter) = adapter {
            command.arg("--adapter").arg(adapter);
        }
        support::run(&mut command).ok().last_json()
    }

    fn export(&self, adapter: Option<&Path>, to: &str, name: &str) -> Run {
        let mut command = Command::new(FINETUNE);
        command.arg("export").arg("--model").arg(&self.model);
        if let Some(adapter) = adapter {
            command.arg("--adapter").arg(adapter);
        }
        command
            .args(["--to", to])
            .arg("--output")
            .arg(self.place.path(name));
        if to != "adapter-gguf" {
            command.args(["--dtype", "f32"]);
        }
        support::run(&mut command)
    }
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("it is there")).expect("JSON")
}

#[test]
fn added_tokens_are_trained_saved_and_read_back() {
    for (fixture, indices) in [
        ("tiny_llama_tied", json!([512, 513])),
        (
            "tiny_llama",
            json!({ "embed_tokens": [512, 513], "lm_head": [512, 513] }),
        ),
    ] {
        let extended = Extended::new(fixture);
        let place = &extended.place;
        extended.with_tokens("run", &[]).ok();
        let run = place.path("run");
        let config = json_file(&run.join("adapter_config.json"));
        assert_eq!(config["trainable_token_indices"], indices);
        let checkpoint = run.join("checkpoints/step-00000004");
        for folder in [&run, &checkpoint] {
            let tokenizer = json_file(&folder.join("tokenizer.json"));
            let added = tokenizer["added_tokens"].as_array().expect("a list");
            let last = added.last().expect("one");
            assert_eq!(last["content"], "<end call>");
            assert_eq!(
                (&last["id"], &last["special"]),
                (&json!(513), &json!(false))
            );
            assert_eq!(last["normalized"], json!(false));
            assert!(folder.join("tokenizer_config.json").is_file());
        }
        // A token is one place of a row: without them the same text is longer.
        let evaluations = place.evaluations("run");
        let trained = number(&evaluations.last().expect("one")["evaluation"], "nll");
        let plain = extended.nll(&extended.model, None);
        for adapter in [&run, &checkpoint] {
            let found = extended.nll(&extended.model, Some(adapter));
            assert_eq!(number(&found, "nll"), trained, "{fixture}");
            assert!(number(&found, "tokens") < number(&plain, "tokens"));
        }

        // Killed and gone on with, the same bits; with other tokens, refused.
        let whole = place.adapter("run");
        fs::remove_dir_all(&checkpoint).expect("removed");
        extended
            .train("run", &["--resume"])
            .refused(&["add-tokens"]);
        extended.with_tokens("run", &["--resume"]).ok();
        assert!(place.adapter("run") == whole, "{fixture}");

        // Merged, and written for others.
        let merged = extended.export(Some(&run), "hf", "merged").ok();
        assert!(
            merged.stdout.contains("rows of 2 tokens"),
            "{}",
            merged.stdout
        );
        let folder = place.path("merged");
        let config = json_file(&folder.join("config.json"));
        assert_eq!(config["vocab_size"], 514);
        assert_eq!(config["tie_word_embeddings"], fixture == "tiny_llama_tied");
        extended.export(Some(&run), "gguf", "merged.gguf").ok();
        for written in [folder, place.path("merged.gguf")] {
            let found = extended.nll(&written, None);
            // One f32 weight in place of two products.
            let off = (number(&found, "nll") - trained).abs();
            assert!(
                off < 1e-5,
                "{fixture}: {} is {off:e} off",
                written.display()
            );
        }
        extended
            .export(Some(&run), "adapter-gguf", "adapter.gguf")
            .refused(&["model.embed_tokens"]);

        // On from there, with the tokens of the adapter.
        let adapter = run.to_str().expect("UTF-8");
        let mut more = support::train(&extended.model, &extended.rows, &place.path("more"));
        more.args(["--quant", "none", "--seq-len", "64", "--steps", "1"]);
        support::run(more.args(["--init-adapter", adapter])).ok();
        let config = json_file(&place.path("more").join("adapter_config.json"));
        assert_eq!(config["trainable_token_indices"], indices);
        assert!(place.path("more").join("tokenizer.json").is_file());

        // Without the tokenizer nobody knows what the rows are of.
        fs::remove_file(run.join("tokenizer.json")).expect("removed");
        let mut command = eval(&extended.model, &extended.rows);
        support::run(command.arg("--adapter").arg(&run)).refused(&["512", "tokenizer.json"]);
    }
}

/// Vocabularies are padded: tokens have rows of the model that no token had, as they are; others only the mean of all rows.
#[test]
fn spare_rows_are_taken_before_there_are_new_ones() {
    let extended = Extended::new("tiny_llama_tied");
    let place = &extended.place;
    fs::write(
        extended.model.join("tokenizer.json"),
        byte_tokenizer().to_string(),
    )
    .expect("written");
    extended.with_tokens("run", &[]).ok();
    let run = place.path("run");
    let config = json_file(&run.join("adapter_config.json"));
    assert_eq!(config["trainable_token_indices"], json!([259, 260]));
    let trained = extended.nll(&extended.model, Some(&run));
    extended.export(Some(&run), "hf", "merged").ok();
    let folder = place.path("merged");
    assert_eq!(json_file(&folder.join("config.json"))["vocab_size"], 512);
    let found = extended.nll(&folder, None);
    assert!((number(&found, "nll") - number(&trained, "nll")).abs() < 1e-5);
}

/// A file of llama.cpp has the tokenizer in it; what is written of it is the same file with two tokens more.
#[test]
fn a_gguf_file_gets_tokens_as_well() {
    let mut extended = Extended::new("tiny_llama_tied");
    extended.export(None, "gguf", "base.gguf").ok();
    extended.model = extended.place.path("base.gguf");
    extended.with_tokens("run", &[]).ok();
    let run = extended.place.path("run");
    let trained = extended.nll(&extended.model, Some(&run));
    extended.export(Some(&run), "gguf", "merged.gguf").ok();
    let found = extended.nll(&extended.place.path("merged.gguf"), None);
    assert!((number(&found, "nll") - number(&trained, "nll")).abs() < 1e-5);
    let plain = extended.nll(&extended.model, None);
    assert!(number(&found, "tokens") < number(&plain, "tokens"));
}

/// Each loss of a token has a weight of its own there.
#[test]
fn preferences_train_them_too() {
    let extended = Extended::new("tiny_llama_tied");
    let row = |i: usize| json!({ "prompt": format!("<call> {i}"), "chosen": " yes <end call>", "rejected": format!(" no {i}") });
    let text: String = (0..8).map(|i| format!("{}\n", row(i))).collect();
    let pairs = extended.place.file("pairs.jsonl", text);
    let tokens = extended.tokens.to_str().expect("UTF-8");
    for name in ["none", "layer"] {
        let output = extended.place.path(name);
        let mut train = support::train(&extended.model, &pairs, &output);
        train.args(SETTINGS);
        train.args(["--steps", "3", "--objective", "dpo", "--add-tokens", tokens]);
        train.args(["--checkpointing", name, "--log-json"]);
        let log = extended.place.path(&format!("{name}.jsonl"));
        support::run(train.arg(&log)).ok();
        let losses: Vec<f64> = log_lines(&log)
            .iter()
            .map(|line| number(line, "loss"))
            .collect();
        assert!(losses[2] < losses[0], "{losses:?}");
    }
    assert!(extended.place.adapter("none") == extended.place.adapter("layer"));
}

#[test]
fn tokens_of_the_model_are_trained_by_their_ids() {
    let extended = Extended::new("tiny_llama");
    extended.train("plain", &[]).ok();
    extended.train("rows", &["--train-tokens", "2,40"]).ok();
    let config = json_file(&extended.place.path("rows").join("adapter_config.json"));
    let indices = json!({ "embed_tokens": [2, 40], "lm_head": [2, 40] });
    assert_eq!(config["trainable_token_indices"], indices);
    assert!(!extended.place.path("rows").join("tokenizer.json").exists());
    let of = |name: &str| {
        let adapter = extended.place.path(name);
        number(&extended.nll(&extended.model, Some(&adapter)), "nll")
    };
    assert!(of("rows") < of("plain"));
}

#[test]
fn what_cannot_be_added_or_trained_is_refused_by_name() {
    let extended = Extended::new("tiny_llama");
    let place = &extended.place;
    for (name, text, needles) in [
        ("none.txt", "", ["--add-tokens", "no tokens"]),
        ("blank.txt", "<x>\n\n<y>\n", ["token 2 is empty", "remove"]),
        ("twice.txt", "<x>\n<y>\n<x>\n", ["\"<x>\"", "twice"]),
        ("known.txt", "<x>\n</s>\n", ["\"</s>\"", "token 2"]),
        ("bad.json", "{\"a\": 1}", ["--add-tokens", "JSON list"]),
    ] {
        let file = place.file(name, text);
        let file = file.to_str().expect("UTF-8");
        extended
            .train("out", &["--add-tokens", file])
            .refused(&needles);
    }
    for (flags, needles) in [
        (["--train-tokens", "512"], ["--train-tokens 512", "511"]),
        (["--train-tokens", "3,3"], ["--train-tokens 3", "twice"]),
        (["--train-tokens", "x"], ["--train-tokens", "invalid"]),
        (
            ["--add-tokens", "nowhere.txt"],
            ["nowhere.txt", "cannot be read"],
        ),
    ] {
        extended.train("out", &flags).refused(&needles);
    }
    let with_adapter = ["--train-tokens", "3", "--init-adapter", "some"];
    let mut command = support::train(&extended.model, &extended.rows, &place.path("out"));
    support::run(command.args(with_adapter)).refused(&["--init-adapter", "--train-tokens"]);
    assert!(place.listing("out").is_empty());
}

/// A hundred rows of 64 values in f32, and of a head of its own as many.
#[test]
fn rows_are_planned() {
    for (fixture, tables) in [("tiny_llama_tied", 1.0), ("tiny_llama", 2.0)] {
        let extended = Extended::new(fixture);
        let tokens: String = (0..100).map(|i| format!("<token {i}>\n")).collect();
        let tokens = extended.place.file("hundred.txt", tokens);
        let adapters = |more: &[&str]| {
            let mut plan = extended.command("plan", "out");
            let stdout = support::run(plan.args(more)).ok().stdout;
            support::printed_bytes(&stdout, "adapters")
        };
        let tokens = ["--add-tokens", tokens.to_str().expect("UTF-8")];
        let more = adapters(&tokens) - adapters(&[]);
        let expected = tables * 100.0 * 64.0 * 4.0;
        // As printed, each to the nearest kilobyte.
        assert!((more - expected).abs() <= 1000.0, "{fixture}: {more}");
    }
}
