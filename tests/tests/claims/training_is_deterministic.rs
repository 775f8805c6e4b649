//! On Flex the same seed gives the same bits, stopped or not; and a step does not depend on how its rows are
//! divided.

use burn::tensor::Device;
use burn_finetune::{RunDir, RunSettings, Trainer};
use burn_qlora::LoraConfig;
use burn_qlora_llama::Decoder;

use qlora_test_support::{FAMILIES, Tolerance, assert_close};
use qlora_tests::{Curve, adapter_bits, adapter_values};

#[test]
fn twice_the_same_and_across_a_stop() {
    let curve = Curve::llama();
    let whole = across_a_stop(&curve, 20, LoraConfig::new(8, 16.0));
    let again = trained(&curve, 0..20, curve.trainer(&Device::flex()));
    assert_eq!(whole.losses, again.losses);
    assert_eq!(whole.bits, again.bits);
}

#[test]
fn other_families_resume_too() {
    for family in FAMILIES {
        println!("{family}");
        across_a_stop(&Curve::of_family(family), 4, LoraConfig::new(4, 8.0));
    }
}

/// Trains for some steps, and again with a stop in the middle, to the same bits.
fn across_a_stop(curve: &Curve, steps: usize, lora: LoraConfig) -> Trained {
    let start = || curve.trainer(&Device::flex());
    let whole = trained(curve, 0..steps, start());
    let folder = tempfile::tempdir().unwrap();
    let settings = RunSettings::new(start().config().clone(), lora, "tiny");
    let run = RunDir::create(folder.path(), &settings).unwrap();
    let stop = steps / 2;
    let first = trained(curve, 0..stop, start());
    run.save(&first.trainer).unwrap();
    let mut resumed = start();
    assert_eq!(run.restore(&mut resumed).unwrap(), stop);
    let second = trained(curve, stop..steps, resumed);
    assert_eq!(whole.losses, [first.losses, second.losses].concat());
    assert_eq!(whole.bits, second.bits);
    whole
}

/// The rows of the recorded batches have targets of unequal number, so a mean of means would differ in the
/// third digit.
#[test]
fn micro_batches_equal_the_batch() {
    let device = Device::flex().autodiff();
    let batches = Curve::llama().batches();
    for rows in [1, 3] {
        let mut whole = Curve::llama().trainer(&Device::flex());
        let mut parts = Curve::llama().trainer(&Device::flex());
        for step in 0..5 {
            let one = whole.step(&[batches.whole(step, &device)]).unwrap();
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
        let values = |trainer: &Trainer<Decoder>| adapter_values(trainer.model());
        let tolerance = Tolerance::absolute(1e-5, "the order of the sums differs, in five steps");
        assert_close("adapter", &values(&parts), &values(&whole), tolerance);
    }
}

struct Trained {
    trainer: Trainer<Decoder>,
    losses: Vec<u64>,
    bits: Vec<u32>,
}

fn trained(curve: &Curve, steps: std::ops::Range<usize>, mut trainer: Trainer<Decoder>) -> Trained {
    let device = Device::flex().autodiff();
    let batches = curve.batches();
    let losses = steps
        .map(|step| {
            let report = trainer.step(&[batches.whole(step, &device)]).unwrap();
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
