//! Adapters that make up for what 4 bits lose are those of peft's `replace_lora_weights_loftq`, and bring the loss back to
//! that of the dense model.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use std::num::NonZeroUsize;

use burn_qlora::{
    BaseWeight, LoftqReport, LoraConfig, LoraError, LoraModel, QuantConfig, attach_adapters,
    loftq_init, loftq_rounds, peft,
};
use burn_qlora_llama::{Checkpoint, ComputeDtype, Decoder, LoadOptions, Weights};
use qlora_test_support::{Recording, Tolerance, assert_close, fixture, json, values};
use qlora_tests::{adapter_bits, devices, model};

const RANK: usize = 8;
const FIVE: NonZeroUsize = NonZeroUsize::new(5).expect("not zero");

/// Of alpha 4, half the rank, so that the factors differ from peft's and their product with the scale does not.
fn config() -> LoraConfig {
    LoraConfig::new(RANK, 4.0)
}

/// The model that bitsandbytes quantized, with adapters fitted to what that lost.
fn fitted(dtype: ComputeDtype, lora: &LoraConfig, device: &Device) -> (Decoder, LoftqReport) {
    let [dense, quantized] =
        ["tiny_llama", "tiny_llama_nf4"].map(|name| Checkpoint::open(fixture(name)).unwrap());
    let options = LoadOptions::default().with_compute_dtype(dtype);
    let mut model = Decoder::load(&quantized, &options, device).unwrap();
    attach_adapters(&mut model, lora, 0).unwrap();
    let report = loftq_init(&mut model, 0, |path, shape| {
        let values = dense.read_f32(&format!("{path}.weight"), &shape);
        Ok::<_, LoraError>(values.unwrap())
    });
    (model, report.unwrap())
}

/// The product of each layer's factors, with its scale, by its path.
fn products(model: &Decoder) -> Vec<(String, Vec<f32>)> {
    let linears = model.lora_linears().into_iter();
    linears
        .map(|(path, linear)| {
            let delta = linear.adapter.as_ref().unwrap().lora.delta();
            (path, values(delta))
        })
        .collect()
}

/// The mean loss of the recorded tokens.
fn loss(model: &Decoder, recording: &Recording, device: &Device) -> f32 {
    let shape = recording.shape("input_ids");
    let [rows, seq] = [shape[0], shape[1]];
    let ids: Tensor<2, Int> = Tensor::from_data(
        TensorData::new(recording.i64("input_ids"), shape),
        (device, DType::I32),
    );
    let next = ids.clone().slice([0..rows, 1..seq]);
    let seen = ids.slice([0..rows, 0..seq - 1]);
    model.nll_sum(seen, None, next).into_scalar::<f32>() / (rows * (seq - 1)) as f32
}

#[test]
fn the_products_and_errors_are_those_of_peft() {
    let recording = Recording::open("loftq/reference.safetensors");
    for test in devices() {
        let (ours, report) = fitted(ComputeDtype::F32, &config(), &test.device);
        let mut theirs = model("tiny_llama_nf4", &test.device);
        peft::load(&mut theirs, fixture("loftq")).unwrap();
        let mut norms = [0.0f64; 2];
        let all = products(&ours).into_iter().zip(products(&theirs));
        for ((path, found), (_, expected)) in all {
            let what = format!("{} {path}", test.name);
            let reason = "f32 turns directions whose singular values are 0.3 % apart into each other; torch's own error is 1.4e-5";
            let tolerance = Tolerance::of_largest(1e-4, reason);
            assert_close(&what, &found, &expected, tolerance);
            let errors = recording.f32(&format!("error.{path}"));
            for (norm, error) in norms.iter_mut().zip(errors) {
                *norm += f64::from(error).powi(2);
            }
        }
        let [before, after] = report.relative_errors();
        let (found, expected) = (after / before, (norms[1] / norms[0]).sqrt());
        assert!(
            (found / expected - 1.0).abs() < 1e-5,
            "{found}, not {expected}"
        );
    }
}

/// In f32 at peft's loss, a tenth as far from the dense one as without; in bf16, whose rounding is a part of the rest, nearer too.
#[test]
fn the_loss_starts_near_that_of_the_dense_model() {
    let recording = Recording::open("loftq/reference.safetensors");
    let recorded = |name: &str| recording.f32(name)[0];
    let (dense, nf4) = (recorded("loss_dense"), recorded("loss_nf4"));
    for test in devices() {
        let (ours, _) = fitted(ComputeDtype::F32, &config(), &test.device);
        let found = loss(&ours, &recording, &test.device);
        let expected = recorded("loss_loftq");
        let what = format!("{}: {found}, with peft {expected}", test.name);
        assert!((found - expected).abs() < 1e-4, "{what}");
        assert!((found - dense).abs() < 0.25 * (nf4 - dense).abs(), "{what}");
    }
    let device = devices().remove(0).device;
    let (ours, _) = fitted(ComputeDtype::Bf16, &config(), &device);
    let found = loss(&ours, &recording, &device);
    assert!((found - dense).abs() < 0.5 * (nf4 - dense).abs(), "{found}");
}

/// Weights and adapters after five rounds: peft's `loftq_init`.
#[test]
fn rounds_end_in_the_weights_and_products_of_peft() {
    let recording = Recording::open("loftq/rounds.safetensors");
    let checkpoint = Checkpoint::open(fixture("tiny_llama")).unwrap();
    // peft quantizes no scales here.
    let format = QuantConfig {
        double_quant: false,
        ..QuantConfig::default()
    };
    for test in devices() {
        let options = LoadOptions::quantized(format);
        let mut model = Decoder::load(&checkpoint, &options, &test.device).unwrap();
        attach_adapters(&mut model, &LoraConfig::new(RANK, RANK as f64), 0).unwrap();
        let report = loftq_rounds(&mut model, FIVE, 0, |path, shape| {
            let values = checkpoint.read_f32(&format!("{path}.weight"), &shape);
            Ok::<_, LoraError>(values.unwrap())
        });
        let mut norms = [0.0f64; 2];
        for (path, linear) in model.lora_linears() {
            for (norm, error) in norms
                .iter_mut()
                .zip(recording.f32(&format!("error.{path}")))
            {
                *norm += f64::from(error).powi(2);
            }
            let Some(BaseWeight::Quantized(weight)) = recording
                .has(&format!("weight.{path}"))
                .then_some(&linear.weight)
            else {
                continue;
            };
            let kept = values(weight.tensor().dequantize());
            let expected = recording.f32(&format!("weight.{path}"));
            // Scales have the last bits of the decompositions. Where a value lies at the middle of two codes these decide, and the next
            // round goes by what they decided. Codes are a fifteenth of a scale apart or more.
            let largest = expected
                .iter()
                .fold(0f32, |most, value| most.max(value.abs()));
            let is_another = |(a, b): &(&f32, &f32)| (**a - **b).abs() > 1e-3 * largest;
            let others = kept.iter().zip(&expected).filter(is_another).count();
            println!(
                "{} {path}: {others} of {} weights by another code",
                test.name,
                kept.len()
            );
            assert!(
                others * 200 < kept.len(),
                "{path}: {others} of {}",
                kept.len()
            );
            let product = values(linear.adapter.as_ref().unwrap().lora.delta());
            let what = format!("{} {path}", test.name);
            let reason = "each round starts from the last bits that the one before left";
            let expected = recording.f32(&format!("product.{path}"));
            let [rows, columns] = linear.shape();
            let turned: Vec<f32> = (0..rows * columns)
                .map(|at| expected[at % rows * columns + at / rows])
                .collect();
            assert_close(
                &what,
                &product,
                &turned,
                Tolerance::of_largest(1e-3, reason),
            );
        }
        let [before, after] = report.unwrap().relative_errors();
        let (found, expected) = (after / before, (norms[1] / norms[0]).sqrt());
        assert!(
            (found / expected - 1.0).abs() < 1e-4,
            "{found}, not {expected}"
        );
        let (_, once) = fitted(ComputeDtype::F32, &config(), &test.device);
        let [before, once] = once.relative_errors();
        assert!(
            found < once / before,
            "more rounds leave less: {found}, {}",
            once / before
        );
    }
}

/// A rank of the width of a layer takes the whole error; what goes beyond it stays a fresh adapter, that can learn.
#[test]
fn a_rank_beyond_the_width_leaves_nothing_of_the_error() {
    let device = devices().remove(0).device;
    let rank = 70;
    let lora = LoraConfig::new(rank, -16.0).with_rslora(true);
    let (ours, report) = fitted(ComputeDtype::F32, &lora, &device);
    let [before, after] = report.relative_errors();
    assert!(after < 1e-4 * before, "{after} of {before}");
    for (path, linear) in ours.lora_linears() {
        let lora = &linear.adapter.as_ref().unwrap().lora;
        let [a, b] = [lora.a.val(), lora.b.val()].map(values);
        let width = linear.shape().into_iter().min().unwrap();
        let last = a.iter().skip(rank - 1).step_by(rank);
        assert!(last.clone().all(|value| *value != 0.0), "{path}");
        assert!(
            b[width * linear.shape()[0]..]
                .iter()
                .all(|value| *value == 0.0)
        );
    }
}

#[test]
fn the_file_is_one_of_peft() {
    let device = devices().remove(0).device;
    let lora = LoraConfig::new(RANK, RANK as f64);
    let (ours, _) = fitted(ComputeDtype::F32, &lora, &device);
    let folder = tempfile::tempdir().unwrap();
    peft::save(&ours, &lora, "tiny_llama", folder.path()).unwrap();
    let written = std::fs::read(folder.path().join(peft::CONFIG_FILE)).unwrap();
    let written: serde_json::Value = serde_json::from_slice(&written).unwrap();
    let recorded = json(&format!("loftq/{}", peft::CONFIG_FILE));
    for key in [
        "init_lora_weights",
        "loftq_config",
        "r",
        "lora_alpha",
        "use_rslora",
    ] {
        assert_eq!(written[key], recorded[key], "{key}");
    }
    let mut again = model("tiny_llama_nf4", &device);
    peft::load(&mut again, folder.path()).unwrap();
    assert_eq!(adapter_bits(&ours), adapter_bits(&again));
}

#[test]
fn what_it_cannot_fit_is_refused_by_name() {
    let device = devices().remove(0).device;
    let checkpoint = Checkpoint::open(fixture("tiny_llama")).unwrap();
    let refusal = |weights: Weights, given: &[f32]| {
        let mut model = Decoder::load(&checkpoint, &LoadOptions::new(weights), &device).unwrap();
        attach_adapters(&mut model, &config(), 0).unwrap();
        let result = loftq_init(&mut model, 0, |_, _| Ok::<_, LoraError>(given.to_vec()));
        result.unwrap_err().to_string()
    };
    let quantized = Weights::Quantized(QuantConfig::default());
    let first = "model.layers.0.self_attn.q_proj";
    for (weights, given, reason) in [
        (Weights::Dense, vec![], "is not quantized"),
        (quantized, vec![0.0; 3], "has 3 values, not [64, 64]"),
        (quantized, vec![f32::NAN; 64 * 64], "holds NaN"),
    ] {
        let error = refusal(weights, &given);
        assert!(error.contains(first) && error.contains(reason), "{error}");
    }
}
