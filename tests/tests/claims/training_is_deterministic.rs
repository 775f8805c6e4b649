//! On Flex the same seed gives the same bits, stopped or not; and a step does not depend on how its rows are
//! divided.

use burn::tensor::Device;
use burn_finetune::{RunDir, Trainer};
use burn_qlora::LoraConfig;
use burn_qlora_llama::Decoder;
use serde_json::Map;

use qlora_test_support::{Tolerance, assert_close};
use qlora_tests::{CurveBatches, adapter_bits, curve_trainer};

const STEPS: usize = 20;
const STOP: usize = 10;

#[test]
fn twice_the_same_and_across_a_stop() {
    let whole = trained(0..STEPS, curve_trainer(&Device::flex()));
    let again = trained(0..STEPS, curve_trainer(&Device::flex()));
    assert_eq!(whole.losses, again.losses);
    assert_eq!(whole.bits, again.bits);

    let folder = tempfile::tempdir().unwrap();
    let run = RunDir::create(folder.path(), &Map::new(), LoraConfig::new(8, 16.0), "tiny").unwrap();
    let first = trained(0..STOP, curve_trainer(&Device::flex()));
    run.save(&first.trainer).unwrap();
    let mut resumed = curve_trainer(&Device::flex());
    assert_eq!(run.restore(&mut resumed).unwrap(), STOP);
    let second = trained(STOP..STEPS, resumed);
    assert_eq!(whole.losses, [first.losses, second.losses].concat());
    assert_eq!(whole.bits, second.bits);
}

/// The rows of the recorded batches have targets of unequal number, so a mean of means would differ in the
/// third digit.
#[test]
fn micro_batches_equal_the_batch() {
    let device = Device::flex().autodiff();
    let batches = CurveBatches::open();
    for rows in [1, 3] {
        let mut whole = curve_trainer(&Device::flex());
        let mut parts = curve_trainer(&Device::flex());
        for step in 0..5 {
            let one = whole
                .step(&batches.of(step, batches.rows(), &device))
                .unwrap();
            let many = parts.step(&batches.of(step, rows, &device)).unwrap();
            // The order of the sums differs, so the last bits may.
            let close = |got: f64, expected: f64| (got - expected).abs() <= 2e-6 * expected;
            assert!(
                close(many.loss, one.loss),
                "loss {} and {}",
                many.loss,
                one.loss
            );
            assert!(
                close(many.grad_norm, one.grad_norm),
                "norm {} and {}",
                many.grad_norm,
                one.grad_norm
            );
        }
        let values = |trainer: &Trainer<Decoder>| {
            adapter_bits(trainer.model())
                .into_iter()
                .map(f32::from_bits)
                .collect::<Vec<_>>()
        };
        let tolerance = Tolerance::absolute(1e-5, "the order of the sums differs, in five steps");
        assert_close("adapter", &values(&parts), &values(&whole), tolerance);
    }
}

struct Trained {
    trainer: Trainer<Decoder>,
    losses: Vec<u64>,
    bits: Vec<u32>,
}

fn trained(steps: std::ops::Range<usize>, mut trainer: Trainer<Decoder>) -> Trained {
    let device = Device::flex().autodiff();
    let batches = CurveBatches::open();
    let losses = steps
        .map(|step| {
            let report = trainer
                .step(&batches.of(step, batches.rows(), &device))
                .unwrap();
            report.loss.to_bits()
        })
        .collect();
    let bits = adapter_bits(trainer.model());
    Trained {
        trainer,
        losses,
        bits,
    }
}
