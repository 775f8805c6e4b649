//! Gemma 3 270M as it is published in GGUF: what it makes of a text, how it goes on, and what training does to it.

use std::path::Path;

use qlora_test_support::gemma3;

use crate::finetune;
use crate::support::{Place, number};

/// Eight sentences of everyday English that no model has seen.
const TEXT: &str = "The ferry to the island leaves twice a day, at nine in the morning and at half past four. \
    In winter the second one is cancelled whenever the wind turns north, so people who live there keep a week of bread in the \
    freezer. Our neighbour has worked on the boat for thirty years. He says that he can tell the weather by the gulls, but he \
    checks the forecast all the same. Last Tuesday the engine stopped halfway across. For two hours we drifted with the tide, \
    and somebody passed around a bag of oranges. When the tug finally came, nobody wanted to be the first to leave. \
    Since then the passengers greet each other by name.";

fn nll(model: &Path, data: &Path, extra: &[&str]) -> f64 {
    let mut command = std::process::Command::new(crate::support::FINETUNE);
    command.arg("eval").arg("--model").arg(model).arg("--data");
    command.arg(data).args(["--json"]).args(extra);
    number(&crate::support::run(&mut command).ok().last_json(), "nll")
}

#[test]
#[ignore = "needs scripts/fetch-gemma3.sh"]
fn a_text_is_as_likely_as_to_transformers() {
    let place = Place::new();
    let row = serde_json::json!({ "text": TEXT });
    let data = place.file("text.jsonl", format!("{row}\n"));
    let dense = nll(&gemma3(), &data, &["--quant", "none"]);
    println!("dense: {dense}");
    // Of transformers 5.23.0 in float32, with the same file decoded by gguf-py.
    assert!((dense - 3.454_469).abs() < 1e-4, "{dense}");
    let kept = nll(&gemma3(), &data, &[]);
    println!("kept: {kept}");
    assert!((kept - dense).abs() < 1e-5, "{kept} {dense}");
    let quantized = nll(&gemma3(), &data, &["--quant", "nf4"]);
    println!("NF4: {quantized}");
    // A second rounding to four bits costs a little.
    assert!(quantized > dense && quantized < dense + 0.5, "{quantized}");
}

#[test]
#[ignore = "needs scripts/fetch-gemma3.sh"]
fn a_prompt_goes_on_as_with_transformers() {
    let run = finetune!(
        "generate",
        "--model",
        gemma3(),
        "--quant",
        "none",
        "--prompt",
        "The capital of France is",
        "--max-tokens",
        "12"
    )
    .ok();
    // Greedy, in float32; the model is small.
    let expected = "the capital of the country of France. It is the largest";
    assert_eq!(run.stdout.trim(), expected);
}

#[test]
#[ignore = "needs scripts/fetch-gemma3.sh"]
fn a_short_training_run_lowers_the_held_out_loss() {
    let place = Place::new();
    let data = |name: &str| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo-records/data");
        Path::new(folder).join(name)
    };
    let held_out = data("records-held-out.jsonl");
    let (model, adapter) = (gemma3(), place.path("adapter"));
    let evaluated = ["--seq-len", "128", "--max-rows", "16"];
    let before = nll(&model, &held_out, &evaluated);
    let flags = "--seq-len 128 --rank 8 --batch-size 2 --steps 20 --lr 2e-3 --warmup-steps 4 --max-grad-norm 1";
    let mut command = std::process::Command::new(crate::support::FINETUNE);
    command
        .arg("train")
        .arg("--model")
        .arg(&model)
        .arg("--data");
    command.arg(data("records-train.jsonl")).arg("--output");
    command.arg(&adapter).args(flags.split(' '));
    crate::support::run(&mut command).ok();
    let with_adapter = ["--adapter", adapter.to_str().expect("text")];
    let after = nll(&model, &held_out, &[&evaluated[..], &with_adapter].concat());
    println!("held-out loss: {before} before, {after} after");
    assert!(after < 0.8 * before, "{before} before, {after} after");
}
