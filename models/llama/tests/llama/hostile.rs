//! Files that are damaged, truncated or lie: each is an error that names the file and what is wrong.

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

#[cfg(feature = "gguf")]
mod gguf {
    use super::{assert_names, try_load};
    use crate::gguf_families::FILES;
    use crate::gguf_file::{GgufBuilder, string, tiny_llama};
    use burn_qlora_llama::DecoderError;
    use qlora_test_support::fixture;

    fn error(bytes: &[u8]) -> DecoderError {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("model.gguf");
        std::fs::write(&path, bytes).expect("writes");
        let error = try_load(&path).expect_err("the damage is noticed");
        assert_names(&error, &["model.gguf"]);
        error
    }

    #[test]
    fn a_gguf_is_refused_wherever_it_is_cut() {
        let bytes = tiny_llama("tiny_llama", false).bytes();
        for length in [
            0,
            3,
            4,
            8,
            20,
            24,
            40,
            200,
            1000,
            2500,
            bytes.len() / 2,
            bytes.len() - 64,
        ] {
            error(&bytes[..length]);
        }
    }

    #[test]
    fn counts_and_sizes_that_lie_are_refused() {
        let good = tiny_llama("tiny_llama", false);
        for count in [u64::MAX, 1 << 40, 1 << 29, 100_000] {
            let mut bad = good.clone();
            bad.tensor_count = Some(count);
            assert_names(&error(&bad.bytes()), &[&count.to_string(), "tensors"]);
        }
        // One more than there is: the header then runs into the data.
        let mut bad = good.clone();
        bad.tensor_count = Some(31);
        error(&bad.bytes());
        for offset in [1 << 20, u64::MAX / 2] {
            let mut bad = good.clone();
            bad.offset = offset;
            assert_names(&error(&bad.bytes()), &["does not fit the file"]);
        }
        let overflow = [usize::MAX / 2, 64];
        let mut bad = good.clone();
        bad.tensor("huge", &overflow, 0, vec![]);
        assert_names(&error(&bad.bytes()), &["huge", "more elements"]);
        let mut bad = good.clone();
        bad.tensor("huge", &[1 << 40], 0, vec![]);
        assert_names(&error(&bad.bytes()), &["huge", "does not fit"]);
        let mut bad = good.clone();
        bad.tensor("output.weight", &[512, 64], 0, vec![]);
        assert_names(&error(&bad.bytes()), &["output.weight", "twice"]);
        let mut bad = good.clone();
        bad.tensor("flat", &[], 0, vec![]);
        assert_names(&error(&bad.bytes()), &["flat", "0 dimensions"]);
    }

    #[test]
    fn values_that_would_break_the_reader_are_refused() {
        let good = tiny_llama("tiny_llama", false);
        let array =
            |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
        let bad: [(&str, u32, Vec<u8>, &str); 7] = [
            (
                "general.alignment",
                4,
                0u32.to_le_bytes().to_vec(),
                "general.alignment",
            ),
            (
                "general.alignment",
                4,
                24u32.to_le_bytes().to_vec(),
                "general.alignment",
            ),
            (
                "general.alignment",
                10,
                32u64.to_le_bytes().to_vec(),
                "general.alignment",
            ),
            ("a.strange.key", 99, vec![], "a.strange.key"),
            ("a.long.array", 9, array(0, 1 << 33), "a.long.array"),
            ("a.nested.array", 9, array(9, 1), "a.nested.array"),
            ("a.bad.array", 9, array(77, 1), "a.bad.array"),
        ];
        for (key, kind, value, part) in bad {
            let mut file = good.clone();
            file.entry(key, kind, value);
            assert_names(&error(&file.bytes()), &[part]);
        }
        let mut file = good.clone();
        file.entry("a.string", 8, u64::MAX.to_le_bytes().to_vec());
        assert_names(&error(&file.bytes()), &["string"]);
        let mut file = good;
        file.entry("a.flag", 7, vec![2]);
        error(&file.bytes());
        let mut twice = tiny_llama("tiny_llama", false);
        twice.number("a.key", 1);
        twice.number("b.key", 2);
        let mut bytes = twice.bytes();
        let at = bytes.windows(5).position(|window| window == b"b.key");
        bytes[at.expect("the key")] = b'a';
        assert_names(&error(&bytes), &["`a.key`", "twice"]);
        let safetensors = fixture("tiny_llama").join("model.safetensors");
        let bytes = std::fs::read(safetensors).expect("reads");
        assert_names(&error(&bytes), &["a safetensors file"]);
        assert_names(
            &error(b"tjgg\x03\0\0\0 an old file of long ago"),
            &["before GGUF"],
        );
        let pointer = b"version https://git-lfs.github.com/spec/v1\n";
        assert_names(&error(pointer), &["Git LFS"]);
        assert_names(&error(b"<!DOCTYPE html><html></html>"), &["web page"]);
        assert_names(
            &error(b"PK\x03\x04 not a model at all, but long enough"),
            &["GGUF"],
        );
    }

    #[test]
    fn tensor_types_that_are_not_read_are_named() {
        let mut unknown = tiny_llama("tiny_llama", false);
        unknown.tensor("extra", &[32], 4242, vec![0; 32]);
        assert_names(&error(&unknown.bytes()), &["extra", "4242"]);
        let mut odd = GgufBuilder::metadata_of_a_tiny_llama();
        odd.number("llama.embedding_length", 48);
        odd.tensor("token_embd.weight", &[4, 48], 8, vec![0; 6 * 34]);
        assert_names(
            &error(&odd.bytes()),
            &["token_embd.weight", "48", "block of 32"],
        );
        let mut intermediate = GgufBuilder::metadata_of_a_tiny_llama();
        intermediate.tensor("token_embd.weight", &[4, 64], 9, vec![0; 8 * 36]);
        assert_names(
            &error(&intermediate.bytes()),
            &["token_embd.weight", "type 9 (Q8_1)"],
        );
    }

    #[test]
    fn metadata_that_does_not_describe_a_llama_is_refused_by_key() {
        let good = tiny_llama("tiny_llama", false);
        for key in [
            "general.architecture",
            "llama.block_count",
            "llama.embedding_length",
            "llama.feed_forward_length",
            "llama.attention.head_count",
            "llama.context_length",
            "llama.attention.layer_norm_rms_epsilon",
        ] {
            assert_names(&error(&good.without(key).bytes()), &[key, "missing"]);
        }
        let mut other = good.clone();
        other.text("general.architecture", "gpt-oss");
        assert_names(&error(&other.bytes()), &["gpt-oss", "known are llama"]);
        for (kind, words) in [
            ("adapter", "an adapter, not a model"),
            ("mmproj", "images"),
            ("imatrix", "statistics"),
            ("vocab", "a vocabulary"),
        ] {
            let mut other = good.clone();
            other.text("general.type", kind);
            assert_names(&error(&other.bytes()), &[words, "model"]);
        }
        let mut other = good.clone();
        other.text("general.architecture", "clip");
        assert_names(&error(&other.bytes()), &["images"]);
        let mut other = good.clone();
        other.number("llama.expert_count", 8);
        assert_names(&error(&other.bytes()), &["experts"]);
        let mut other = good.clone();
        other.number("llama.rope.dimension_count", 8);
        assert_names(&error(&other.bytes()), &["rope.dimension_count"]);
        let mut other = good.clone();
        other.text("llama.rope.scaling.type", "yarn");
        assert_names(&error(&other.bytes()), &["rope.scaling.factor", "missing"]);
        other.text("llama.rope.scaling.type", "longrope");
        assert_names(&error(&other.bytes()), &["longrope", "rope_factors_short"]);
        other.text("llama.rope.scaling.type", "spiral");
        assert_names(&error(&other.bytes()), &["spiral", "yarn"]);
        let mut other = good.clone();
        other.number("llama.block_count", 5);
        assert_names(&error(&other.bytes()), &["blk.3.", "missing"]);
        let mut other = good.clone();
        other.entry("llama.block_count", 8, string("three"));
        assert_names(&error(&other.bytes()), &["llama.block_count", "three"]);
        let mut other = good;
        other.number("llama.attention.head_count", 0);
        error(&other.bytes());
    }

    /// The recorded files of the families.
    fn families() -> impl Iterator<Item = GgufBuilder> {
        FILES.iter().map(|(family, file)| {
            GgufBuilder::of(&fixture(format!("families/{family}/gguf/{file}")))
        })
    }

    fn architecture(file: &GgufBuilder) -> String {
        let epsilon = "attention.layer_norm_rms_epsilon";
        let keys = file.keys("");
        let name = keys.iter().find_map(|key| key.strip_suffix(epsilon));
        name.expect("every family has it").into()
    }

    #[test]
    fn a_file_put_together_again_is_the_same() {
        for (family, file) in FILES {
            let path = fixture(format!("families/{family}/gguf/{file}"));
            let bytes = std::fs::read(&path).expect("reads");
            assert!(GgufBuilder::of(&path).bytes() == bytes, "{family}");
        }
    }

    #[test]
    fn metadata_that_may_change_the_arithmetic_and_are_not_known_are_refused_by_key() {
        for good in families() {
            let prefix = architecture(&good);
            for key in [
                "attention.clamp_kqv",
                "residual_shift",
                "attention.output_scale",
            ] {
                let key = format!("{prefix}{key}");
                let mut file = good.clone();
                file.float(&key, 0.5);
                assert_names(&error(&file.bytes()), &[&key, "0.5", "would change"]);
                // What is turned off changes nothing.
                file.float(&key, 0.0);
                opens(&file);
            }
            let mut file = good.clone();
            file.number(&format!("{prefix}expert_count"), 8);
            assert_names(&error(&file.bytes()), &["experts"]);
            file.number(&format!("{prefix}expert_count"), 0);
            file.number(&format!("{prefix}expert_used_count"), 0);
            file.text(
                &format!("{prefix}tensor_data_layout"),
                "Meta AI original pth",
            );
            file.number("quantize.imatrix.entries_count", 7);
            opens(&file);
            file.entry(&format!("{prefix}attention.causal"), 7, vec![0]);
            assert_names(&error(&file.bytes()), &["causal"]);
        }
    }

    #[test]
    fn tensors_that_the_model_does_not_use_are_refused_by_name() {
        for good in families() {
            for name in [
                "blk.1.attn_q.bias",
                "blk.0.attn_sinks.weight",
                "blk.2.ffn_gate_inp.weight",
                "blk.0.attn_q.scale",
                "blk.99.ffn_up.weight",
                "output_norm.bias",
            ] {
                if good.tensor_names().iter().any(|known| known == name) {
                    continue;
                }
                let mut file = good.clone();
                file.floats(name, &[2], &[1.0, 1.0]);
                assert_names(&error(&file.bytes()), &[name, "not part of the model"]);
            }
            let mut file = good.clone();
            file.floats("blk.0.attn_rot_embd", &[2], &[1.0, 1.0]);
            file.floats("a_mark", &[0], &[]);
            opens(&file);
        }
    }

    #[test]
    fn tensors_that_are_missing_or_of_another_shape_are_named() {
        for good in families() {
            // The first layer has a tensor of each kind; what is not in a layer stands beside it.
            let names = good.tensor_names().into_iter();
            for name in names.filter(|name| !name.starts_with("blk.") || name.starts_with("blk.0."))
            {
                let missing = good.without_tensor(&name);
                match name.as_str() {
                    // Then the head is the embedding.
                    "output.weight" => opens(&missing),
                    // Where no key says how many tokens there are, its rows do.
                    "token_embd.weight" => assert_names(&error(&missing.bytes()), &["missing"]),
                    _ => assert_names(&error(&missing.bytes()), &[&name, "missing"]),
                }
                if !is_square(&good, &name) {
                    assert_names(&error(&good.turned(&name).bytes()), &[&name, "shape"]);
                }
            }
        }
    }

    #[test]
    fn numbers_of_any_size_end_in_a_model_or_an_error() {
        for good in families() {
            for key in good.keys(&architecture(&good)) {
                try_file(&good.without(&key));
                for value in [0, 1, 3, 1 << 16, i32::MAX as u32, u32::MAX] {
                    let mut file = good.clone();
                    file.number(&key, value);
                    try_file(&file);
                }
                for value in [0.0, -1.0, 1e-30, 1e30, f32::INFINITY, f32::NAN] {
                    let mut file = good.clone();
                    file.float(&key, value);
                    try_file(&file);
                }
                let mut file = good.clone();
                file.text(&key, "yes");
                try_file(&file);
                file.flags(&key, &[true, false]);
                try_file(&file);
            }
        }
    }

    fn is_square(file: &GgufBuilder, name: &str) -> bool {
        let extents = file.extents(name);
        extents.len() == 2 && extents[0] == extents[1]
    }

    fn opens(file: &GgufBuilder) {
        if let Some(error) = try_file(file) {
            panic!("{error}");
        }
    }

    /// Opens and loads a file; an error is one line that names the file.
    fn try_file(file: &GgufBuilder) -> Option<DecoderError> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("model.gguf");
        file.write(&path);
        let error = try_load(&path).err()?;
        assert_names(&error, &["model.gguf"]);
        Some(error)
    }
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
