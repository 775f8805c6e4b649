//! Adapter files of peft give peft's logits, on the quantized model and merged into the dense one.

use burn::tensor::{Device, Tensor, TensorData};
use burn_qlora::{BaseWeight, LoraModel, merge_linears, peft};
use burn_qlora_llama::Llama;
use qlora_tests::device;
use qlora_tests::fixtures::{self, Recording};

use crate::recorded::{adapted, assert_close, model};

const ADAPTERS: [&str; 2] = ["peft_adapter", "peft_adapter_rslora"];

/// transformers' logits move by 3 to 5 under these adapters; f32 in another order costs 5e-6.
const LOGITS: f32 = 1e-4;

#[test]
fn on_the_quantized_model() {
    for (test, adapter) in cases() {
        let recording = Recording::open(&format!("{adapter}/reference.safetensors"));
        let model = adapted("tiny_llama_nf4", adapter, &test.device);
        let what = format!("{} {adapter}", test.name);
        let expected = recording.floats("logits_nf4");
        assert_close(
            &what,
            &logits(&model, &recording, &test.device),
            &expected,
            LOGITS,
        );

        let labels = recording.ints("labels");
        let targets: Vec<i64> = labels[1..].iter().copied().chain([-100]).collect();
        let count = targets.iter().filter(|target| **target >= 0).count();
        let targets = TensorData::new(targets, recording.shape("labels"));
        let loss = model.nll_sum(
            recording.int_tensor("input_ids", &test.device),
            None,
            Tensor::from_data(targets, &test.device),
        );
        let loss = loss.into_scalar::<f32>() / count as f32;
        assert_close(&what, &[loss], &recording.floats("loss_nf4"), 1e-5 * loss);
    }
}

#[test]
fn merged_into_the_dense_model() {
    for (test, adapter) in cases() {
        let recording = Recording::open(&format!("{adapter}/reference.safetensors"));
        let mut dense = model("tiny_llama", &test.device);
        peft::load(&mut dense, fixtures::path(adapter)).unwrap();
        let mut merged: Vec<(String, Tensor<2>)> = Vec::new();
        merge_linears(&dense, |path, weight| {
            merged.push((path.to_owned(), weight));
            Ok::<(), std::convert::Infallible>(())
        })
        .unwrap();
        for ((_, linear), (path, weight)) in dense.lora_linears_mut().into_iter().zip(merged) {
            if path == "model.layers.1.self_attn.k_proj" {
                let expected = recording.floats("merged_f32.layers.1.self_attn.k_proj.weight");
                let got: Vec<f32> = weight.clone().into_data().try_to_vec().unwrap();
                assert_close(&path, &got, &expected, 1e-6);
            }
            let BaseWeight::Dense(base) = &mut linear.weight else {
                panic!("{path} should be dense");
            };
            *base = burn::module::Param::from_tensor(weight);
            linear.adapter = None;
        }
        let what = format!("{} {adapter} merged", test.name);
        let expected = recording.floats("logits_merged_f32");
        assert_close(
            &what,
            &logits(&dense, &recording, &test.device),
            &expected,
            LOGITS,
        );
    }
}

/// Reading and writing an adapter gives the same numbers and a configuration that means the same.
#[test]
fn written_again_they_are_the_same() {
    for adapter in ADAPTERS {
        let device = Device::flex();
        let mut first = model("tiny_llama_nf4", &device);
        let config = peft::load(&mut first, fixtures::path(adapter)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        peft::save(&first, &config, "tiny_llama_nf4", folder.path()).unwrap();
        let mut second = model("tiny_llama_nf4", &device);
        let again = peft::load(&mut second, folder.path()).unwrap();
        assert_eq!(
            crate::recorded::adapter_bits(&first),
            crate::recorded::adapter_bits(&second)
        );
        assert_eq!(config.scale(), again.scale());
    }
}

fn cases() -> Vec<(device::TestDevice, &'static str)> {
    ADAPTERS
        .into_iter()
        .flat_map(|adapter| device::all().into_iter().map(move |test| (test, adapter)))
        .collect()
}

fn logits(model: &Llama, recording: &Recording, device: &Device) -> Vec<f32> {
    let ids = recording.int_tensor::<2>("input_ids", device);
    model.forward(ids).into_data().try_to_vec().unwrap()
}
