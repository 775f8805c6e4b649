//! A model in bf16 and f16: the logits of f32 up to rounding, everything handed on in the dtype, and a
//! refusal where a device does not have it.

use burn::tensor::{DType, Tensor};
use burn_qlora_llama::{
    Checkpoint, ComputeDtype, Decoder, DecoderError, KvCache, KvCacheDtype, LoadOptions, Weights,
};

use qlora_test_support::fixture;

use crate::fixtures::{Reference, devices, greedy, max_error};

/// The dtypes below f32, and how far a tiny model's logits (up to 5 in size) may be off: a few roundings.
const DTYPES: [(ComputeDtype, f32); 2] = [(ComputeDtype::Bf16, 0.15), (ComputeDtype::F16, 0.02)];

#[test]
fn logits_are_those_of_f32_up_to_rounding() {
    let mut runs = 0;
    for device in devices() {
        for (dtype, tolerance) in DTYPES {
            if !device.supports_dtype(dtype.dtype()) {
                continue;
            }
            for name in ["tiny_llama", "tiny_llama_tied", "tiny_llama_nf4"] {
                let reference = Reference::of(name);
                let model = load(name, dtype, Weights::AsStored, &device).expect("loads");
                let ids = reference.input_ids(&device);
                for state in model.hidden_states(ids.clone()) {
                    assert_eq!(state.dtype(), dtype.dtype(), "{name}");
                }
                let logits = model.forward(ids);
                assert_eq!(logits.dtype(), dtype.dtype(), "{name}");
                let logits = logits.cast(DType::F32);
                let error = max_error(logits, &reference.floats("logits"), &reference.real());
                println!("{name} in {dtype} on {device:?}: logits off by {error:e}");
                assert!(error < tolerance, "{name} in {dtype}: {error}");
                assert!(error > 1e-4, "{name} in {dtype} should round: {error}");
                runs += 1;
            }
        }
    }
    assert!(runs > 0, "a device should have one of the dtypes");
}

#[test]
fn a_cache_holds_the_dtype_and_gives_the_same_logits() {
    for device in devices() {
        for (dtype, tolerance) in DTYPES {
            if !device.supports_dtype(dtype.dtype()) {
                continue;
            }
            let reference = Reference::of("tiny_llama_nf4");
            let model = load("tiny_llama_nf4", dtype, Weights::AsStored, &device).expect("loads");
            let ids = reference.input_ids(&device);
            let [batch, seq] = ids.dims();
            let mut cache = KvCache::new(&model, batch, seq);
            let first = ids.clone().slice([0..batch, 0..seq - 1]);
            model.forward_cached(first, &mut cache).expect("fits");
            let last = ids.clone().slice([0..batch, seq - 1..seq]);
            let cached = model.forward_cached(last, &mut cache).expect("fits");
            let vocab = model.config().vocab_size;
            let whole = model.forward(ids);
            let expected = whole.slice([0..batch, seq - 1..seq, 0..vocab]);
            let error: Tensor<2> = cached - expected.reshape([batch, vocab]);
            let error = error.cast(DType::F32).abs().max().into_scalar::<f32>();
            assert!(error < tolerance, "{dtype} on {device:?}: {error}");
            // The whole way through sampling.
            assert_eq!(greedy(&model, &[1, 2, 3], 4).len(), 4);
        }
    }
}

/// Steps of many tokens and of one: what the CPU's kernels read where it lies, and what is widened before.
#[test]
fn keys_and_values_in_16_bits_round_the_logits_of_f32() {
    let tolerances = [(KvCacheDtype::Bf16, 2e-2), (KvCacheDtype::F16, 2e-3)];
    for device in devices() {
        for (kept, tolerance) in tolerances {
            let dtype = kept.dtype(DType::F32);
            if !device.supports_dtype(dtype) {
                continue;
            }
            let reference = Reference::of("tiny_llama_nf4");
            let options = LoadOptions::default().with_kv_cache_dtype(kept);
            let path = fixture("tiny_llama_nf4");
            let checkpoint = Checkpoint::open(&path).expect("opens");
            let model = Decoder::load(&checkpoint, &options, &device).expect("loads");
            let ids = reference.input_ids(&device);
            let [batch, seq] = ids.dims();
            let vocab = model.config().vocab_size;
            let whole = model.forward(ids.clone());
            let mut cache = KvCache::new(&model, batch, seq);
            let mut held = 0;
            for step in [seq - 5, 1, 3, 1] {
                let part = ids.clone().slice([0..batch, held..held + step]);
                held += step;
                let cached = model.forward_cached(part, &mut cache).expect("fits");
                assert_eq!(cached.dtype(), DType::F32);
                let expected = whole.clone().slice([0..batch, held - 1..held, 0..vocab]);
                let error: Tensor<2> = cached - expected.reshape([batch, vocab]);
                let error = error.abs().max().into_scalar::<f32>();
                let name = format!("{kept} on {device:?} at {held}: {error}");
                assert!(error < tolerance && error > 1e-6, "{name}");
            }
            assert_eq!(greedy(&model, &[1, 2, 3], 4).len(), 4);
        }
    }
}

/// transformers has Gemma's factor, the root of the width, in the dtype of the weights.
#[test]
fn the_factor_of_embeddings_is_rounded_to_the_dtype() {
    let factor = 48f32.sqrt();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let source = fixture("families/granite");
    let config = std::fs::read(source.join("config.json")).expect("reads");
    let mut config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
    config["embedding_multiplier"] = factor.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("writes");
    let weights = "model.safetensors";
    std::fs::copy(source.join(weights), folder.path().join(weights)).expect("copies");
    let checkpoint = Checkpoint::open(folder.path()).expect("opens");
    for device in devices() {
        if !device.supports_dtype(DType::BF16) {
            continue;
        }
        let options = LoadOptions::default().with_compute_dtype(ComputeDtype::Bf16);
        let model = Decoder::load(&checkpoint, &options, &device).expect("loads");
        let ids = Reference::of("families/granite").input_ids(&device);
        let found = model.hidden_states(ids.clone()).remove(0);
        let rows = model.embed_tokens.forward(ids).cast(DType::F32);
        let rounded = half::bf16::from_f32(factor).to_f32();
        assert_ne!(rounded, factor);
        let expected = (rows * rounded).cast(DType::BF16);
        assert_eq!(found.into_data(), expected.into_data(), "{device:?}");
    }
}

#[test]
fn a_device_without_the_dtype_is_refused_before_anything_is_read() {
    for device in devices() {
        for (dtype, _) in DTYPES {
            let loaded = load("tiny_llama", dtype, Weights::Dense, &device);
            if device.supports_dtype(dtype.dtype()) {
                assert_eq!(loaded.expect("loads").dtype(), dtype.dtype());
                continue;
            }
            let error = loaded.expect_err("the device does not have the dtype");
            assert!(
                matches!(&error, DecoderError::ComputeDtype { dtype: found, .. } if *found == dtype),
                "{error}"
            );
            let text = error.to_string();
            assert!(
                text.contains(&dtype.to_string()) && text.contains("use f32"),
                "{text}"
            );
        }
    }
}

fn load(
    name: &str,
    dtype: ComputeDtype,
    weights: Weights,
    device: &burn::tensor::Device,
) -> Result<Decoder, DecoderError> {
    let checkpoint = Checkpoint::open(fixture(name)).expect("the fixture opens");
    let options = LoadOptions::new(weights).with_compute_dtype(dtype);
    Decoder::load(&checkpoint, &options, device)
}
