//! Adapter files of peft give peft's logits, on the quantized model and merged into the dense one.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_qlora::{BaseWeight, LoraModel, peft};
use burn_qlora_llama::Decoder;
use qlora_test_support::{
    Recording, TestDevice, Tolerance, assert_close, fixture, json, targets, values,
};
use qlora_tests::{adapted, adapter_bits, devices, merge, model};
use serde_json::Value;

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

        let shape = recording.shape("labels");
        let targets = targets(&recording.i64("labels"), shape[1]);
        let count = targets.iter().filter(|target| **target >= 0).count();
        let targets = TensorData::new(targets, shape);
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
        merge(&mut dense);
        let mut linears = dense.lora_linears().into_iter();
        let (_, merged) = linears
            .find(|(path, _)| path == "model.layers.1.self_attn.k_proj")
            .unwrap();
        let BaseWeight::Dense(weight) = &merged.weight else {
            panic!("what is merged should be dense");
        };
        let expected = recording.f32("merged_f32.layers.1.self_attn.k_proj.weight");
        let tolerance = Tolerance::absolute(1e-6, "a few sums of f32 numbers below 1");
        assert_close("k_proj", &values(weight.val()), &expected, tolerance);
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

/// Adapters that differ from layer to layer, or that bring embedding and head, by the models they were recorded on.
const KINDS: [(&str, &str); 6] = [
    ("patterns", "tiny_llama"),
    ("blocks", "tiny_llama"),
    ("regex", "tiny_llama"),
    ("tied_embedding", "tiny_llama_tied"),
    ("tied_head", "tiny_llama_tied"),
    ("factored_head", "tiny_llama"),
];

/// As they were read, and as they are read again when they were written.
#[test]
fn adapters_of_every_kind() {
    for test in devices() {
        for (kind, base) in KINDS {
            let what = format!("{} {kind}", test.name);
            let folder = format!("adapters/{kind}");
            let recording = Recording::open(&format!("{folder}/reference.safetensors"));
            let expected = recording.f32("logits");
            let mut first = model(base, &test.device);
            let config = peft::load(&mut first, fixture(&folder)).unwrap();
            let found = logits(&first, &recording, &test.device);
            assert_close(&what, &found, &expected, logits_tolerance());

            let written = tempfile::tempdir().unwrap();
            peft::save(&first, &config, base, written.path()).unwrap();
            let mut second = model(base, &test.device);
            let again = peft::load(&mut second, written.path()).unwrap();
            assert_eq!(adapter_bits(&first), adapter_bits(&second), "{what}");
            assert_eq!(config, again, "{what}");
            assert_eq!(logits(&second, &recording, &test.device), found, "{what}");
        }
    }
}

/// What peft needs to find every rank and alpha again is written in the order in which peft goes through it.
#[test]
fn what_differs_from_layer_to_layer_is_written_as_it_was_read() {
    let device = devices().remove(0).device;
    for kind in ["patterns", "blocks", "regex"] {
        let folder = format!("adapters/{kind}");
        let mut adapted = model("tiny_llama", &device);
        let config = peft::load(&mut adapted, fixture(&folder)).unwrap();
        let written = tempfile::tempdir().unwrap();
        peft::save(&adapted, &config, "tiny_llama", written.path()).unwrap();
        let text = std::fs::read(written.path().join(peft::CONFIG_FILE)).unwrap();
        let written: Value = serde_json::from_slice(&text).unwrap();
        let mut recorded = json(&format!("{folder}/{}", peft::CONFIG_FILE));
        // No layer of a LLaMA is called so.
        if let Some(targets) = recorded["target_modules"].as_array_mut() {
            targets.retain(|target| target != "W_pack");
        }
        // peft takes one name or a list.
        if recorded["layers_pattern"].is_string() {
            recorded["layers_pattern"] = Value::Array(vec![recorded["layers_pattern"].take()]);
        }
        for key in [
            "target_modules",
            "exclude_modules",
            "layers_to_transform",
            "layers_pattern",
            "rank_pattern",
            "alpha_pattern",
            "r",
            "lora_alpha",
            "use_rslora",
        ] {
            assert_eq!(written[key], recorded[key], "{kind}: {key}");
        }
    }
}

/// The head that an adapter brings is what its factors train below, and stays as it is.
#[test]
fn a_head_of_the_adapter_does_not_train() {
    let device = devices().remove(0).device.autodiff();
    let mut adapted = model("tiny_llama_tied", &device);
    peft::load(&mut adapted, fixture("adapters/tied_head")).unwrap();
    let adapted = burn_qlora::freeze_base(adapted);
    let ids = Tensor::<2, Int>::from_data([[5, 6, 7, 8]], (&device, DType::I32));
    let gradients = adapted.nll_sum(ids.clone(), None, ids).backward();
    let head = adapted.lm_head.as_ref().unwrap().val();
    assert!(head.grad(&gradients).is_none());
    assert!(adapted.embed_tokens.weight.val().grad(&gradients).is_none());
    let linears = adapted.lora_linears();
    let branches = linears
        .iter()
        .filter_map(|(_, linear)| linear.adapter.as_ref());
    let factors: Vec<_> = branches
        .flat_map(|branch| [branch.lora.a.val(), branch.lora.b.val()])
        .collect();
    assert_eq!(factors.len(), 6);
    assert!(
        factors
            .iter()
            .all(|factor| factor.grad(&gradients).is_some())
    );
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
