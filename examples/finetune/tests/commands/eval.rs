//! `finetune eval`.

use crate::finetune;
use crate::support::{Place, number};

#[test]
fn the_last_line_is_one_json_object() {
    let place = Place::new();
    let (model, text) = (place.model("tiny_llama"), place.text());
    let run = finetune!(
        "eval",
        "--model",
        &model,
        "--data",
        &text,
        "--seq-len",
        "32",
        "--max-rows",
        "3",
        "--quant",
        "none",
        "--json"
    )
    .ok();
    let report = run.last_json();
    assert_eq!(report.as_object().unwrap().len(), 3);
    let (nll, perplexity) = (number(&report, "nll"), number(&report, "perplexity"));
    assert!((perplexity / nll.exp() - 1.0).abs() < 1e-6, "{report}");
    // Each of the three rows predicts its own next tokens.
    assert_eq!(number(&report, "tokens"), 3.0 * 31.0);
}

#[test]
fn formats_and_adapters_change_the_loss() {
    let place = Place::new();
    let (model, text) = (place.model("tiny_llama"), place.text());
    let nll = |extra: &[&str]| {
        let mut command = crate::support::eval(&model, &text);
        command
            .args(["--seq-len", "32", "--max-rows", "4", "--json"])
            .args(extra);
        number(&crate::support::run(&mut command).ok().last_json(), "nll")
    };
    let adapter = qlora_test_support::fixture("peft_adapter");
    let losses = [
        nll(&["--quant", "none"]),
        nll(&[]),
        nll(&["--quant", "fp4"]),
        nll(&["--quant", "int4"]),
        nll(&["--block-size", "256", "--no-double-quant"]),
        nll(&["--adapter", adapter.to_str().unwrap()]),
    ];
    for (i, one) in losses.iter().enumerate() {
        assert!(losses[..i].iter().all(|other| other != one), "{losses:?}");
    }
}

#[test]
fn exact_match_counts_the_answers_a_trained_model_gives() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let chat =
        r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"yes"}]}"#;
    let rows = place.file(
        "rows.jsonl",
        format!("{{\"prompt\":\"q: \",\"completion\":\"yes\"}}\n{chat}\n"),
    );
    let output = place.path("run");
    let matched = |adapter: bool| {
        let mut command = crate::support::eval(&model, &rows);
        command.args(["--seq-len", "64", "--json", "--exact-match"]);
        if adapter {
            command.arg("--adapter").arg(&output);
        }
        let report = crate::support::run(&mut command).ok().last_json();
        assert_eq!(number(&report, "exact_match_rows"), 2.0);
        number(&report, "exact_match")
    };
    assert_eq!(matched(false), 0.0);
    finetune!(
        "train",
        "--model",
        &model,
        "--data",
        &rows,
        "--output",
        &output,
        "--seq-len",
        "64",
        "--steps",
        "120",
        "--batch-size",
        "2",
        "--lr",
        "1e-2",
        "--max-grad-norm",
        "1"
    )
    .ok();
    assert_eq!(matched(true), 1.0);
}
