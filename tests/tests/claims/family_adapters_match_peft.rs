//! Adapter files of peft on the families beside LLaMA: peft's logits and losses on the 4-bit model, its logits after merging
//! into the dense one, and files written again that say the same.

use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_qlora::{LoraModel, Targets, TokenBatch, peft};
use burn_qlora_llama::Decoder;
use qlora_test_support::{
    FAMILIES, Recording, TestDevice, Tolerance, assert_close, fixture, targets, token_losses,
    values,
};
use qlora_tests::{adapted, adapter_bits, devices, merge};

fn tolerance(test: &TestDevice) -> Tolerance {
    if test.is_flex() {
        Tolerance::absolute(1e-4, "an f64 recomputation is within 8.6e-6")
    } else {
        Tolerance::absolute(1e-3, "GPUs contract and approximate")
    }
}

#[test]
fn on_the_quantized_model() {
    for (test, family) in cases() {
        let recording = recording(family);
        let model = nf4(family, &test.device);
        let what = |name: &str| format!("{family} on {}: {name}", test.name);
        for (ids, labels, losses, mean) in [
            ("input_ids", "labels", "per_token_loss", "loss"),
            // The labels of the long row are its tokens.
            (
                "long_input_ids",
                "long_input_ids",
                "long_per_token_loss",
                "long_loss",
            ),
        ] {
            let shape = recording.shape(ids);
            let input = input_ids(&recording, ids, &test.device);
            let logits = values(model.forward(input.clone()));
            if ids == "long_input_ids" {
                let expected = recording.f32("long_logits_tail");
                let tail = &logits[logits.len() - expected.len()..];
                assert_close(
                    &what("tail of the logits"),
                    tail,
                    &expected,
                    tolerance(&test),
                );
            }
            let targets = targets(&recording.i64(labels), shape[1]);
            let found = token_losses(&logits, &targets);
            let rows = found.chunks(shape[1]);
            let found: Vec<f32> = rows
                .flat_map(|row| &row[..row.len() - 1])
                .copied()
                .collect();
            assert_close(
                &what(losses),
                &found,
                &recording.f32(losses),
                tolerance(&test),
            );

            let count = targets
                .iter()
                .filter(|target| **target != TokenBatch::IGNORED);
            let count = count.count() as f32;
            let targets = Tensor::from_data(TensorData::new(targets, shape), &test.device);
            let found = model.nll_sum(input, None, targets).into_scalar::<f32>() / count;
            let limit = if test.is_flex() { 1e-5 } else { 1e-4 };
            let tolerance = Tolerance::absolute(limit, "the mean of f32 sums in another order");
            assert_close(&what(mean), &[found], &recording.f32(mean), tolerance);
        }
    }
}

#[test]
fn merged_into_the_dense_model() {
    for (test, family) in cases() {
        let recording = recording(family);
        let mut model = adapted(
            &format!("families/{family}"),
            &format!("families/{family}/adapter"),
            &test.device,
        );
        merge(&mut model);
        let logits = model.forward(input_ids(&recording, "long_input_ids", &test.device));
        let logits = values(logits);
        let expected = recording.f32("merged_f32_long_logits_tail");
        let tail = &logits[logits.len() - expected.len()..];
        let what = format!("{family} on {}: merged", test.name);
        assert_close(&what, tail, &expected, tolerance(&test));
    }
}

/// The same factors under the same names, and names of targets that fit every module that peft named.
#[test]
fn written_again_they_are_the_same() {
    let device = devices().remove(0).device;
    for family in FAMILIES {
        let folder = format!("families/{family}/adapter");
        let mut first = qlora_tests::model(&format!("families/{family}/nf4"), &device);
        let config = peft::load(&mut first, fixture(&folder)).unwrap();
        let all = config.clone().with_targets(Targets::AllLinear);
        for config in [config, all] {
            let written = tempfile::tempdir().unwrap();
            peft::save(&first, &config, family, written.path()).unwrap();
            let mut second = qlora_tests::model(&format!("families/{family}/nf4"), &device);
            let again = peft::load(&mut second, written.path()).unwrap();
            assert_eq!(adapter_bits(&first), adapter_bits(&second), "{family}");
            assert_eq!(config.scale(), again.scale(), "{family}");
            let path = written.path().join("adapter_model.safetensors");
            let written = Recording::open(path.to_str().unwrap());
            let recorded = Recording::open(&format!("{folder}/adapter_model.safetensors"));
            assert_eq!(written.names(), recorded.names(), "{family}");
        }
    }
}

/// The attention alone, by the names of the family.
#[test]
fn targets_go_by_the_names_of_the_family() {
    let device = devices().remove(0).device;
    for family in FAMILIES {
        let mut model = qlora_tests::model(&format!("families/{family}/nf4"), &device);
        let paths = model.lora_linears().into_iter().map(|(path, _)| path);
        let attention = paths.filter(|path| path.contains("self_attn"));
        let expected: Vec<String> = attention.collect();
        let targets = Targets::Regex(r".*\.self_attn\..*".into());
        let config = burn_qlora::LoraConfig::new(2, 4.0).with_targets(targets);
        burn_qlora::attach_adapters(&mut model, &config, 0).unwrap();
        let adapted = model.lora_linears().into_iter();
        let adapted = adapted.filter(|(_, linear)| linear.adapter.is_some());
        let found: Vec<String> = adapted.map(|(path, _)| path).collect();
        assert_eq!(found, expected, "{family}");
        let names = if family.starts_with("phi3") { 2 } else { 4 };
        assert_eq!(found.len(), names * model.config().layers.len(), "{family}");
    }
}

fn cases() -> Vec<(TestDevice, &'static str)> {
    devices()
        .into_iter()
        .flat_map(|test| FAMILIES.map(|family| (test.clone(), family)))
        .collect()
}

fn recording(family: &str) -> Recording {
    Recording::open(&format!("families/{family}/adapter/reference.safetensors"))
}

fn nf4(family: &str, device: &Device) -> Decoder {
    adapted(
        &format!("families/{family}/nf4"),
        &format!("families/{family}/adapter"),
        device,
    )
}

fn input_ids(recording: &Recording, name: &str, device: &Device) -> Tensor<2, Int> {
    let data = TensorData::new(recording.i64(name), recording.shape(name));
    Tensor::from_data(data, device)
}
