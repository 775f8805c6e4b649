//! Keeping only the blocks' inputs gives the loss and the gradients that keeping everything gives: the
//! same bits on Flex.

use burn::module::Module;
use burn::tensor::Device;
use burn_finetune::Batch;
use burn_qlora::{
    BackwardPass, CausalLm, Checkpointing, LoraConfig, LoraModel, Targets, attach_adapters,
    freeze_base,
};
use burn_qlora_llama::{ComputeDtype, Decoder};
use qlora_test_support::{FAMILIES, TestDevice, Tolerance, alone, assert_close, values};
use qlora_tests::{Curve, adapted, devices, model};

#[test]
fn on_a_trained_adapter() {
    for test in devices() {
        let device = test.device.clone().autodiff();
        let model = freeze_base(adapted("tiny_llama_nf4", "peft_adapter", &device).train());
        same_either_way(&test, &model, 0);
    }
}

/// Both passes over a block draw the same masks; another seed draws others.
#[test]
fn with_dropout() {
    // Burn's generators are one for the whole process.
    let _turn = alone();
    for test in devices() {
        let config = LoraConfig::new(8, 16.0).with_dropout(0.3);
        let model = fresh(&test.device, &config);
        let first = same_either_way(&test, &model, 1);
        let second = same_either_way(&test, &model, 2);
        assert_ne!(first, second, "{}: the seed should matter", test.name);
    }
}

/// Blocks without an adapter, above and below the ones with.
#[test]
fn with_adapters_on_some_blocks_only() {
    for test in devices() {
        let targets = Targets::Regex(r"model\.layers\.1\..*".into());
        let config = LoraConfig::new(4, 8.0).with_targets(targets);
        same_either_way(&test, &fresh(&test.device, &config), 0);
    }
}

/// Norms after and around attention and MLP, the multipliers and the fused projections of the other families; with
/// dropout too where the bits are compared.
#[test]
fn with_other_families() {
    // Burn's generators are one for the whole process.
    let _turn = alone();
    for test in devices() {
        for family in FAMILIES {
            let curve = Curve::of_family(family);
            let device = test.device.clone().autodiff();
            let batch = curve.batches().whole(0, &device);
            let dropouts: &[f64] = if test.is_flex() { &[0.0, 0.3] } else { &[0.0] };
            for &dropout in dropouts {
                let mut model = curve.model(ComputeDtype::F32, &device);
                for (_, linear) in model.lora_linears_mut() {
                    linear.adapter.as_mut().unwrap().dropout.prob = dropout;
                }
                let what = format!("{family} on {}, dropout {dropout}", test.name);
                same(&test, &what, &freeze_base(model.train()), &batch, 1);
            }
        }
    }
}

/// Fresh adapters whose B is not zero, so that A has a gradient.
fn fresh(device: &Device, config: &LoraConfig) -> Decoder {
    let mut model = model("tiny_llama_nf4", &device.clone().autodiff());
    attach_adapters(&mut model, config, 3).unwrap();
    for (index, (_, linear)) in model.lora_linears_mut().into_iter().enumerate() {
        if let Some(branch) = &mut linear.adapter {
            let value = 0.01 * (index as f64 + 1.0);
            branch.lora.b = branch.lora.b.clone().map(|b| b.full_like(value));
        }
    }
    freeze_base(model.train())
}

/// Compares the two on a recorded batch and returns the loss.
fn same_either_way(test: &TestDevice, model: &Decoder, seed: u64) -> f32 {
    let device = test.device.clone().autodiff();
    let batch = Curve::llama().batches().whole(0, &device);
    same(test, test.name, model, &batch, seed)
}

fn same(test: &TestDevice, what: &str, model: &Decoder, batch: &Batch, seed: u64) -> f32 {
    let (loss, whole) = backward(model, batch, seed, Checkpointing::None);
    let (again, parts) = backward(model, batch, seed, Checkpointing::Layer);
    assert!(
        whole
            .iter()
            .any(|gradient| gradient.iter().any(|value| *value != 0.0))
    );
    assert_eq!(whole.len(), parts.len());
    if test.is_flex() {
        assert_eq!(loss.to_bits(), again.to_bits(), "{what}");
        let bits = |gradients: &[Vec<f32>]| {
            let all = gradients.iter().flatten();
            all.map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        assert!(bits(&whole) == bits(&parts), "{what}: the gradients differ");
    } else {
        let reason = "a GPU may sum in another order when it runs again";
        let tolerance = Tolerance::of_largest(1e-6, reason);
        assert_close(what, &[again], &[loss], tolerance);
        for (index, (whole, parts)) in whole.iter().zip(&parts).enumerate() {
            let what = format!("{what} factor {index}");
            assert_close(&what, parts, whole, tolerance);
        }
    }
    loss
}

/// The loss and the gradients of all factors that have one.
fn backward(
    model: &Decoder,
    batch: &Batch,
    seed: u64,
    checkpointing: Checkpointing,
) -> (f32, Vec<Vec<f32>>) {
    let pass = BackwardPass {
        scale: 1.0 / batch.target_tokens as f64,
        seed,
        noise: 0.0,
        checkpointing,
    };
    let found = model.loss_and_gradients(&batch.tensors, &pass);
    let gradients = found
        .gradients
        .into_iter()
        .map(|gradient| values(gradient.unwrap()))
        .collect();
    (found.loss.into_scalar::<f32>(), gradients)
}
