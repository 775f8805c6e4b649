//! Files that are damaged, truncated or lie: each is an error that names the file and what is wrong.

#[cfg(feature = "gguf")]
#[path = "hostile/gguf.rs"]
mod gguf;

use std::path::{Path, PathBuf};

use burn_qlora_llama::{Checkpoint, Decoder, DecoderError, LoadOptions};
use serde_json::{Value, json};

use qlora_test_support::fixture;

use crate::fixtures::devices;

/// A copy of a recorded model that can be damaged.
struct Copy {
    directory: tempfile::TempDir,
}

impl Copy {
    fn of(name: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(fixture(name).join(file), directory.path().join(file)).expect("copies");
        }
        Self { directory }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn edit_config(&self, edit: impl FnOnce(&mut Value)) {
        let path = self.file("config.json");
        let mut config =
            serde_json::from_slice(&std::fs::read(&path).expect("reads")).expect("JSON");
        edit(&mut config);
        std::fs::write(path, config.to_string()).expect("writes");
    }

    /// The header of model.safetensors, changed and put back with the right length.
    fn edit_header(&self, edit: impl FnOnce(&mut Value)) {
        let path = self.file("model.safetensors");
        let bytes = std::fs::read(&path).expect("reads");
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        let mut header = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
        edit(&mut header);
        let header = header.to_string().into_bytes();
        let file = [
            &(header.len() as u64).to_le_bytes(),
            &header[..],
            &bytes[8 + length..],
        ]
        .concat();
        std::fs::write(path, file).expect("writes");
    }

    /// Returns the error of opening and loading.
    fn error(&self) -> DecoderError {
        try_load(self.directory.path()).expect_err("the damage is noticed")
    }
}

fn try_load(path: &Path) -> Result<Decoder, DecoderError> {
    let checkpoint = Checkpoint::open(path)?;
    Decoder::load(&checkpoint, &LoadOptions::default(), &devices().remove(0))
}

#[track_caller]
fn assert_names(error: &DecoderError, parts: &[&str]) {
    let message = error.to_string();
    assert!(!message.contains('\n'), "one line: {message}");
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn missing_files_are_named() {
    assert_names(
        &try_load(Path::new("/no/such/model")).unwrap_err(),
        &["/no/such/model"],
    );
    let copy = Copy::of("tiny_llama");
    std::fs::remove_file(copy.file("model.safetensors")).expect("removes");
    assert_names(&copy.error(), &["model.safetensors", "not found"]);
    std::fs::write(
        copy.file("model.safetensors.index.json"),
        r#"{"weight_map":{"a":"part-1.safetensors"}}"#,
    )
    .expect("writes");
    assert_names(&copy.error(), &["part-1.safetensors", "not found"]);
    std::fs::write(
        copy.file("model.safetensors.index.json"),
        r#"{"weight_map":{"a":"../x"}}"#,
    )
    .expect("writes");
    assert_names(&copy.error(), &["../x", "plain file name"]);
    std::fs::write(
        copy.file("model.safetensors.index.json"),
        r#"{"weight_map":{}}"#,
    )
    .expect("writes");
    assert_names(&copy.error(), &["model.safetensors.index.json", "no shard"]);
    std::fs::remove_file(copy.file("config.json")).expect("removes");
    assert_names(&copy.error(), &["config.json", "not found"]);
}

#[test]
fn truncated_safetensors_are_refused_at_every_length() {
    let copy = Copy::of("tiny_llama");
    let path = copy.file("model.safetensors");
    let bytes = std::fs::read(&path).expect("reads");
    for length in [0, 7, 8, 9, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).expect("writes");
        assert_names(&copy.error(), &["model.safetensors", "truncated"]);
    }
    std::fs::write(&path, [&bytes[..], &[0]].concat()).expect("writes");
    assert_names(&copy.error(), &["model.safetensors", "damaged"]);
}

#[test]
fn safetensors_headers_that_lie_are_refused() {
    let copy = Copy::of("tiny_llama");
    let bytes = std::fs::read(copy.file("model.safetensors")).expect("reads");
    for length in [u64::MAX, 1 << 40, bytes.len() as u64] {
        let file = [&length.to_le_bytes(), &bytes[8..]].concat();
        std::fs::write(copy.file("model.safetensors"), file).expect("writes");
        assert_names(&copy.error(), &["model.safetensors", "header"]);
    }
    let norm = "model.norm.weight";
    for edit in [
        json!({"dtype": "BF16", "shape": [u64::MAX, 2], "data_offsets": [0, 128]}),
        json!({"dtype": "BF16", "shape": [64], "data_offsets": [128, 0]}),
        json!({"dtype": "BF16", "shape": [64], "data_offsets": [0, u64::MAX]}),
        json!({"dtype": "NEW9", "shape": [64], "data_offsets": [0, 128]}),
    ] {
        let copy = Copy::of("tiny_llama");
        copy.edit_header(|header| header[norm] = edit);
        assert_names(&copy.error(), &["model.safetensors", "header"]);
    }
}

#[test]
fn tensors_that_do_not_fit_the_configuration_are_named() {
    let copy = Copy::of("tiny_llama");
    copy.edit_config(|config| config["intermediate_size"] = json!(192));
    assert_names(&copy.error(), &["mlp.gate_proj", "[176, 64]", "[192, 64]"]);
    let copy = Copy::of("tiny_llama");
    copy.edit_config(|config| config["num_hidden_layers"] = json!(4));
    assert_names(&copy.error(), &["model.layers.3.", "missing"]);
    let copy = Copy::of("tiny_llama");
    copy.edit_header(|header| header["model.norm.weight"]["dtype"] = json!("I16"));
    assert_names(&copy.error(), &["model.norm.weight", "I16", "BF16"]);
}

#[test]
fn configurations_that_cannot_be_built_are_refused_by_key() {
    let edits: [(&str, Value, &[&str]); 10] = [
        (
            "vocab_size",
            Value::Null,
            &["config.json", "vocab_size", "missing"],
        ),
        (
            "architectures",
            json!(["GemmaForCausalLM"]),
            &["GemmaForCausalLM"],
        ),
        ("model_type", json!("qwen2"), &["qwen2"]),
        ("hidden_act", json!("gelu"), &["gelu"]),
        (
            "num_key_value_heads",
            json!(3),
            &["num_key_value_heads", "3"],
        ),
        ("hidden_size", json!("wide"), &["hidden_size", "wide"]),
        ("vocab_size", json!(u64::MAX), &["vocab_size"]),
        (
            "rope_parameters",
            json!({"rope_type": "yarn", "rope_theta": 1e4}),
            &["yarn"],
        ),
        (
            "quantization_config",
            json!({"quant_method": "gptq"}),
            &["gptq"],
        ),
        (
            "quantization",
            json!({"group_size": 64, "bits": 4}),
            &["quantization", "mlx"],
        ),
    ];
    for (key, value, parts) in edits {
        let copy = Copy::of("tiny_llama");
        copy.edit_config(|config| config[key] = value);
        assert_names(&copy.error(), parts);
    }
    let copy = Copy::of("tiny_llama");
    std::fs::write(copy.file("config.json"), "{\"vocab_size\": 1,").expect("writes");
    assert_names(&copy.error(), &["config.json", "JSON"]);
}

#[test]
fn bitsandbytes_parts_that_lie_are_refused() {
    let weight = "model.layers.1.mlp.up_proj.weight";
    for part in ["absmax", "quant_map", "nested_absmax", "nested_quant_map"] {
        let copy = Copy::of("tiny_llama_nf4");
        copy.edit_header(|header| {
            let entry = header[format!("{weight}.{part}")].take();
            header
                .as_object_mut()
                .expect("an object")
                .remove(&format!("{weight}.{part}"));
            header["unrelated"] = entry;
        });
        assert_names(&copy.error(), &[weight, part, "missing"]);
    }
    // The JSON of a quant_state is of one length whichever digits stand in it.
    let copy = Copy::of("tiny_llama_nf4");
    let path = copy.file("model.safetensors");
    let bytes = std::fs::read(&path).expect("reads");
    let find = b"\"shape\": [176, 64]";
    let at = bytes
        .windows(find.len())
        .position(|window| window == find)
        .expect("a quant_state");
    let mut lying = bytes.clone();
    lying[at + 10..at + 13].copy_from_slice(b"976");
    std::fs::write(&path, lying).expect("writes");
    assert_names(&copy.error(), &["model.layers.", "bytes"]);
}

/// Files on which the tokenizers library panics, in its readers of decoders and of normalizers.
#[test]
fn a_tokenizer_that_its_library_fails_on_is_an_error() {
    let copy = Copy::of("tiny_llama");
    let model = json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"});
    for (part, damaged) in [
        (
            "decoder",
            json!({"type": "Replace", "pattern": {"Regex": "a"}, "content": 3}),
        ),
        ("decoder", json!([1])),
        (
            "normalizer",
            json!({"type": "Sequence", "normalizers": [{"type": "Precompiled"}]}),
        ),
        ("normalizer", json!("NFC")),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}),
        ),
        ("post_processor", json!({"type": "TemplateProcessing"})),
    ] {
        let mut tokenizer = json!({"version": "1.0", "added_tokens": [], "model": model});
        tokenizer[part] = damaged;
        std::fs::write(copy.file("tokenizer.json"), tokenizer.to_string()).expect("writes");
        let checkpoint = Checkpoint::open(copy.directory.path()).expect("opens");
        let error = checkpoint.tokenizer().expect_err("is damaged");
        assert_names(&error, &["tokenizer.json"]);
    }
}
