//! A model in bf16 and f16: the logits of f32 up to rounding, everything handed on in the dtype, and a
//! refusal where a device does not have it.

use burn::tensor::{DType, Tensor};
use burn_qlora_llama::{
    Checkpoint, ComputeDtype, Decoder, DecoderError, KvCache, LoadOptions, Weights,
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
