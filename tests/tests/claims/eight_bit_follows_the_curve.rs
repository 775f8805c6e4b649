//! Training with 8-bit optimizer state follows the curve that was recorded with f32 state.

use burn_finetune::{OptimizerKind, TrainConfig, TrainerBuilder};
use burn_paged::Budget;
use qlora_test_support::json;
use qlora_tests::{CurveBatches, adapted, curve_config, devices};

/// All moments in 8 bits, those of factors too small to be worth it included, and none of them resident.
#[test]
fn every_loss_is_within_a_hundredth() {
    let curve = json("qlora_curve/curve.json");
    let batches = CurveBatches::open();
    for test in devices() {
        let autodiff = test.device.clone().autodiff();
        let model = adapted("tiny_llama_nf4", "qlora_curve/init_adapter", &autodiff);
        let config = TrainConfig {
            optimizer: OptimizerKind::Adamw8bit,
            ..curve_config(&curve)
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
            let batch = batches.of(step, batches.rows(), &autodiff);
            let report = trainer.step(&batch).unwrap();
            let recorded = curve["per_step"]["loss"][step].as_f64().unwrap();
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
