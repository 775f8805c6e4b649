//! Training with 8-bit optimizer state follows the curve that was recorded with f32 state.

use burn_finetune::{OptimizerKind, TrainConfig, TrainerBuilder};
use burn_paged::Budget;
use burn_qlora_llama::ComputeDtype;
use qlora_tests::{Curve, devices};

/// All moments in 8 bits, those of factors too small to be worth it included, and none of them resident.
#[test]
fn every_loss_is_within_a_hundredth() {
    let curve = Curve::llama();
    let recorded = curve.recorded();
    let batches = curve.batches();
    for test in devices() {
        let autodiff = test.device.clone().autodiff();
        let model = curve.model(ComputeDtype::F32, &autodiff);
        let config = TrainConfig {
            optimizer: OptimizerKind::AdamW8bit,
            ..curve.config()
        };
        let optimizer = config
            .adamw()
            .with_min_8bit_elements(0)
            .with_budget(Budget::Bytes(0));
        let mut trainer = TrainerBuilder::new(model, config)
            .and_then(|builder| builder.with_optimizer(optimizer).build())
            .unwrap();
        let mut worst = 0f64;
        for step in 0..trainer.config().steps {
            let batch = batches.whole(step, &autodiff);
            let report = trainer.step(&[batch]).unwrap();
            let recorded = recorded["per_step"]["loss"][step].as_f64().unwrap();
            let error = (report.loss / recorded - 1.0).abs();
            assert!(
                error <= 0.01,
                "{} step {step}: loss {} is not {recorded}",
                test.name,
                report.loss
            );
            assert_eq!(report.optimizer_resident_bytes, 0);
            worst = worst.max(error);
        }
        // It is the coded moments that were tried.
        assert!(worst > 1e-4, "{}: {worst:e}", test.name);
    }
}
