//! Weights in pages give the losses, the adapters and the tokens that weights on the device give, the same bits on Flex, and a
//! step brings in the bytes that the formula says.

use std::ops::ControlFlow;

use burn_finetune::{StepReport, TrainerBuilder};
use burn_paged::{Budget, WeightPages};
use burn_qlora::{Checkpointing, LoraModel};
use burn_qlora_llama::{ComputeDtype, Decoder, SamplingConfig};
use qlora_test_support::{Tolerance, assert_close, values};
use qlora_tests::{Curve, devices};

const STEPS: usize = 3;

/// What training and asking gave.
struct Course {
    losses: Vec<f64>,
    /// Bytes of weights that each step brought in.
    moved: Vec<Option<u64>>,
    /// All factors in a row.
    factors: Vec<f32>,
    tokens: Vec<u32>,
}

fn course(curve: &Curve, builder: TrainerBuilder<Decoder>) -> Course {
    let builder = builder.with_checkpointing(Checkpointing::Layer).unwrap();
    let mut trainer = builder.build().unwrap();
    let device = trainer.model().device();
    let reports: Vec<StepReport> = (0..STEPS)
        .map(|step| {
            let batch = curve.batches().whole(step, &device);
            trainer.step(&[batch]).unwrap()
        })
        .collect();
    let model = trainer.into_model();
    let factors = model.lora_linears().into_iter().flat_map(|(_, linear)| {
        let lora = &linear.adapter.as_ref().unwrap().lora;
        [&lora.a, &lora.b].map(|factor| values(factor.val()))
    });
    let config = SamplingConfig::new()
        .with_max_tokens(8)
        .with_stop_tokens(Some(vec![]));
    let go_on = |_| ControlFlow::Continue(());
    let found = model.generate(&[3, 1, 4, 1, 5], &config, 0, go_on).unwrap();
    Course {
        losses: reports.iter().map(|report| report.loss).collect(),
        moved: reports
            .iter()
            .map(|report| report.weight_bytes_moved)
            .collect(),
        factors: factors.flatten().collect(),
        tokens: found.tokens,
    }
}

#[test]
fn at_any_budget() {
    let curve = Curve::llama();
    let folder = tempfile::tempdir().unwrap();
    for test in devices() {
        let expected = course(&curve, curve.builder(ComputeDtype::F32, &test.device));
        assert_eq!(expected.moved, [None; STEPS]);
        for (budget, on_disk) in [("100%", true), ("50%", false), ("10%", true), ("0", true)] {
            let budget: Budget = budget.parse().unwrap();
            let what = format!("{budget} on {}, on disk: {on_disk}", test.name);
            let pages = if on_disk {
                WeightPages::on_disk(&folder.path().join("weights"), budget)
            } else {
                WeightPages::in_memory(budget)
            };
            let pages = pages.unwrap();
            let found = course(&curve, curve.paged_builder(pages.clone(), &test.device));

            // Forward, and once more block by block on the way back.
            let report = pages.take_report();
            let streamed = report.weight_bytes - report.resident_bytes;
            assert!(
                report.resident_bytes <= budget.most(report.weight_bytes),
                "{what}"
            );
            assert_eq!(found.moved, [Some(2 * streamed); STEPS], "{what}");
            // Every token that was written takes all of them.
            assert_eq!(
                report.bytes_in,
                found.tokens.len() as u64 * streamed,
                "{what}"
            );
            assert_eq!(found.tokens, expected.tokens, "{what}");
            if test.is_flex() {
                assert_eq!(found.losses, expected.losses, "{what}");
                assert!(found.factors == expected.factors, "{what}");
            } else {
                let reason = "a GPU may sum in another order when it runs again";
                let tolerance = Tolerance::of_largest(1e-5, reason);
                assert_close(&what, &found.factors, &expected.factors, tolerance);
            }
        }
    }
}
