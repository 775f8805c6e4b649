//! `finetune plan`.

use std::path::PathBuf;
use std::process::Command;

use crate::finetune;
use crate::support::{FINETUNE, Place, log_lines, number};

#[test]
fn it_takes_the_flags_of_train_and_reads_no_weight() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let run = finetune!(
        "plan",
        "--model",
        &model,
        "--seq-len",
        "64",
        "--rank",
        "4",
        "--lr",
        "1e-3",
        "--output",
        "nowhere",
        "--checkpointing",
        "layer",
        "--compute-dtype",
        "bf16"
    )
    .ok();
    let first = run.stdout.lines().next().unwrap();
    for part in ["4 × 64 tokens", "rank 4", "bf16", "checkpointing: layer"] {
        assert!(first.contains(part), "{part} in {first}");
    }
    for term in [
        "4-bit weights",
        "optimizer",
        "activations",
        "peak",
        "7B",
        "65B",
    ] {
        assert!(run.stdout.contains(term), "{term} in {}", run.stdout);
    }
    assert!(place.listing("nowhere").is_empty());

    // Values that could not be quantized are not seen.
    let file = model.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let from = bytes.len() / 2;
    bytes[from..].fill(0xff);
    std::fs::write(&file, bytes).unwrap();
    finetune!("plan", "--model", &model).ok();
    let rows = place.rows(4);
    finetune!(
        "train",
        "--model",
        &model,
        "--data",
        &rows,
        "--output",
        place.path("run")
    )
    .refused(&["not finite"]);
}

#[test]
fn rows_are_as_long_as_the_data_says() {
    let place = Place::new();
    let (model, text) = (place.model("tiny_llama"), place.text());
    let run = finetune!(
        "plan",
        "--model",
        &model,
        "--data",
        &text,
        "--seq-len",
        "48",
        "--batch-size",
        "3"
    )
    .ok();
    assert!(run.stdout.contains("3 × 48 tokens"), "{}", run.stdout);
    let short = place.file("short.jsonl", "{\"text\": \"ten bytes.\"}\n");
    let run = finetune!("plan", "--model", &model, "--data", &short).ok();
    assert!(!run.stdout.contains("512 tokens"), "{}", run.stdout);
}

#[test]
fn what_cannot_be_planned_is_refused() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    finetune!("plan").refused(&["--model"]);
    finetune!("plan", "--model", &model, "--target", "x_proj").refused(&["x_proj"]);
    finetune!("plan", "--model", &model, "--seq-len", "100000").refused(&["--seq-len", "512"]);
    finetune!("plan", "--model", &model, "--optimizer-budget", "1MiB")
        .refused(&["--optimizer-budget", "paged-adamw"]);
}

/// SmolLM2 in four settings that make the terms weigh differently, two of them with everything kept.
#[test]
fn the_measured_peak_is_within_a_tenth_of_the_plan() {
    let Some(model) = smollm2() else { return };
    let place = Place::new();
    let text = place.file(
        "long.txt",
        "A sentence for the model to read. ".repeat(4000),
    );
    for (name, flags) in [
        ("whole", "--batch-size 2 --seq-len 256"),
        (
            "layer",
            "--batch-size 1 --seq-len 1024 --checkpointing layer",
        ),
        (
            "half",
            "--batch-size 2 --seq-len 256 --rank 8 --compute-dtype bf16 --grad-accum 2",
        ),
        (
            "all",
            "--batch-size 3 --seq-len 256 --rank 64 --compute-dtype bf16 --checkpointing layer",
        ),
    ] {
        let log = place.path("log.jsonl");
        let run = |command: &str, extra: &[&str]| {
            let mut process = Command::new(FINETUNE);
            process
                .arg(command)
                .arg("--model")
                .arg(&model)
                .arg("--data")
                .arg(&text);
            process
                .arg("--output")
                .arg(place.path(name))
                .arg("--log-json")
                .arg(&log);
            process.args(flags.split(' ')).args(extra);
            crate::support::run(&mut process).ok()
        };
        let told = run("plan", &[]);
        let planned = told
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix("peak "));
        let planned = bytes(planned.expect("a peak"));
        let trained = run("train", &["--steps", "2"]);
        assert!(
            trained.stdout.contains("Peak memory: planned "),
            "{}",
            trained.stdout
        );
        let measured = number(log_lines(&log).last().unwrap(), "peak_rss_bytes");
        let error = measured / planned - 1.0;
        println!("{name}: planned {planned}, measured {measured}: {error:+.3}");
        assert!(error.abs() < 0.1, "{name}: off by {error}");
        std::fs::remove_file(&log).unwrap();
    }
}

/// A number as the program prints it: `1.24 GB`.
fn bytes(text: &str) -> f64 {
    let (number, unit) = text.trim().split_once(' ').expect("a unit");
    let scale = match unit {
        "GB" => 1e9,
        "MB" => 1e6,
        "kB" => 1e3,
        other => panic!("{other}"),
    };
    number.parse::<f64>().expect("a number") * scale
}

/// The model that scripts/fetch-smollm2.sh brings, or the one that `QLORA_SMOLLM2` names.
fn smollm2() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = || var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")));
    let path = match var("QLORA_SMOLLM2") {
        Some(path) => path,
        None => cache()?.join("burn-qlora/SmolLM2-135M-Instruct.Q4_1.gguf"),
    };
    if !path.is_file() {
        eprintln!(
            "skipped: {} is not there; scripts/fetch-smollm2.sh brings it",
            path.display()
        );
        return None;
    }
    Some(path)
}
