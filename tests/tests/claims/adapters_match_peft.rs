//! Adapter files of peft give peft's logits, on the quantized model and merged into the dense one.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_qlora::{BaseWeight, LoraModel, merge_linears, peft};
use burn_qlora_llama::Decoder;
use qlora_test_support::{Recording, TestDevice, Tolerance, assert_close, fixture, values};
use qlora_tests::{adapted, adapter_bits, devices, model};

const ADAPTERS: [&str; 2] = ["peft_adapter", "peft_adapter_rslora"];

fn logits_tolerance() -> Tolerance {
    let reason = "the logits move by 3 to 5 under these adapters; f32 in another order costs 5e-6";
    Tolerance::absolute(1e-4, reason)
}

#[test]
fn on_the_quantized_model() {
    for (test, adapter) in cases() {
        let recording = Recording::open(&format!("{adapter}/reference.safetensors"));
        let model = adapted("tiny_llama_nf4", adapter, &test.device);
        let what = format!("{} {adapter}", test.name);
        let expected = recording.f32("logits_nf4");
        assert_close(
            &what,
            &logits(&model, &recording, &test.device),
            &expected,
            logits_tolerance(),
        );

        let labels = recording.i64("labels");
        let targets: Vec<i64> = labels[1..].iter().copied().chain([-100]).collect();
        let count = targets.iter().filter(|target| **target >= 0).count();
        let targets = TensorData::new(targets, recording.shape("labels"));
        let loss = model.nll_sum(
            input_ids(&recording, &test.device),
            None,
            Tensor::from_data(targets, &test.device),
        );
        let loss = loss.into_scalar::<f32>() / count as f32;
        let tolerance = Tolerance::of_largest(1e-5, "the mean of f32 sums in another order");
        assert_close(&what, &[loss], &recording.f32("loss_nf4"), tolerance);
    }
}

#[test]
fn merged_into_the_dense_model() {
    for (test, adapter) in cases() {
        let recording = Recording::open(&format!("{adapter}/reference.safetensors"));
        let mut dense = model("tiny_llama", &test.device);
        peft::load(&mut dense, fixture(adapter)).unwrap();
        let mut merged: Vec<(String, Tensor<2>)> = Vec::new();
        merge_linears(&dense, |path, weight| {
            merged.push((path.to_owned(), weight));
            Ok::<(), std::convert::Infallible>(())
        })
        .unwrap();
        for ((_, linear), (path, weight)) in dense.lora_linears_mut().into_iter().zip(merged) {
            if path == "model.layers.1.self_attn.k_proj" {
                let expected = recording.f32("merged_f32.layers.1.self_attn.k_proj.weight");
                let tolerance = Tolerance::absolute(1e-6, "a few sums of f32 numbers below 1");
                assert_close(&path, &values(weight.clone()), &expected, tolerance);
            }
            let BaseWeight::Dense(base) = &mut linear.weight else {
                panic!("{path} should be dense");
            };
            *base = burn::module::Param::from_tensor(weight);
            linear.adapter = None;
        }
        let what = format!("{} {adapter} merged", test.name);
        let expected = recording.f32("logits_merged_f32");
        assert_close(
            &what,
            &logits(&dense, &recording, &test.device),
            &expected,
            logits_tolerance(),
        );
    }
}

/// Reading and writing an adapter gives the same numbers and a configuration that means the same.
#[test]
fn written_again_they_are_the_same() {
    for adapter in ADAPTERS {
        let device = devices().remove(0).device;
        let mut first = model("tiny_llama_nf4", &device);
        let config = peft::load(&mut first, fixture(adapter)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        peft::save(&first, &config, "tiny_llama_nf4", folder.path()).unwrap();
        let mut second = model("tiny_llama_nf4", &device);
        let again = peft::load(&mut second, folder.path()).unwrap();
        assert_eq!(adapter_bits(&first), adapter_bits(&second));
        assert_eq!(config.scale(), again.scale());
    }
}

fn cases() -> Vec<(TestDevice, &'static str)> {
    ADAPTERS
        .into_iter()
        .flat_map(|adapter| devices().into_iter().map(move |test| (test, adapter)))
        .collect()
}

fn logits(model: &Decoder, recording: &Recording, device: &Device) -> Vec<f32> {
    values(model.forward(input_ids(recording, device)))
}

fn input_ids(recording: &Recording, device: &Device) -> Tensor<2, Int> {
    let data = TensorData::new(recording.i64("input_ids"), recording.shape("input_ids"));
    Tensor::from_data(data, (device, DType::I32))
}
