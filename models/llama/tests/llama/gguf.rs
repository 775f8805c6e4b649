//! GGUF files: the tiny models rewritten as llama.cpp's converter would.

#[cfg(feature = "qlora")]
use burn_qlora_llama::{Checkpoint, Decoder, DecoderConfig, LoadOptions, Weights};
use qlora_test_support::{Recording, fixture};

use crate::fixtures::{Reference, devices, load, max_error};
use crate::gguf_file::{GgufBuilder, tiny_llama};

#[test]
fn a_model_in_gguf_gives_the_logits_of_its_source() {
    for (name, with_factors) in [("tiny_llama", false), ("tiny_llama_tied", true)] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("model.gguf");
        tiny_llama(name, with_factors).write(&path);
        let checkpoint = Checkpoint::open(&path).expect("opens");
        let source = Checkpoint::open(fixture(name)).expect("opens");
        let shape = |config: &DecoderConfig| DecoderConfig {
            rotations: vec![burn_qlora_llama::rope::RopeConfig::new()],
            ..config.clone()
        };
        assert_eq!(shape(checkpoint.config()), shape(source.config()));
        for device in devices() {
            let reference = Reference::of(name);
            let model =
                Decoder::load(&checkpoint, &LoadOptions::default(), &device).expect("loads");
            let logits = model.forward(reference.input_ids(&device));
            let error = max_error(logits, &reference.floats("logits"), &reference.real());
            assert!(error < 1e-4, "{name} on {device:?}: {error}");
        }
    }
}

/// Metadata and small tensors to the last bit, wherever the file lies.
#[test]
fn a_fingerprint_is_of_what_the_file_says() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let fingerprint = |name: &str, builder: &GgufBuilder, flipped: Option<usize>| {
        let path = directory.path().join(name);
        let mut bytes = builder.bytes();
        if let Some(from_the_end) = flipped {
            let place = bytes.len() - from_the_end;
            bytes[place] ^= 1;
        }
        std::fs::write(&path, bytes).expect("written");
        let checkpoint = Checkpoint::open(&path).expect("opens");
        checkpoint.fingerprint().expect("read")
    };
    let builder = tiny_llama("tiny_llama", false);
    let first = fingerprint("first.gguf", &builder, None);
    assert_eq!(fingerprint("second.gguf", &builder, None), first);
    assert_ne!(fingerprint("third.gguf", &builder, Some(100)), first);
    let mut described = tiny_llama("tiny_llama", false);
    described.text("general.description", "another");
    assert_ne!(fingerprint("fourth.gguf", &described, None), first);
}

#[test]
fn the_formats_of_the_projections_are_told_the_most_frequent_first() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("mixed.gguf");
    let metadata = GgufBuilder::metadata_of_a_tiny_llama();
    let mut builder = metadata.with_tensors_of_a_tiny_llama(8);
    for (name, kind, block_bytes) in [("attn_v", 8, 34), ("attn_q", 1, 64)] {
        let name = format!("blk.0.{name}.weight");
        builder = builder.without_tensor(&name);
        builder.tensor(&name, &[64, 64], kind, vec![0; 64 * 2 * block_bytes]);
    }
    builder.write(&path);
    let checkpoint = Checkpoint::open(&path).expect("opens");
    assert_eq!(checkpoint.block_formats(), ["Q4_0", "Q8_0"]);
    let dense = tiny_llama("tiny_llama", false);
    dense.write(&path);
    let checkpoint = Checkpoint::open(&path).expect("opens");
    assert!(checkpoint.block_formats().is_empty());
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

/// What gguf-py makes of them; candle's reader knows neither.
#[test]
fn blocks_that_candle_does_not_know_decode_to_the_recorded_bits() {
    let recording = Recording::open("gguf_blocks.safetensors");
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (format, kind) in [("IQ4_NL", 20), ("MXFP4", 39)] {
        let path = directory.path().join(format!("{format}.gguf"));
        let blocks = recording.bytes(&format!("{format}/blocks"));
        let values = recording.f32(&format!("{format}/values"));
        // The recorded rows are of 512.
        let shape = [values.len() / 64, 64];
        let mut builder = GgufBuilder::metadata_of_a_tiny_llama();
        builder.tensor("token_embd.weight", &shape, kind, blocks.to_vec());
        builder.write(&path);
        let checkpoint = Checkpoint::open(&path).expect("opens");
        let decoded = checkpoint.read_f32("model.embed_tokens.weight", &shape);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&decoded.expect("decodes")), bits(&values), "{format}");
    }
}

#[cfg(feature = "qlora")]
#[test]
fn blocks_without_kernels_are_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("model.gguf");
    let metadata = GgufBuilder::metadata_of_a_tiny_llama();
    let mut builder = metadata.with_tensors_of_a_tiny_llama(8);
    for (key, width) in [("embedding_length", 256), ("feed_forward_length", 64)] {
        builder.number(&format!("llama.{key}"), width);
    }
    let name = "blk.0.ffn_up.weight";
    builder = builder.without_tensor(name);
    builder.tensor(name, &[64, 256], 10, vec![0; 64 * 84]);
    builder.write(&path);
    let checkpoint = Checkpoint::open(&path).expect("opens");
    let expected = Some((name.to_owned(), "Q2_K".to_owned()));
    assert_eq!(checkpoint.unserved_blocks(), expected);
    let error = checkpoint.stored_formats().expect_err("cannot be kept");
    let text = error.to_string();
    assert!(text.contains(name) && text.contains("Q2_K"), "{text}");
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

#[cfg(feature = "qlora")]
#[test]
fn kept_blocks_multiply_as_they_decode() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("model.gguf");
    tiny_llama("tiny_llama", false).in_blocks().write(&path);
    let checkpoint = Checkpoint::open(&path).expect("opens");
    let formats = checkpoint.stored_formats().expect("known");
    let mut names: Vec<_> = formats.values().map(ToString::to_string).collect();
    names.sort();
    names.dedup();
    assert_eq!(
        names,
        ["IQ4_NL", "MXFP4", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
    );
    assert_eq!(checkpoint.unserved_blocks(), None);
    let reference = Reference::of("tiny_llama");
    for device in devices() {
        let load = |weights| Decoder::load(&checkpoint, &LoadOptions::new(weights), &device);
        let is_flex = format!("{device:?}").contains("Flex");
        let logits = |weights| {
            let logits = load(weights).expect("loads");
            logits.forward(reference.input_ids(&device)).into_data()
        };
        let (kept, dense) = (logits(Weights::Kept), logits(Weights::Dense));
        let values = kept.iter::<f32>().zip(dense.iter::<f32>());
        let error = values.fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        // GPUs, and the software that stands for one, may contract.
        let tolerance = if is_flex { 1e-4 } else { 1e-3 };
        assert!(error < tolerance, "{error}");
    }
    let plain = Checkpoint::open(fixture("tiny_llama")).expect("opens");
    let error = plain.stored_formats().expect_err("nothing is stored so");
    assert!(
        error.to_string().contains("quantize them to nf4"),
        "{error}"
    );
}
