//! GGUF files that are damaged, cut off or lie.

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
    let array = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let bad: [(&str, u32, Vec<u8>, &str); 8] = [
        (
            "general.alignment\0",
            4,
            0u32.to_le_bytes().to_vec(),
            "general.alignment",
        ),
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
    FILES
        .iter()
        .map(|(family, file)| GgufBuilder::of(&fixture(format!("families/{family}/gguf/{file}"))))
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
        for name in names.filter(|name| !name.starts_with("blk.") || name.starts_with("blk.0.")) {
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
