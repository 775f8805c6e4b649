//! GGUF files: the tiny models rewritten as llama.cpp's converter would, and SmolLM2 as it is published.

use std::path::PathBuf;

use burn_qlora_llama::{Checkpoint, Llama, LlamaConfig, LoadOptions, Weights};
use serde_json::Value;

use crate::fixtures::{Reference, devices, fixture, greedy, load, max_error};
use crate::gguf_file::{GgufBuilder, tiny_llama};

#[test]
fn a_model_in_gguf_gives_the_logits_of_its_source() {
    for (name, with_factors) in [("tiny_llama", false), ("tiny_llama_tied", true)] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("model.gguf");
        tiny_llama(name, with_factors).write(&path);
        let checkpoint = Checkpoint::open(&path).expect("opens");
        let source = Checkpoint::open(fixture(name)).expect("opens");
        let shape = |config: &LlamaConfig| LlamaConfig {
            rope: burn_qlora_llama::rope::RopeConfig::new(),
            ..config.clone()
        };
        assert_eq!(shape(checkpoint.config()), shape(source.config()));
        for device in devices() {
            let reference = Reference::of(name);
            let model = Llama::load(&checkpoint, &LoadOptions::default(), &device).expect("loads");
            let logits = model.forward(reference.input_ids(&device));
            let error = max_error(logits, &reference.floats("logits"), &reference.real());
            assert!(error < 1e-4, "{name} on {device:?}: {error}");
        }
    }
}

#[test]
fn blocks_of_each_type_decode_in_chunks_and_row_by_row() {
    // Q8_0 and Q4_1 by hand, more rows than one chunk holds at 1 MiB, so that chunks meet.
    let (rows, width) = (20_000usize, 64usize);
    let blocks = rows * width / 32;
    let half = |value: f32| half::f16::from_f32(value).to_le_bytes();
    let scale = |block: usize| (block % 17) as f32 / 8.0;
    let mut q8 = Vec::new();
    let mut q4 = Vec::new();
    for block in 0..blocks {
        q8.extend(half(scale(block)));
        q8.extend((0..32).map(|i| (i - 16) as i8 as u8));
        q4.extend(half(scale(block)));
        q4.extend(half(0.25));
        // Element i is in the low nibble of byte i, element i + 16 in the high one.
        q4.extend((0..16u8).map(|i| i | ((15 - i) << 4)));
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("model.gguf");
    let mut builder = GgufBuilder::metadata_of_a_tiny_llama();
    builder.tensor("token_embd.weight", &[rows, width], 8, q8);
    builder.tensor("output.weight", &[rows, width], 3, q4);
    builder.write(&path);
    let checkpoint = Checkpoint::open(&path).expect("opens");
    let embedding = checkpoint
        .read_f32("model.embed_tokens.weight", &[rows, width])
        .expect("decodes");
    let head = checkpoint
        .read_f32("lm_head.weight", &[rows, width])
        .expect("decodes");
    for (index, (q8, q4)) in embedding.iter().zip(&head).enumerate() {
        let (scale, i) = (scale(index / 32), index % 32);
        assert_eq!(*q8, scale * (i as f32 - 16.0), "Q8_0 at {index}");
        let code = if i < 16 { i } else { 31 - i };
        assert_eq!(*q4, scale * code as f32 + 0.25, "Q4_1 at {index}");
    }
}

/// The published model: named by `QLORA_SMOLLM2`, or where scripts/demo.sh keeps it.
fn smollm2() -> Option<PathBuf> {
    let cache = || {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let base =
            base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
        Some(base.join("burn-qlora/SmolLM2-135M-Instruct.Q4_1.gguf"))
    };
    let path = std::env::var_os("QLORA_SMOLLM2")
        .map(PathBuf::from)
        .or_else(cache)?;
    if path.exists() {
        return Some(path);
    }
    eprintln!(
        "skipped: {} is not there; scripts/demo.sh fetches it",
        path.display()
    );
    None
}

#[test]
fn smollm2_tokens_equal_those_of_transformers() {
    let Some(path) = smollm2() else { return };
    let checkpoint = Checkpoint::open(path).expect("opens");
    let tokenizer = checkpoint.tokenizer().expect("the tokenizer builds");
    let recorded = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/smollm2_tokens.json");
    let recorded = std::fs::read_to_string(recorded).expect("the fixture is there");
    let recorded: Value = serde_json::from_str(&recorded).expect("the fixture is valid");
    let cases = recorded["cases"].as_array().expect("cases");
    assert!(cases.len() >= 10);
    for case in cases {
        let text = case["text"].as_str().expect("text");
        let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        let found = tokenizer.encode(text, true).expect("encodes");
        assert_eq!(found.get_ids(), expected, "{text:?}");
        let decoded = tokenizer.decode(&expected, false).expect("decodes");
        assert_eq!(decoded, case["decoded"].as_str().expect("decoded"));
    }
    let special = checkpoint.special_tokens().expect("special tokens");
    assert_eq!(special.bos.expect("bos").text, "<|im_start|>");
    assert_eq!(special.eos.expect("eos").id, 2);
    assert!(!special.add_bos);
    assert!(
        checkpoint
            .chat_template()
            .expect("reads")
            .expect("has one")
            .contains("<|im_start|>")
    );
}

#[test]
fn smollm2_knows_the_capital_of_france() {
    let Some(path) = smollm2() else { return };
    let checkpoint = Checkpoint::open(path).expect("opens");
    let tokenizer = checkpoint.tokenizer().expect("the tokenizer builds");
    let prompt = tokenizer
        .encode("The capital of France is", true)
        .expect("encodes");
    let continuation = |weights| {
        let device = devices().remove(0);
        let model = Llama::load(&checkpoint, &LoadOptions::new(weights), &device).expect("loads");
        tokenizer
            .decode(&greedy(&model, prompt.get_ids(), 8), false)
            .expect("decodes")
    };
    for weights in [Weights::Dense, quantized()] {
        let text = continuation(weights);
        assert!(text.starts_with(" Paris."), "{weights:?}: {text:?}");
    }
}

#[cfg(feature = "qlora")]
fn quantized() -> Weights {
    Weights::Quantized(nf4::QuantConfig::default())
}

#[cfg(not(feature = "qlora"))]
fn quantized() -> Weights {
    Weights::AsStored
}

#[test]
fn a_gguf_tokenizer_survives_being_written_as_tokenizer_json() {
    let Some(path) = smollm2() else { return };
    let tokenizer = Checkpoint::open(path)
        .expect("opens")
        .tokenizer()
        .expect("builds");
    let json = tokenizer.to_string(false).expect("serializes");
    let again = tokenizers::Tokenizer::from_bytes(json).expect("reads back");
    let text = "list:\n\n1. one <|im_end|> naïve 日本";
    let ids = |tokenizer: &tokenizers::Tokenizer| {
        tokenizer
            .encode(text, true)
            .expect("encodes")
            .get_ids()
            .to_vec()
    };
    assert_eq!(ids(&tokenizer), ids(&again));
}

#[test]
fn loading_the_same_file_twice_gives_the_same_model() {
    let device = devices().remove(0);
    let reference = Reference::of("tiny_llama");
    let logits = || {
        load("tiny_llama", Weights::AsStored, &device)
            .forward(reference.input_ids(&device))
            .into_data()
    };
    assert_eq!(logits(), logits());
}
