//! `finetune quantize`.

use qlora_test_support::fixture;

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

/// Weights and adapter are read together, and are nearer to the model than 4 bits alone; each round brings them nearer.
#[test]
fn an_adapter_that_makes_up_for_what_is_lost_goes_with_its_weights() {
    let place = Place::new();
    let (model, text) = (place.model("tiny_llama"), place.text());
    let off = |name: &str, more: &[&str]| {
        let output = place.path(name);
        let run = finetune!(
            "quantize", "--model", &model, "--output", &output, "--loftq-rank", "8"; more
        );
        let stdout = run.ok().stdout;
        let line = stdout.lines().last().expect("a line");
        let numbers = line.split(' ').filter_map(|word| word.parse().ok());
        let [alone, 4.0, with] = numbers.collect::<Vec<f64>>()[..] else {
            panic!("{line}");
        };
        [alone, with]
    };
    let (once, often) = (off("once", &[]), off("often", &["--loftq-iterations", "5"]));
    assert_eq!(once[0], often[0]);
    assert!(
        often[1] < once[1] && once[1] < once[0],
        "{once:?} {often:?}"
    );
    let nll = |model: &std::path::Path, more: &[&str]| {
        let run = finetune!(
            "eval", "--model", model, "--data", &text, "--seq-len", "32", "--max-rows", "4", "--json"; more
        );
        number(&run.ok().last_json(), "nll")
    };
    let dense = nll(&model, &["--quant", "none"]);
    let often = place.path("often");
    let adapter = often.join("loftq_init");
    let with = nll(&often, &["--adapter", adapter.to_str().expect("is UTF-8")]);
    let nf4 = nll(&model, &[]);
    assert!(
        (with - dense).abs() < 0.5 * (nf4 - dense).abs(),
        "{with} {dense} {nf4}"
    );

    let quantized = fixture("tiny_llama_nf4");
    let refused = finetune!(
        "quantize",
        "--model",
        quantized,
        "--output",
        place.path("no"),
        "--loftq-rank",
        "8"
    );
    refused.refused(&["--loftq-rank", "4 bits"]);
    let alone = finetune!(
        "quantize",
        "--model",
        &model,
        "--output",
        place.path("no"),
        "--loftq-iterations",
        "2"
    );
    alone.refused(&["--loftq-rank"]);
    assert!(!place.path("no").exists());
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
