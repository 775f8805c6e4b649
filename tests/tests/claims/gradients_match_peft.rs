//! One backward pass gives the gradients that torch gives.

use burn_qlora::{BackwardPass, CausalLm, Checkpointing, LoraModel, freeze_base};
use burn_qlora_llama::ComputeDtype;
use qlora_test_support::{FAMILIES, Recording, TestDevice, Tolerance, assert_close, values};
use qlora_tests::{Curve, adapted, devices, loss_tolerance};

fn tolerance(device: &TestDevice) -> Tolerance {
    let part = if device.is_flex() { 1e-4 } else { 1e-3 };
    let reason =
        "an f64 recomputation is within 2e-6; software Vulkan gets ten times what Flex gets";
    Tolerance::of_largest(part, reason)
}

#[test]
fn with_a_fresh_adapter() {
    check(
        "qlora_curve/init_adapter",
        "qlora_curve/grads_step0.safetensors",
    );
}

#[test]
fn with_a_trained_adapter() {
    check("peft_adapter", "qlora_curve/grads_peft_adapter.safetensors");
}

/// The norms of the gradients of every factor, in the first step of a run on each of the other families.
#[test]
fn with_other_families() {
    for test in devices() {
        let device = test.device.clone().autodiff();
        for family in FAMILIES {
            let curve = Curve::of_family(family);
            let model = freeze_base(curve.model(ComputeDtype::F32, &device));
            let batch = curve.batches().whole(0, &device);
            let pass = BackwardPass {
                scale: 1.0 / batch.target_tokens as f64,
                seed: 0,
                noise: 0.0,
                checkpointing: Checkpointing::None,
            };
            let found = model.loss_and_gradients(&batch.tensors, &pass).gradients;
            let recorded = &curve.recorded()["grad_norms_step0"];
            let linears = model.lora_linears().into_iter();
            let names = linears.flat_map(|(path, _)| {
                ["A", "B"].map(|factor| format!("base_model.model.{path}.lora_{factor}.weight"))
            });
            let names: Vec<String> = names.collect();
            assert_eq!(names.len(), recorded.as_object().unwrap().len(), "{family}");
            for (name, gradient) in names.iter().zip(found) {
                let squares = values(gradient.unwrap()).into_iter().map(f64::from);
                let norm = squares.map(|value| value * value).sum::<f64>().sqrt() as f32;
                let expected = recorded[name].as_f64().unwrap();
                let what = format!("{family} on {}: {name}", test.name);
                assert_close(&what, &[norm], &[expected], tolerance(&test));
            }
        }
    }
}

fn check(adapter: &str, file: &str) {
    let recording = Recording::open(file);
    let batches = Curve::llama().batches();
    for test in devices() {
        let device = test.device.clone().autodiff();
        let mut model = freeze_base(adapted("tiny_llama_nf4", adapter, &device));
        // With the embedding trainable, its gradient tells what arrived below the first block.
        let embedding = model.embed_tokens.weight.clone().set_require_grad(true);
        model.embed_tokens.weight = embedding;
        let batch = batches.whole(0, &device);
        let loss = model
            .loss_sum(&batch.tensors)
            .mul_scalar(1.0 / batch.target_tokens as f64);
        let value = loss.clone().into_scalar::<f32>();
        assert_close(
            "loss",
            &[value],
            &recording.f32("loss"),
            Tolerance::absolute(7.0 * loss_tolerance(&test), "a loss of about 7"),
        );
        let gradients = loss.backward();

        for (path, linear) in model.lora_linears() {
            let lora = &linear.adapter.as_ref().unwrap().lora;
            for (factor, param) in [("A", &lora.a), ("B", &lora.b)] {
                let name = format!("grad.base_model.model.{path}.lora_{factor}.weight");
                // Gradients of A are not recorded where B is zero: they are zero too.
                let got = param.val().grad(&gradients).unwrap().transpose();
                let got = values(got);
                let expected = if recording.has(&name) {
                    recording.f32(&name)
                } else {
                    vec![0.0; got.len()]
                };
                assert_close(
                    &format!("{} {name}", test.name),
                    &got,
                    &expected,
                    tolerance(&test),
                );
            }
        }
        let embedding = model.embed_tokens.weight.val();
        let [vocab, hidden] = embedding.dims();
        let got = embedding.grad(&gradients).unwrap();
        let ids: Vec<i64> = batch.tensors.input_ids.into_data().iter::<i64>().collect();
        let expected = scattered(&recording.f32("grad_embedding_output"), &ids, vocab, hidden);
        assert_close(
            &format!("{} embedding", test.name),
            &values(got),
            &expected,
            tolerance(&test),
        );
    }
}

/// The gradient of the embedding that the gradient of its output, `[tokens, hidden]`, stands for.
fn scattered(output: &[f32], ids: &[i64], vocab: usize, hidden: usize) -> Vec<f32> {
    let mut sum = vec![0.0; vocab * hidden];
    for (row, id) in output.chunks(hidden).zip(ids) {
        let place = *id as usize * hidden;
        for (sum, value) in sum[place..place + hidden].iter_mut().zip(row) {
            *sum += value;
        }
    }
    sum
}
