//! An adapter on the head: trained, saved, read back, merged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{self, FINETUNE, Place, Run, byte_tokenizer, eval, log_lines, number};

/// What all runs here have in common.
const SETTINGS: [&str; 10] = [
    "--quant",
    "none",
    "--seq-len",
    "64",
    "--rank",
    "2",
    "--lr",
    "1e-2",
    "--target",
    "q_proj,lm_head",
];

struct Adapted {
    place: Place,
    model: PathBuf,
    rows: PathBuf,
}

impl Adapted {
    fn new(fixture: &str) -> Self {
        let place = Place::new();
        let model = place.model(fixture);
        // As llama.cpp has words for: GPT-2's way of cutting, and at least one pair that is merged.
        let mut tokenizer = byte_tokenizer();
        tokenizer["pre_tokenizer"]["use_regex"] = json!(true);
        tokenizer["model"]["vocab"]["th"] = json!(259);
        tokenizer["model"]["merges"] = json!([["t", "h"]]);
        fs::write(model.join("tokenizer.json"), tokenizer.to_string()).expect("written");
        Self {
            model,
            rows: place.rows(12),
            place,
        }
    }

    fn train(&self, name: &str, more: &[&str]) -> Run {
        let mut train = support::train(&self.model, &self.rows, &self.place.path(name));
        train.args(SETTINGS);
        train.args(["--steps", "4", "--save-every", "2", "--eval-data"]);
        support::run(train.arg(&self.rows).args(more))
    }

    fn nll(&self, model: &Path, adapter: Option<&Path>) -> f64 {
        let mut command = eval(model, &self.rows);
        command.args(["--quant", "none", "--seq-len", "64", "--json"]);
        if let Some(adapter) = adapter {
            command.arg("--adapter").arg(adapter);
        }
        number(&support::run(&mut command).ok().last_json(), "nll")
    }

    fn export(&self, to: &str, name: &str) -> Run {
        let mut command = Command::new(FINETUNE);
        command.args(["export", "--to", to, "--model"]);
        command.arg(&self.model);
        command.arg("--adapter").arg(self.place.path("run"));
        command.arg("--output").arg(self.place.path(name));
        if to != "adapter-gguf" {
            command.args(["--dtype", "f32"]);
        }
        support::run(&mut command)
    }

    fn generate(&self, model: &Path, adapter: Option<&Path>) -> String {
        let mut command = Command::new(FINETUNE);
        command.args(["generate", "--prompt", "3 and 9?", "--max-tokens", "12"]);
        command.args(["--temperature", "0", "--quant", "none", "--model"]);
        command.arg(model);
        if let Some(adapter) = adapter {
            command.arg("--adapter").arg(adapter);
        }
        support::run(&mut command).ok().stdout
    }
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("it is there")).expect("JSON")
}

/// The names and shapes of the tensors of the head in an adapter file.
fn of_head(file: &[u8]) -> Vec<(String, Value)> {
    let length = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + length]).expect("a header");
    let tensors = header.as_object().expect("an object").iter();
    let tensors = tensors.filter(|(name, _)| name.contains("lm_head"));
    tensors
        .map(|(name, info)| (name.clone(), info["shape"].clone()))
        .collect()
}

#[test]
fn it_is_trained_saved_and_read_back() {
    for fixture in ["tiny_llama", "tiny_llama_tied"] {
        let adapted = Adapted::new(fixture);
        let place = &adapted.place;
        let is_tied = fixture == "tiny_llama_tied";
        let trained = adapted.train("run", &[]).ok();
        let told = trained.stderr.lines();
        let told = told.filter(|line| line.contains("its head is its embedding"));
        assert_eq!(told.count(), usize::from(is_tied), "{}", trained.stderr);
        let run = place.path("run");
        let config = json_file(&run.join("adapter_config.json"));
        assert_eq!(config["target_modules"], json!(["q_proj", "lm_head"]));
        assert_eq!(config["modules_to_save"], Value::Null);
        let whole = place.adapter("run");
        let factors = [
            ("base_model.model.lm_head.lora_A.weight", json!([2, 64])),
            ("base_model.model.lm_head.lora_B.weight", json!([512, 2])),
        ];
        let factors = factors.map(|(name, shape)| (name.to_owned(), shape));
        assert_eq!(of_head(&whole), factors, "{fixture}");
        let evaluations = place.evaluations("run");
        let nll = number(&evaluations.last().expect("one")["evaluation"], "nll");
        assert_eq!(adapted.nll(&adapted.model, Some(&run)), nll, "{fixture}");
        assert!(nll < adapted.nll(&adapted.model, None), "{fixture}");

        // Killed and gone on with, the same bits; and its steps taken again.
        fs::remove_dir_all(run.join("checkpoints/step-00000004")).expect("removed");
        adapted.train("run", &["--resume"]).ok();
        assert!(place.adapter("run") == whole, "{fixture}");
        let mut verify = Command::new(FINETUNE);
        support::run(verify.arg("verify").arg(&run).args(["--steps", "2"])).ok();

        // Merged, the head is a weight of its own; and what is generated is the same.
        adapted.export("hf", "merged").ok();
        let folder = place.path("merged");
        let config = json_file(&folder.join("config.json"));
        assert_eq!(config["tie_word_embeddings"], false, "{fixture}");
        adapted.export("gguf", "merged.gguf").ok();
        for written in [&folder, &place.path("merged.gguf")] {
            // One f32 weight in place of two products.
            let off = (adapted.nll(written, None) - nll).abs();
            assert!(
                off < 1e-5,
                "{fixture}: {} is {off:e} off",
                written.display()
            );
        }
        let text = adapted.generate(&adapted.model, Some(&run));
        assert_eq!(text, adapted.generate(&folder, None), "{fixture}");
        adapted
            .export("adapter-gguf", "adapter.gguf")
            .refused(&["lm_head"]);

        // On from there.
        let mut more = support::train(&adapted.model, &adapted.rows, &place.path("more"));
        more.args(["--quant", "none", "--seq-len", "64", "--steps", "1"]);
        support::run(more.arg("--init-adapter").arg(&run)).ok();
        assert_eq!(of_head(&place.adapter("more")), factors, "{fixture}");
    }
}

/// The reference of DPO is the model without it, so that the first loss is log 2; and what is kept for the backward pass changes
/// no bit.
#[test]
fn preferences_train_it_too() {
    let adapted = Adapted::new("tiny_llama_tied");
    let place = &adapted.place;
    let row = |i: usize| json!({ "prompt": format!("{i}? "), "chosen": format!("yes {i}"), "rejected": format!("no {i}") });
    let text: String = (0..8).map(|i| format!("{}\n", row(i))).collect();
    let pairs = place.file("pairs.jsonl", text);
    for name in ["none", "layer"] {
        let mut train = support::train(&adapted.model, &pairs, &place.path(name));
        train.args(SETTINGS);
        train.args(["--steps", "3", "--objective", "dpo", "--dropout", "0.1"]);
        train.args(["--checkpointing", name, "--log-json"]);
        let log = place.path(&format!("{name}.jsonl"));
        support::run(train.arg(&log)).ok();
        let losses: Vec<f64> = log_lines(&log)
            .iter()
            .map(|line| number(line, "loss"))
            .collect();
        // A fresh B is zero.
        assert!((losses[0] - 2f64.ln()).abs() < 1e-6, "{losses:?}");
        assert!(losses[2] < losses[0], "{losses:?}");
    }
    assert!(place.adapter("none") == place.adapter("layer"));
}

/// A rank and an alpha of its own, on a model in 4 bits whose other adapters make up for what these lose.
#[test]
fn patterns_name_it_and_loftq_leaves_it_fresh() {
    let adapted = Adapted::new("tiny_llama");
    let mut train = support::train(&adapted.model, &adapted.rows, &adapted.place.path("run"));
    train.args(["--seq-len", "64", "--steps", "1", "--init", "loftq"]);
    train.args(["--target", "q_proj,lm_head", "--rank-pattern", "lm_head=3"]);
    train.args(["--alpha-pattern", "lm_head=6", "--rslora", "--layers", "1"]);
    support::run(&mut train).ok();
    let config = json_file(&adapted.place.path("run").join("adapter_config.json"));
    assert_eq!(config["rank_pattern"], json!({ "lm_head": 3 }));
    assert_eq!(config["alpha_pattern"], json!({ "lm_head": 6 }));
    let shapes = of_head(&adapted.place.adapter("run")).into_iter();
    let shapes: Vec<Value> = shapes.map(|(_, shape)| shape).collect();
    assert_eq!(shapes, [json!([3, 64]), json!([512, 3])]);
}

#[test]
fn rows_of_it_are_not_trained_beside_it() {
    let adapted = Adapted::new("tiny_llama");
    adapted
        .train("out", &["--train-tokens", "3"])
        .refused(&["--target lm_head", "--train-tokens"]);
    let mut train = support::train(&adapted.model, &adapted.rows, &adapted.place.path("out"));
    support::run(train.args(["--target", "embed_tokens"]))
        .refused(&["--target embed_tokens", "--train-tokens"]);
    assert!(adapted.place.listing("out").is_empty());
}

/// Its factors, `[64, 100]` and `[100, 512]` in f32.
#[test]
fn it_is_planned() {
    let adapted = Adapted::new("tiny_llama");
    let adapters = |target: &str| {
        let mut plan = Command::new(FINETUNE);
        plan.arg("plan").arg("--model").arg(&adapted.model);
        plan.args(["--quant", "none", "--rank", "100", "--target", target]);
        let stdout = support::run(&mut plan).ok().stdout;
        support::printed_bytes(&stdout, "adapters")
    };
    let more = adapters("q_proj,lm_head") - adapters("q_proj");
    let expected = 100.0 * (64.0 + 512.0) * 4.0;
    // As printed, each to the nearest kilobyte.
    assert!((more - expected).abs() <= 1000.0, "{more}");
}
