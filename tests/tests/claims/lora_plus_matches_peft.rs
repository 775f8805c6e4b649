//! LoRA+ takes the steps of peft's optimizer for it.

use burn_finetune::{TrainConfig, TrainerBuilder};
use burn_qlora_llama::ComputeDtype;
use qlora_test_support::json;
use qlora_tests::{Curve, devices, loss_tolerance};

/// Eight steps with a ratio of 16, weight decay and warm-up, held to what torch took with `create_loraplus_optimizer`.
#[test]
fn every_step() {
    let recorded = json("qlora_curve/lora_plus.json");
    let number = |key: &str| recorded[key].as_f64().unwrap();
    let curve = Curve::llama();
    let config = TrainConfig {
        steps: recorded["steps"].as_u64().unwrap() as usize,
        lr: number("lr"),
        lora_plus_ratio: number("ratio"),
        weight_decay: number("weight_decay"),
        ..curve.config()
    };
    // Two groups have parameters: A at the learning rate, B at that many times as much, and both decay.
    let groups = recorded["groups"].as_array().unwrap().iter();
    let groups: Vec<[f64; 2]> = groups
        .filter(|group| group["parameters"] != 0)
        .map(|group| ["lr", "weight_decay"].map(|key| group[key].as_f64().unwrap()))
        .collect();
    let decay = config.weight_decay;
    assert_eq!(
        groups,
        [
            [config.lr, decay],
            [config.lr * config.lora_plus_ratio, decay]
        ]
    );
    let batches = curve.batches();
    for test in devices() {
        let autodiff = test.device.clone().autodiff();
        let model = curve.model(ComputeDtype::F32, &autodiff);
        let builder = TrainerBuilder::new(model, config.clone()).unwrap();
        let mut trainer = builder.build().unwrap();
        for step in 0..config.steps {
            let report = trainer.step(&[batches.whole(step, &autodiff)]).unwrap();
            let of_step = |value: &str| recorded["per_step"][value][step].as_f64().unwrap();
            let error = |got: f64, expected: f64| (got / expected - 1.0).abs();
            let loss = error(report.loss, of_step("loss"));
            let norm = error(report.grad_norm, of_step("grad_norm"));
            println!(
                "{} step {step}: loss off by {loss:e}, norm by {norm:e}",
                test.name
            );
            assert!(
                loss <= loss_tolerance(&test),
                "step {step}: loss off by {loss:e}"
            );
            // As on the plain curve.
            assert!(
                norm <= 2.0 * loss_tolerance(&test),
                "step {step}: norm off by {norm:e}"
            );
        }
    }
}
