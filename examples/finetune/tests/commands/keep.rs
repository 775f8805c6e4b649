//! The blocks of a GGUF file, which are kept by default.

use std::fs;
use std::path::{Path, PathBuf};

use qlora_test_support::{fixture, random};
use serde_json::{Value, json};

use crate::finetune;
use crate::support::{Place, Run, number};

/// A small model with its matrices in this type.
fn model(place: &Place, dtype: &str) -> PathBuf {
    let model = place.path(&format!("{dtype}.gguf"));
    let source = fixture("families/smollm3/gguf/smollm3-f32.gguf");
    finetune!(
        "export", "--model", source, "--to", "gguf", "--dtype", dtype, "--output", &model
    )
    .ok();
    model
}

fn eval(model: &Path, text: &Path, more: &[&str]) -> Run {
    finetune!(
        "eval", "--model", model, "--data", text, "--seq-len", "32", "--max-rows", "4", "--json"; more
    )
    .ok()
}

fn train(model: &Path, text: &Path, output: &Path, more: &[&str]) -> Run {
    // An adapter that is given has its own.
    let rank = match more.contains(&"--init-adapter") {
        true => vec![],
        false => vec!["--rank", "4"],
    };
    finetune!(
        "train", "--model", model, "--data", text, "--output", output, "--seq-len", "32",
        "--batch-size", "2", "--lr", "1e-2"; rank.iter().chain(more)
    )
}

fn weights_of(run: &Path) -> String {
    let settings = fs::read_to_string(run.join("run.json")).expect("is there");
    let settings: Value = serde_json::from_str(&settings).expect("is JSON");
    settings["weights"].as_str().expect("a text").to_owned()
}

/// What a run was begun with is what it goes on with, and what its adapter is measured on.
#[test]
fn blocks_are_kept_unless_something_else_is_asked_for() {
    let place = Place::new();
    let (model, text) = (model(&place, "q4_0"), place.text());
    let nll = |more: &[&str]| number(&eval(&model, &text, more).last_json(), "nll").to_bits();
    let kept = nll(&["--quant", "keep"]);
    let nf4 = nll(&["--quant", "nf4"]);
    assert_ne!(kept, nf4);
    assert_eq!(nll(&[]), kept);
    // Settings of a 4-bit format ask for one.
    assert_eq!(nll(&["--block-size", "64"]), nf4);

    let run = |name: &str, more: &[&str]| {
        let output = place.path(name);
        train(&model, &text, &output, more).ok();
        output
    };
    let fresh = run("fresh", &["--steps", "1"]);
    assert_eq!(weights_of(&fresh), "Kept");
    let before = run(
        "before",
        &["--steps", "1", "--quant", "nf4", "--block-size", "128"],
    );
    let recorded = weights_of(&before);
    assert!(
        recorded.contains("Nf4") && recorded.contains("128"),
        "{recorded}"
    );
    run("before", &["--steps", "2", "--resume"]);
    assert_eq!(weights_of(&before), recorded);
    let adapter = ["--adapter", before.to_str().expect("is UTF-8")];
    let on_its_own = [&adapter[..], &["--quant", "nf4", "--block-size", "128"]].concat();
    assert_eq!(nll(&adapter), nll(&on_its_own));
    assert_ne!(
        nll(&adapter),
        nll(&[&adapter[..], &["--quant", "keep"]].concat())
    );
    let next = ["--steps", "1", "--init-adapter", adapter[1]];
    assert_eq!(weights_of(&run("next", &next)), recorded);
    let plan = finetune!("plan", "--model", &model, "--seq-len", "32").ok();
    assert!(plan.stdout.contains("kept weights"), "{}", plan.stdout);
}

#[test]
fn blocks_without_kernels_are_quantized_and_named() {
    let place = Place::new();
    let text = place.text();
    // Of width 256, so that there are rows for blocks of Q2_K.
    let source = wide_model(&place);
    let model = place.path("q2_k.gguf");
    finetune!(
        "export", "--model", source, "--to", "gguf", "--dtype", "q2_k", "--output", &model
    )
    .ok();
    let nll = |more: &[&str]| number(&eval(&model, &text, more).last_json(), "nll").to_bits();
    assert_eq!(nll(&[]), nll(&["--quant", "nf4"]));
    let told = [
        eval(&model, &text, &[]),
        train(&model, &text, &place.path("run"), &["--steps", "1"]).ok(),
        finetune!("plan", "--model", &model, "--seq-len", "32").ok(),
    ];
    for run in told {
        assert_eq!(
            run.stderr.matches("a second time").count(),
            1,
            "{}",
            run.stderr
        );
        for needle in ["no kernels", "Q2_K", "blk.0.attn_q.weight", "--quant none"] {
            assert!(run.stderr.contains(needle), "{needle}: {}", run.stderr);
        }
        assert!(!run.stderr.contains("--quant keep"), "{}", run.stderr);
    }
    let refused = finetune!(
        "eval",
        "--model",
        &model,
        "--data",
        &text,
        "--seq-len",
        "32",
        "--quant",
        "keep"
    );
    refused.refused(&["--quant keep", "Q2_K"]);
}

/// A model of one layer whose rows are 256 wide, with weights that say nothing.
fn wide_model(place: &Place) -> PathBuf {
    let folder = place.model("tiny_llama");
    // One that llama.cpp has a name for.
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(fixture("families/qwen2").join(name), folder.join(name)).expect("copied");
    }
    let path = folder.join("config.json");
    let text = fs::read_to_string(&path).expect("is there");
    let mut config: Value = serde_json::from_str(&text).expect("is JSON");
    for (key, value) in [
        ("hidden_size", 256),
        ("intermediate_size", 256),
        ("num_hidden_layers", 1),
        ("num_attention_heads", 4),
        ("num_key_value_heads", 4),
        ("head_dim", 64),
    ] {
        config[key] = value.into();
    }
    fs::write(&path, config.to_string()).expect("written");
    let vocab = config["vocab_size"].as_u64().expect("a number") as usize;
    let mut shapes = vec![
        ("model.embed_tokens", vec![vocab, 256]),
        ("lm_head", vec![vocab, 256]),
        ("model.norm", vec![256]),
        ("model.layers.0.input_layernorm", vec![256]),
        ("model.layers.0.post_attention_layernorm", vec![256]),
    ];
    let projections = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
    ];
    let projections =
        projections
            .into_iter()
            .chain(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]);
    let projections: Vec<_> = projections
        .map(|name| format!("model.layers.0.{name}"))
        .collect();
    shapes.extend(
        projections
            .iter()
            .map(|name| (name.as_str(), vec![256, 256])),
    );
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (at, (name, shape)) in shapes.into_iter().enumerate() {
        let start = data.len();
        let values = random::normal(at as u64, shape.iter().product(), 0.1);
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] });
        header.insert(format!("{name}.weight"), entry);
    }
    let header = Value::Object(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    let file = [&length[..], header.as_bytes(), &data].concat();
    fs::write(folder.join("model.safetensors"), file).expect("written");
    folder
}

/// Trained, resumed and exported on the blocks of a file; what is refused names the reason.
#[test]
fn an_adapter_is_trained_on_the_blocks_of_a_file_and_merged_into_their_values() {
    let place = Place::new();
    let (model, text) = (model(&place, "q4_0"), place.text());
    let nll = |model: &Path, more: &[&str]| number(&eval(model, &text, more).last_json(), "nll");
    let (kept, dense) = (
        nll(&model, &["--quant", "keep"]),
        nll(&model, &["--quant", "none"]),
    );
    assert!((kept - dense).abs() < 1e-5, "{kept} {dense}");
    let nf4 = nll(&model, &["--quant", "nf4"]);
    assert!((nf4 - dense).abs() > 1e-5, "NF4 changes them");

    let adapter = place.path("run");
    let train = |steps: &str, more: &[&str]| {
        train(
            &model,
            &text,
            &adapter,
            &[&["--steps", steps], more].concat(),
        )
    };
    let keep = ["--quant", "keep"];
    train("2", &[&keep[..], &["--init", "loftq"]].concat()).refused(&["loftq", "--quant keep"]);
    train("2", &keep).ok();
    assert_eq!(weights_of(&adapter), "Kept");
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
