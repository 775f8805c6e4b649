//! `finetune quantize`.

use std::path::Path;

use qlora_test_support::fixture;

use crate::finetune;
use crate::support::{Place, log_lines, number, run, train};

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

/// Laid out to be read from, a checkpoint is the same model: it trains and is exported to the same bits, whatever of it stays.
#[test]
fn a_checkpoint_to_read_from_is_the_same_model() {
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama"), place.rows(8));
    let [one, native] = ["one", "native"].map(|name| place.path(name));
    finetune!("quantize", "--model", &model, "--output", &one).ok();
    let to_native = ["--to", "native", "--shard-size", "100kB"];
    finetune!("quantize", "--model", &model, "--output", &native; to_native).ok();
    let files = place.listing("native");
    let weights = files.iter().filter(|name| name.ends_with(".safetensors"));
    assert!(weights.count() > 2, "{files:?}");

    let train = |model: &Path, name: &str, more: &[&str]| {
        let output = place.path(name);
        let mut command = train(model, &rows, &output);
        command.args([
            "--steps",
            "3",
            "--seq-len",
            "64",
            "--checkpointing",
            "layer",
        ]);
        let log = place.path(&format!("{name}.jsonl"));
        command.arg("--log-json").arg(&log).args(more);
        run(&mut command)
    };
    let outcome = |name: &str| {
        let log = log_lines(&place.path(&format!("{name}.jsonl")));
        let losses: Vec<f64> = log.iter().map(|line| number(line, "loss")).collect();
        let adapter = place.path(name).join("adapter_model.safetensors");
        (losses, std::fs::read(adapter).expect("written"))
    };
    train(&one, "expected", &[]).ok();
    for budget in ["resident", "50%", "0"] {
        train(&native, budget, &["--weights-budget", budget]).ok();
        assert!(outcome(budget) == outcome("expected"), "{budget}");
    }
    let exported = [&one, &native].map(|model| {
        let name = format!("{}-hf", model.file_name().expect("a name").display());
        let output = place.path(&name);
        finetune!("export", "--model", model, "--output", &output).ok();
        std::fs::read(output.join("model.safetensors")).expect("written")
    });
    assert!(exported[0] == exported[1]);

    // A code of a weight that is read while it is used.
    let file = native.join(weights_file(&files, 1));
    let mut bytes = std::fs::read(&file).expect("there");
    let place_of_code = bytes.len() / 2;
    bytes[place_of_code] ^= 1;
    std::fs::write(&file, bytes).expect("written");
    let name = file.file_name().expect("a name").to_string_lossy();
    for budget in ["resident", "0"] {
        let run = train(&native, "damaged", &["--weights-budget", budget]);
        run.refused(&[&name, "model.layers.", "damaged"]);
    }
}

/// The `index`th file of weights.
fn weights_file(files: &[String], index: usize) -> &str {
    let mut files = files.iter().filter(|name| name.ends_with(".safetensors"));
    files.nth(index).expect("there")
}

#[test]
fn flags_of_another_layout_are_refused() {
    let place = Place::new();
    let (model, output) = (place.model("tiny_llama"), place.path("out"));
    let quantize =
        |more: &[&str]| finetune!("quantize", "--model", &model, "--output", &output; more);
    quantize(&["--to", "native", "--loftq-rank", "8"]).refused(&["--loftq-rank", "bitsandbytes"]);
    quantize(&["--shard-size", "1GB"]).refused(&["--shard-size", "--to native"]);
    assert!(!output.exists());
}
