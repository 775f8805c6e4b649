//! `finetune quantize`.

use crate::finetune;
use crate::support::{Place, number};

#[test]
fn the_checkpoint_is_the_model_quantized_at_load() {
    let place = Place::new();
    let (model, text, output) = (place.model("tiny_llama"), place.text(), place.path("nf4"));
    finetune!("quantize", "--model", &model, "--output", &output).ok();
    let nll = |model: &std::path::Path| {
        let run = finetune!(
            "eval",
            "--model",
            model,
            "--data",
            &text,
            "--seq-len",
            "32",
            "--max-rows",
            "4",
            "--json"
        );
        number(&run.ok().last_json(), "nll")
    };
    assert!((nll(&output) - nll(&model)).abs() < 1e-5);
    let config = std::fs::read_to_string(output.join("config.json")).unwrap();
    assert!(config.contains("bitsandbytes"), "{config}");

    let before = place.listing("nf4");
    finetune!("quantize", "--model", &model, "--output", &output).refused(&["nf4"]);
    assert_eq!(place.listing("nf4"), before);
}

#[test]
fn a_format_transformers_cannot_hold_is_refused() {
    let place = Place::new();
    let (model, output) = (place.model("tiny_llama"), place.path("out"));
    for quant in ["none", "int4"] {
        finetune!(
            "quantize", "--model", &model, "--output", &output, "--quant", quant
        )
        .refused(&[quant, "nf4"]);
    }
    assert!(!output.exists());
}
