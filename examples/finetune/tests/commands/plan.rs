//! `finetune plan`.

use crate::finetune;
use crate::support::Place;

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
    // Of a long and a short row one is held out, and the other planned with.
    let long = "a".repeat(40);
    let two = format!("{{\"text\": \"{long}\"}}\n{{\"text\": \"a\"}}\n");
    let two = place.file("two.jsonl", two);
    let planned = |seed: &str| {
        let flags = ["--eval-split", "0.5", "--seed", seed];
        let run = finetune!("plan", "--model", &model, "--data", &two; flags).ok();
        run.stdout.lines().next().unwrap().to_owned()
    };
    let lines: std::collections::BTreeSet<_> = ["1", "2", "3", "4", "5", "6"].map(planned).into();
    assert_eq!(lines.len(), 2, "{lines:?}");
    // Without padding both take no more than their own tokens; noise is measured by padded rows.
    let together = |flags: &[&str]| {
        let run = finetune!("plan", "--model", &model, "--data", &two, "--batch-size", "2"; flags);
        run.ok().stdout.lines().next().unwrap().to_owned()
    };
    let own = together(&[]);
    assert!(own.contains("2 × ") && own.contains(" (at most "), "{own}");
    let noisy = together(&["--neftune-alpha", "5"]);
    assert!(!noisy.contains("at most"), "{noisy}");
    let run = finetune!("plan", "--model", &model; ["--eval-split", "0.5"]);
    run.refused(&["--eval-split", "--data"]);
    let short = place.file("short.jsonl", "{\"text\": \"ten bytes.\"}\n");
    let run = finetune!("plan", "--model", &model, "--data", &short).ok();
    assert!(!run.stdout.contains("512 tokens"), "{}", run.stdout);
    let longest = |run: &str| -> usize {
        let (before, _) = run.split_once(" tokens").expect("tokens");
        let (_, longest) = before.rsplit_once(' ').expect("a number");
        longest.parse().expect("a number")
    };
    let rows = place.file("rows.jsonl", "{\"text\": \"ten bytes.\"}\n".repeat(9));
    let packed = finetune!("plan", "--model", &model, "--data", &rows, "--packing").ok();
    assert!(
        longest(&packed.stdout) > longest(&run.stdout),
        "{}",
        packed.stdout
    );
}

#[test]
fn a_well_known_model_is_planned_without_its_files() {
    let peak = |name: &str, quant: &str| -> String {
        let run = finetune!("plan", "--like", name, "--seq-len", "256", "--quant", quant).ok();
        let first = run.stdout.lines().next().unwrap();
        assert!(
            first.starts_with(name) && first.contains("4 × 256 tokens"),
            "{first}"
        );
        let peak = run.stdout.lines().find(|line| line.starts_with("peak"));
        peak.unwrap().to_owned()
    };
    // The model of the paper is the same by either way to it.
    let run = finetune!("plan", "--like", "llama-7b").ok();
    let peaks: Vec<&str> = run
        .stdout
        .lines()
        .filter(|line| line.starts_with("peak") || line.starts_with("7B"))
        .collect();
    let last = |line: &str| {
        line.split_whitespace()
            .rev()
            .take(2)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(last(peaks[0]), last(peaks[1]), "{peaks:?}");
    for name in ["qwen3-4b", "mistral-7b", "gemma3-4b", "llama3-8b"] {
        assert_ne!(peak(name, "nf4"), peak(name, "none"), "{name}");
    }
}

#[test]
fn what_cannot_be_planned_is_refused() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    finetune!("plan").refused(&["--model"]);
    finetune!("plan", "--like", "gpt-5").refused(&["--like", "gpt-5", "qwen3-8b"]);
    finetune!("plan", "--like", "qwen3-8b", "--model", &model).refused(&["--like", "--model"]);
    let text = place.text();
    finetune!("plan", "--like", "qwen3-8b", "--data", &text).refused(&["--like", "--data"]);
    finetune!("plan", "--like", "mistral-7b", "--seq-len", "100000").refused(&["32768"]);
    finetune!("plan", "--model", &model, "--target", "x_proj").refused(&["x_proj"]);
    finetune!("plan", "--model", &model, "--seq-len", "100000").refused(&["--seq-len", "512"]);
    finetune!("plan", "--model", &model, "--optimizer-budget", "1MiB")
        .refused(&["--optimizer-budget", "paged-adamw"]);
}

/// A LLaMA-7B's projections take 3.34 GB in NF4 and 6.48 · 10^9 multiplications a token; a step goes through them three times with
/// layers that run again, and reads them twice.
#[test]
fn a_steps_time_is_told_from_rates() {
    let plan = |more: &[&str]| {
        let layer = [
            "--checkpointing",
            "layer",
            "--seq-len",
            "256",
            "--batch-size",
            "1",
        ];
        finetune!("plan", "--like", "llama-7b"; [&layer[..], more].concat())
    };
    let paged = ["--weights-budget", "0", "--compute-rate", "100"];
    let told = plan(&[&paged[..], &["--read-rate", "10MB"]].concat())
        .ok()
        .stdout;
    for part in [
        "10.2",
        "TFLOP at 100.0 GFLOP/s, given",
        "668.2 s  6.68 GB at 10 MB a second, given",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(told.contains("moving bounds it: 668.2 s"), "{told}");
    let told = plan(&[&paged[..], &["--read-rate", "1GB"]].concat())
        .ok()
        .stdout;
    assert!(told.contains("computing bounds it: 102."), "{told}");
    let told = plan(&["--compute-rate", "100"]).ok().stdout;
    assert!(told.contains("nothing is moved"), "{told}");
    assert!(!plan(&[]).ok().stdout.contains("A step"));
    plan(&paged).refused(&["--read-rate", "--measure"]);
    plan(&["--read-rate", "1GB"]).refused(&["--compute-rate", "--measure"]);
    for nonsense in [
        ["--read-rate", "0"],
        ["--compute-rate", "-1"],
        ["--compute-rate", "nan"],
    ] {
        assert_eq!(plan(&nonsense).code, Some(2), "{nonsense:?}");
    }
    assert_eq!(plan(&["--measure"]).code, Some(2));
}

#[test]
fn rates_are_measured_with_the_models_weights() {
    let place = Place::new();
    let measure = |model: &str, more: &[&str]| {
        let model = place.model(model);
        let layer = [
            "--checkpointing",
            "layer",
            "--measure",
            "--weights-budget",
            "0",
        ];
        finetune!("plan", "--model", &model; [&layer[..], more].concat())
    };
    let told = measure("tiny_llama_nf4", &[]).ok().stdout;
    assert_eq!(told.matches(", measured").count(), 2, "{told}");
    // It is brought to 4 bits when it is loaded, into a file that is not there yet.
    measure("tiny_llama", &[]).refused(&["--read-rate", "--to native"]);
    let told = measure("tiny_llama", &["--read-rate", "1GB"]).ok().stdout;
    assert_eq!(told.matches(", measured").count(), 1, "{told}");
}
