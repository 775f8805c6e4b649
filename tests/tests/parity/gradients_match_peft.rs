//! One backward pass gives the gradients that torch gives.

use burn_qlora::{CausalLm, LoraModel, freeze_base};
use qlora_tests::device;
use qlora_tests::fixtures::Recording;

use crate::recorded::{CurveBatches, adapted, assert_close};

/// Of the tensor's largest value; an f64 recomputation is within 2e-6. Software Vulkan gets ten times that.
fn tolerance(device: &str) -> f32 {
    if device == "flex" { 1e-4 } else { 1e-3 }
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

fn check(adapter: &str, file: &str) {
    let recording = Recording::open(file);
    let batches = CurveBatches::open();
    for test in device::all() {
        let device = test.device.clone().autodiff();
        let mut model = freeze_base(adapted("tiny_llama_nf4", adapter, &device));
        // With the embedding trainable, its gradient tells what arrived below the first block.
        let embedding = model.embed_tokens.weight.clone().set_require_grad(true);
        model.embed_tokens.weight = embedding;
        let batch = batches.of(0, batches.rows(), &device).remove(0);
        let loss = model
            .loss_sum(&batch.tensors)
            .mul_scalar(1.0 / batch.target_tokens as f64);
        let value = loss.clone().into_scalar::<f32>();
        assert_close(
            "loss",
            &[value],
            &recording.floats("loss"),
            7.0 * test.loss_tolerance as f32,
        );
        let gradients = loss.backward();

        for (path, linear) in model.lora_linears() {
            let lora = &linear.adapter.as_ref().unwrap().lora;
            for (factor, param) in [("A", &lora.a), ("B", &lora.b)] {
                let name = format!("grad.base_model.model.{path}.lora_{factor}.weight");
                // Gradients of A are not recorded where B is zero: they are zero too.
                let got = param.val().grad(&gradients).unwrap().transpose();
                let got: Vec<f32> = got.into_data().try_to_vec().unwrap();
                let expected = if recording.names().contains(&name) {
                    recording.floats(&name)
                } else {
                    vec![0.0; got.len()]
                };
                compare(
                    &format!("{} {name}", test.name),
                    &got,
                    &expected,
                    tolerance(test.name),
                );
            }
        }
        let embedding = model.embed_tokens.weight.val();
        let [vocab, hidden] = embedding.dims();
        let got = embedding.grad(&gradients).unwrap();
        let ids: Vec<i64> = batch.tensors.input_ids.into_data().iter::<i64>().collect();
        let expected = scattered(
            &recording.floats("grad_embedding_output"),
            &ids,
            vocab,
            hidden,
        );
        compare(
            &format!("{} embedding", test.name),
            &got.into_data().try_to_vec::<f32>().unwrap(),
            &expected,
            tolerance(test.name),
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

fn compare(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    let largest = expected
        .iter()
        .fold(0.0f32, |largest, value| largest.max(value.abs()));
    assert_close(what, got, expected, tolerance * largest);
}
