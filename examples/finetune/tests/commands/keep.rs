//! `--quant keep`.

use std::fs;
use std::path::Path;

use qlora_test_support::fixture;
use serde_json::Value;

use crate::finetune;
use crate::support::{Place, number};

/// Trained, resumed and exported on the blocks of a file; what is refused names the reason.
#[test]
fn an_adapter_is_trained_on_the_blocks_of_a_file_and_merged_into_their_values() {
    let place = Place::new();
    let (model, text) = (place.path("model.gguf"), place.text());
    let source = fixture("families/smollm3/gguf/smollm3-f32.gguf");
    finetune!(
        "export", "--model", source, "--to", "gguf", "--dtype", "q4_0", "--output", &model
    )
    .ok();
    let nll = |model: &Path, more: &[&str]| {
        let run = finetune!(
            "eval", "--model", model, "--data", &text, "--seq-len", "32", "--max-rows", "4", "--json"; more
        );
        number(&run.ok().last_json(), "nll")
    };
    let (kept, dense) = (
        nll(&model, &["--quant", "keep"]),
        nll(&model, &["--quant", "none"]),
    );
    assert!((kept - dense).abs() < 1e-5, "{kept} {dense}");
    assert!((nll(&model, &[]) - dense).abs() > 1e-5, "NF4 changes them");

    let adapter = place.path("run");
    let train = |steps: &str, more: &[&str]| {
        finetune!(
            "train", "--model", &model, "--data", &text, "--output", &adapter, "--seq-len", "32",
            "--batch-size", "2", "--lr", "1e-2", "--rank", "4", "--steps", steps; more
        )
    };
    let keep = ["--quant", "keep"];
    train("2", &[&keep[..], &["--init", "loftq"]].concat()).refused(&["loftq", "--quant keep"]);
    train("2", &keep).ok();
    let settings = fs::read_to_string(adapter.join("run.json")).expect("is there");
    let settings: Value = serde_json::from_str(&settings).expect("is JSON");
    assert!(
        settings.to_string().contains(r#""weights":"Kept""#),
        "{settings}"
    );
    train("4", &["--quant", "nf4", "--resume"]).refused(&["weights", "Kept"]);
    train("4", &[&keep[..], &["--resume"]].concat()).ok();

    let adapter = adapter.to_str().expect("is UTF-8");
    let trained = nll(&model, &["--quant", "keep", "--adapter", adapter]);
    assert!(trained < kept, "{trained} {kept}");
    let merged = place.path("merged");
    let export = |more: &[&str]| {
        finetune!(
            "export", "--model", &model, "--adapter", adapter, "--to", "hf", "--dtype", "f32", "--output", &merged; more
        )
    };
    export(&["--base", "quantized", "--quant", "keep"])
        .refused(&["--quant keep", "--base original"]);
    export(&[]).ok();
    let merged = nll(&merged, &["--quant", "none"]);
    assert!((merged - trained).abs() < 1e-5, "{merged} {trained}");
}
