//! Bad input: each is one line that says what, where and what to do, with exit code 2, and leaves no
//! output behind.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::finetune;
use qlora_test_support::fixture;

use crate::support::{FINETUNE, Place, run};

/// Trains with everything right but what `extra` says, and checks the refusal.
macro_rules! train_refused {
    ($place:expr, $model:expr, $data:expr, [$($extra:expr),*], $needles:expr) => {{
        let output = $place.path("out");
        finetune!("train", "--model", $model, "--data", $data, "--output", &output, "--steps", "1"
            $(, $extra)*)
        .refused($needles);
        assert!(!output.exists(), "something was written");
    }};
}

/// Changes the config.json of a model.
fn edit_config(model: &Path, edit: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let path = model.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(config.as_object_mut().unwrap());
    fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn settings_that_are_not_known_are_warned_of_or_refused() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let quiet = finetune!("plan", "--model", &model).ok();
    assert_eq!(quiet.stderr, "");
    edit_config(&model, |config| {
        config.insert("a_setting_of_next_year".into(), 3.into());
    });
    let output = place.path("out");
    for run in [
        finetune!("plan", "--model", &model).ok(),
        finetune!("quantize", "--model", &model, "--output", &output).ok(),
    ] {
        let lines: Vec<&str> = run.stderr.lines().collect();
        let warnings = lines.iter().filter(|line| line.starts_with("warning: "));
        let named = warnings.filter(|line| line.contains("a_setting_of_next_year"));
        assert_eq!(named.count(), 1, "{lines:?}");
    }
    edit_config(&model, |config| {
        config.insert("embedding_multiplier".into(), 12.into());
    });
    finetune!("plan", "--model", &model).refused(&["config.json", "embedding_multiplier"]);
}

#[test]
fn an_instruction_set_that_the_machine_lacks() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let output = place.path("out");
    let mut command = Command::new(FINETUNE);
    command.args(["quantize", "--model"]).arg(&model);
    command.arg("--output").arg(&output);
    command.env("QLORA_CPU_ISA", "mmx");
    run(&mut command).refused(&["QLORA_CPU_ISA", "\"mmx\"", "this machine has"]);
    assert!(!output.exists(), "something was written");
    run(command.env("QLORA_CPU_ISA", "portable")).ok();
}

#[test]
fn weights_that_are_missing_or_truncated() {
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama"), place.rows(4));
    let weights = model.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    for length in [bytes.len() - 1, bytes.len() / 2, 100, 4, 0] {
        fs::write(&weights, &bytes[..length]).unwrap();
        train_refused!(place, &model, &rows, [], &["model.safetensors"]);
    }
    fs::remove_file(&weights).unwrap();
    train_refused!(
        place,
        &model,
        &rows,
        [],
        &["model.safetensors", "not found"]
    );
}

#[test]
fn what_lies_in_a_models_place() {
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama"), place.rows(4));
    let weights = model.join("model.safetensors");
    let pickled = model.join("pytorch_model.bin");
    fs::rename(&weights, &pickled).unwrap();
    train_refused!(
        place,
        &model,
        &rows,
        [],
        &["pytorch_model.bin", "save_pretrained"]
    );
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n";
    fs::write(&weights, pointer).unwrap();
    train_refused!(
        place,
        &model,
        &rows,
        [],
        &["model.safetensors", "git lfs pull"]
    );
    let adapter = fixture("peft_adapter");
    for path in [&adapter, &adapter.join("adapter_model.safetensors")] {
        train_refused!(place, path, &rows, [], &["adapter", "not a model"]);
    }
    fs::rename(&pickled, &weights).unwrap();
    fs::remove_file(model.join("tokenizer.json")).unwrap();
    fs::write(model.join("tekken.json"), "{}").unwrap();
    // By its path, and not by a flag that was not given.
    let begins = format!("error: {}", model.display());
    train_refused!(
        place,
        &model,
        &rows,
        [],
        &[&begins, "tokenizer.json", "tekken.json"]
    );
}

/// By one of its files, and by a folder of the Hub's cache.
#[test]
fn a_model_is_found_by_what_people_name() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let found = |path: &Path, model: &Path| {
        let plan = finetune!("plan", "--model", path).ok().stdout;
        let model = format!("{} on flex", model.display());
        assert!(plan.contains(&model), "{model} is not in {plan}");
    };
    found(&model, &model);
    found(&model.join("config.json"), &model);
    let top = place.path("models--someone--tiny");
    for folder in ["refs", "snapshots"] {
        fs::create_dir_all(top.join(folder)).unwrap();
    }
    fs::write(top.join("refs").join("main"), "0aa1").unwrap();
    let snapshot = top.join("snapshots").join("0aa1");
    fs::rename(&model, &snapshot).unwrap();
    found(&top, &snapshot);
}

#[test]
fn a_model_that_is_nowhere() {
    let place = Place::new();
    let rows = place.rows(4);
    let missing = place.path("no-such-model");
    train_refused!(place, &missing, &rows, [], &["no-such-model", "Hub id"]);
    #[cfg(feature = "hub")]
    train_refused!(
        place,
        "nobody/no-such-model",
        &rows,
        [],
        &["nobody/no-such-model", "Hub"]
    );
}

#[test]
fn a_gguf_that_lies() {
    let place = Place::new();
    let rows = place.rows(4);
    let gguf = |tensors: u64, body: &[u8], keys: u64| {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(keys.to_le_bytes());
        bytes.extend(body);
        bytes
    };
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let string_key =
        |key: &str, value: &str| [text(key), 8u32.to_le_bytes().to_vec(), text(value)].concat();
    let architecture = string_key("general.architecture", "llama");
    let tensor = |kind: u32| {
        let mut bytes = text("token_embd.weight");
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(32u64.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes
    };
    for (name, bytes) in [
        ("count.gguf", gguf(1 << 60, &architecture, 1)),
        (
            "one-short.gguf",
            gguf(2, &[architecture.clone(), tensor(0)].concat(), 1),
        ),
        ("keys.gguf", gguf(0, &[], u64::MAX)),
        (
            "type.gguf",
            gguf(
                1,
                &[architecture.clone(), tensor(4711), vec![0; 256]].concat(),
                1,
            ),
        ),
        (
            "kind.gguf",
            gguf(0, &string_key("general.architecture", "mamba"), 1),
        ),
        ("magic.gguf", b"GGML and more".to_vec()),
        ("empty.gguf", Vec::new()),
    ] {
        let file = place.file(name, bytes);
        train_refused!(place, &file, &rows, [], &[name]);
    }
}

#[test]
fn a_config_without_a_key_or_of_another_architecture() {
    let place = Place::new();
    let rows = place.rows(4);
    for key in [
        "hidden_size",
        "num_attention_heads",
        "num_hidden_layers",
        "vocab_size",
    ] {
        let model = place.model("tiny_llama");
        edit_config(&model, |config| {
            config.remove(key);
        });
        train_refused!(place, &model, &rows, [], &["config.json", key]);
    }
    let model = place.model("tiny_llama");
    edit_config(&model, |config| {
        config.insert(
            "architectures".into(),
            serde_json::json!(["MambaForCausalLM"]),
        );
        config.insert("model_type".into(), "mamba".into());
    });
    train_refused!(place, &model, &rows, [], &["config.json", "amba"]);
    edit_config(&model, |config| {
        config.insert("hidden_size".into(), (-1).into());
    });
    train_refused!(place, &model, &rows, [], &["config.json"]);
    fs::write(model.join("config.json"), "{").unwrap();
    train_refused!(place, &model, &rows, [], &["config.json"]);
}

#[test]
fn data_that_cannot_be_used() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let good = r#"{"prompt":"a","completion":"b"}"#;
    for (text, needles) in [
        (
            format!("{good}\n{good}\nnot json\n"),
            &["bad.jsonl", ":3", "JSON"][..],
        ),
        (
            format!("{good}\n\n{{\"question\":\"a\"}}\n"),
            &["bad.jsonl", ":3", "question", "messages"],
        ),
        (
            format!("{good}\n{{\"prompt\":\"a\"}}\n"),
            &["bad.jsonl", ":2", "completion"],
        ),
        (format!("{good}\n[1]\n"), &["bad.jsonl", ":2"]),
        ("{\"text\":7}\n".to_string(), &["bad.jsonl", ":1", "text"]),
        (String::new(), &["bad.jsonl", "no data"]),
        ("\n  \n".to_string(), &["bad.jsonl", "no data"]),
        (
            format!("{good}\n{{\"text\":\"{}\"}}\n", "x".repeat(600)),
            &[
                "bad.jsonl",
                ":2",
                "1 of 2",
                "512",
                "--seq-len 601",
                "--truncate",
                "context",
            ],
        ),
    ] {
        let data = place.file("bad.jsonl", text);
        train_refused!(place, &model, &data, [], needles);
    }
    let empty = place.file("empty.txt", "");
    train_refused!(place, &model, &empty, [], &["empty.txt"]);
    train_refused!(place, &model, place.path("none.jsonl"), [], &["none.jsonl"]);
    // The data to evaluate on is checked before anything is written, too.
    let rows = place.rows(4);
    train_refused!(
        place,
        &model,
        &rows,
        ["--eval-data", &empty],
        &["empty.txt"]
    );
    train_refused!(
        place,
        &model,
        place.text(),
        ["--seq-len", "513"],
        &["513", "512", "--seq-len"]
    );
}

#[test]
fn adapters_that_do_not_fit() {
    let place = Place::new();
    let (model, other) = (place.model("tiny_llama"), place.model("tiny_llama_tied"));
    let (rows, adapter) = (place.rows(4), fixture("peft_adapter"));
    // tiny_llama_tied has another head_dim.
    train_refused!(
        place,
        &other,
        &rows,
        ["--init-adapter", &adapter],
        &["adapter", "shape"]
    );
    finetune!(
        "eval",
        "--model",
        &other,
        "--data",
        &rows,
        "--adapter",
        &adapter
    )
    .refused(&["peft_adapter", "shape"]);
    finetune!(
        "generate",
        "--model",
        &other,
        "--prompt",
        "a",
        "--adapter",
        &adapter
    )
    .refused(&["peft_adapter", "shape"]);
    // What is not known is refused, or told, by what it may change.
    let text = fs::read_to_string(fixture("peft_adapter").join("adapter_config.json")).unwrap();
    let copy = place.path("copy");
    fs::create_dir(&copy).unwrap();
    let weights = fixture("peft_adapter").join("adapter_model.safetensors");
    fs::copy(weights, copy.join("adapter_model.safetensors")).unwrap();
    let eval = |key: &str| {
        let text = text.replacen('{', &format!("{{{key},"), 1);
        fs::write(copy.join("adapter_config.json"), text).unwrap();
        finetune!(
            "eval",
            "--model",
            &model,
            "--data",
            &rows,
            "--adapter",
            &copy
        )
    };
    eval(r#""something_new": true"#).refused(&["adapter_config.json", "`something_new`"]);
    let told = eval(r#""something_new": 0.5"#).ok();
    assert!(told.stderr.contains("warning: ") && told.stderr.contains("`something_new`"));
    finetune!(
        "eval",
        "--model",
        &model,
        "--data",
        &rows,
        "--adapter",
        &model
    )
    .refused(&["tiny_llama", "adapter_config.json", "it is a model"]);
    let missing = place.path("no-adapter");
    train_refused!(
        place,
        &model,
        &rows,
        ["--init-adapter", &missing],
        &["no-adapter"]
    );
    train_refused!(
        place,
        &model,
        &rows,
        ["--target", "q_proj,frob"],
        &["`frob`", "gate_proj"]
    );
    train_refused!(
        place,
        &model,
        &rows,
        ["--rank", "0"],
        &["--rank", "at least 1"]
    );
    train_refused!(
        place,
        &model,
        &rows,
        ["--dropout", "1"],
        &["--dropout", "below 1"]
    );
    train_refused!(place, &model, &rows, ["--block-size", "65"], &["65"]);
}

#[test]
fn devices_that_do_not_exist() {
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama"), place.rows(4));
    train_refused!(
        place,
        &model,
        &rows,
        ["--device", "tpu"],
        &["tpu", "flex, wgpu"]
    );
    train_refused!(
        place,
        &model,
        &rows,
        ["--device", "flex:7"],
        &["flex:7", "1 flex device"]
    );
    #[cfg(not(feature = "cuda"))]
    train_refused!(
        place,
        &model,
        &rows,
        ["--device", "cuda"],
        &["cuda", "--features cuda"]
    );
    #[cfg(feature = "wgpu")]
    train_refused!(place, &model, &rows, ["--device", "wgpu:77"], &["wgpu:77"]);
}

#[test]
fn an_output_that_holds_something() {
    let place = Place::new();
    let (model, rows, output) = (place.model("tiny_llama"), place.rows(4), place.path("run"));
    let train = |seed: &str| {
        finetune!(
            "train",
            "--model",
            &model,
            "--data",
            &rows,
            "--output",
            &output,
            "--steps",
            "1",
            "--seq-len",
            "64",
            "--seed",
            seed
        )
    };
    train("1").ok();
    let adapter = fs::read(output.join("adapter_model.safetensors")).unwrap();
    let listing = place.listing("run");
    train("2").refused(&["run", "--resume"]);
    assert_eq!(
        fs::read(output.join("adapter_model.safetensors")).unwrap(),
        adapter
    );
    assert_eq!(place.listing("run"), listing);
    train_refused!(place, &model, &rows, ["--resume"], &["out", "resume"]);
    // A file in the directory's place.
    let file = place.file("file", "mine");
    finetune!(
        "train", "--model", &model, "--data", &rows, "--output", &file, "--steps", "1"
    )
    .refused(&["file"]);
    assert_eq!(fs::read_to_string(file).unwrap(), "mine");
}

#[test]
fn a_config_file_with_a_fault_is_named_with_its_key() {
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama"), place.rows(4));
    for (text, needles) in [
        ("rankk = 4\n", &["run.toml", "`rankk`"][..]),
        ("rank = 0\n", &["run.toml", "`rank`", "at least 1"]),
        ("rank = 4\n= 5\n", &["run.toml", "line 2"]),
        ("[train]\nrank = 4\n", &["run.toml", "`train`"]),
        ("steps = 1\nepochs = 1\n", &["run.toml", "epochs"]),
    ] {
        let config = place.file("run.toml", text);
        train_refused!(place, &model, &rows, ["--config", &config], needles);
    }
    train_refused!(
        place,
        &model,
        &rows,
        ["--config", place.path("none.toml")],
        &["none.toml"]
    );
}

#[test]
fn weights_that_lost_before() {
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama_nf4"), place.rows(2));
    let needles = [
        "--init loftq",
        "self_attn.q_proj.weight",
        "bitsandbytes",
        "16 or 32 bits",
    ];
    train_refused!(place, &model, &rows, ["--init", "loftq"], &needles);
}

#[test]
fn flags_that_make_no_sense() {
    finetune!("train").refused(&["--model", "--data", "--output"]);
    finetune!("trian").refused(&["trian"]);
    finetune!("eval", "--model", "m", "--data", "d", "--frob").refused(&["--frob"]);
    for (flags, named) in [
        (
            &["--steps", "1", "--epochs", "2"][..],
            &["--steps", "--epochs"][..],
        ),
        (
            &["--eval-every", "5"],
            &["--eval-every", "--eval-data", "--eval-split"],
        ),
        (
            &["--eval-split", "0.1", "--eval-data", "e"],
            &["--eval-split", "--eval-data"],
        ),
        (&["--eval-split", "1"], &["--eval-split", "below 1"]),
        (&["--keep-best"], &["--keep-best", "--eval-every"]),
        (&["--early-stop", "2"], &["--early-stop", "--eval-every"]),
        (
            &["--warmup-ratio", "0.1", "--warmup-steps", "3"],
            &["--warmup-ratio", "--warmup-steps"],
        ),
        (
            &["--min-lr", "1e-5"],
            &["--min-lr", "constant", "--schedule cosine"],
        ),
        (
            &["--schedule", "cosine", "--schedule-cycles", "3"],
            &["--schedule-cycles", "--schedule cosine-restarts"],
        ),
        (
            &["--schedule", "linear", "--decay-ratio", "0.2"],
            &["--decay-ratio", "--schedule wsd"],
        ),
        (&["--quant", "nf5"], &["nf5", "nf4, fp4, int4, keep, none"]),
        (
            &["--init", "loftq", "--quant", "none"],
            &["--init loftq", "--quant none"],
        ),
        (
            &["--init", "loftq", "--init-adapter", "a"],
            &["--init", "--init-adapter"],
        ),
    ] {
        finetune!("train", "--model", "m", "--data", "d", "--output", "o"; flags).refused(named);
    }
}

/// wgpu's shaders have no bf16, and Flex alone multiplies in int8.
#[cfg(feature = "wgpu")]
#[test]
fn a_dtype_the_device_does_not_have() {
    for dtype in ["bf16", "int8"] {
        finetune!(
            "eval",
            "--model",
            "nowhere",
            "--data",
            "nothing.txt",
            "--device",
            "wgpu",
            "--compute-dtype",
            dtype
        )
        .refused(&[
            &format!("--compute-dtype {dtype}"),
            "Wgpu",
            &format!("cannot compute in {dtype}"),
            "use f32",
        ]);
    }
}

#[test]
fn a_dtype_that_keys_and_values_cannot_be_kept_in() {
    let computed_in_bf16 = ["--compute-dtype", "bf16", "--kv-cache-dtype", "f16"];
    let named = ["--kv-cache-dtype", "f16", "bf16", "use auto"];
    finetune!("serve", "--model", "m"; computed_in_bf16).refused(&named);
    finetune!("generate", "--model", "m", "--prompt", "x"; computed_in_bf16).refused(&named);
    #[cfg(feature = "wgpu")]
    {
        let on_wgpu = ["--device", "wgpu", "--kv-cache-dtype", "bf16"];
        let named = ["--kv-cache-dtype", "bf16", "Wgpu", "use auto"];
        finetune!("eval", "--model", "m", "--data", "d"; on_wgpu).refused(&named);
    }
}

#[test]
fn blocks_to_keep_that_there_are_none_of() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let keep = ["--quant keep", "nf4"];
    finetune!("plan", "--model", &model, "--quant", "keep").refused(&keep);
    finetune!("plan", "--like", "llama-7b", "--quant", "keep").refused(&["keep", "llama-7b"]);
}
