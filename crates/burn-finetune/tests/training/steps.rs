//! The optimizer step.

use crate::support::{CONTEXT, Toy, VOCAB, config, rows, trainer};
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Device;
use burn_finetune::{
    Batch, Dataset, FinetuneError, OptimizerKind, Row, RunOptions, TrainConfig, Trainer,
    TrainerBuilder, evaluate,
};
use burn_qlora::{CausalLm, Checkpointing, LoraModel, freeze_base};

/// The rows in micro-batches of these sizes.
fn batches(data: &Dataset, sizes: &[usize], device: &Device) -> Vec<Batch> {
    let mut rest = data.rows().map(Result::unwrap);
    sizes
        .iter()
        .map(|size| Batch::collate(&rest.by_ref().take(*size).collect::<Vec<Row>>(), device))
        .collect()
}

fn largest_difference(one: &[Vec<f32>], other: &[Vec<f32>]) -> f32 {
    one.iter()
        .flatten()
        .zip(other.iter().flatten())
        .map(|(one, other)| (one - other).abs())
        .fold(0.0, f32::max)
}

pub fn unequal_micro_batches_equal_one_batch(device: &Device) {
    let data = rows(7);
    let run = |sizes: &[usize]| {
        let mut trainer = trainer(device, 0.0, 6);
        let reports: Vec<_> = (0..6)
            .map(|_| trainer.step(&batches(&data, sizes, device)).unwrap())
            .collect();
        (reports, trainer.into_model().factors())
    };
    let (whole, expected) = run(&[7]);
    for sizes in [&[1, 4, 2][..], &[6, 1]] {
        let (reports, factors) = run(sizes);
        for (got, expected) in reports.iter().zip(&whole) {
            assert!((got.loss / expected.loss - 1.0).abs() < 1e-5);
            assert!((got.grad_norm / expected.grad_norm - 1.0).abs() < 1e-4);
            assert_eq!((got.tokens, got.lr), (expected.tokens, expected.lr));
        }
        // Adam divides by the root of a mean square, so a rounding error in a gradient near 0 is not
        // small in the update: a thousandth of the largest update (the rate) is allowed each step.
        assert!(largest_difference(&factors, &expected) < 6.0 * 2e-5);
    }
}

pub fn the_norm_is_global_and_clipping_scales_everything_at_once(device: &Device) {
    let data = rows(4);
    let batch = || batches(&data, &[4], device);
    let model = freeze_base(Toy::new(device, 0.0).train());
    let whole = batch().remove(0);
    let loss = model.loss_sum(&whole.tensors) / whole.target_tokens as f32;
    let grads = GradientsParams::from_grads(loss.backward(), &model);
    let norm = model
        .lora_linears()
        .into_iter()
        .flat_map(|(_, linear)| {
            let lora = &linear.adapter.as_ref().unwrap().lora;
            [lora.a.id, lora.b.id]
        })
        .map(|id| {
            grads
                .get::<2>(id)
                .unwrap()
                .square()
                .sum()
                .into_scalar::<f64>()
        })
        .sum::<f64>()
        .sqrt();

    // What is reported is the norm before clipping, whatever the limit.
    for max_grad_norm in [0.0, norm / 3.0, norm * 2.0] {
        let config = TrainConfig {
            max_grad_norm,
            ..config(1)
        };
        let mut trainer = Trainer::new(Toy::new(device, 0.0), config).unwrap();
        let report = trainer.step(&batch()).unwrap();
        assert!((report.grad_norm / norm - 1.0).abs() < 1e-5, "{report:?}");
    }
}

pub fn a_rate_of_zero_moves_the_moments_only(device: &Device) {
    let data = rows(3);
    let mut trainer = trainer(device, 0.0, 3);
    let before = trainer.model().factors();
    let report = trainer.step(&batches(&data, &[3], device)).unwrap();
    assert_eq!((report.step, report.lr), (1, 0.0));
    assert_eq!(trainer.model().factors(), before);
    let report = trainer.step(&batches(&data, &[3], device)).unwrap();
    assert_eq!((report.step, report.lr), (2, 1e-2));
    assert_ne!(trainer.model().factors(), before);
}

/// The first step of each of burn-optim's optimizers, by what its paper says of an update; B is zero before it, and only B has
/// a gradient then.
pub fn other_optimizers_take_their_own_steps(device: &Device) {
    let rate = 1e-2;
    let step = |optimizer| {
        let config = TrainConfig {
            optimizer,
            lr: rate,
            warmup_steps: 0,
            weight_decay: 0.0,
            ..config(1)
        };
        let mut trainer = Trainer::new(Toy::new(device, 0.0), config).unwrap();
        let before = trainer.model().factors();
        let report = trainer.step(&batches(&rows(3), &[3], device)).unwrap();
        (before, trainer.into_model().factors(), report)
    };
    let largest = |values: &[f32]| {
        values
            .iter()
            .fold(0f32, |most, value| most.max(value.abs()))
    };
    let norm = |values: &[f32]| {
        values
            .iter()
            .map(|v| f64::from(*v).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    // A of [32, 4], B of [4, 32] and [4, 17], twice.
    let elements = [128.0, 128.0, 128.0, 68.0];

    let (_, after, report) = step(OptimizerKind::Lion);
    for b in [&after[1], &after[3]] {
        let signs = b
            .iter()
            .filter(|value| (value.abs() - rate as f32).abs() < 1e-7)
            .count();
        assert!(signs * 10 > b.len() * 9, "{signs} of {}", b.len());
        assert!(largest(b) < 1.001e-2);
    }
    let sum: f64 = elements.iter().sum();
    assert_eq!(report.optimizer_state_bytes as f64, 4.0 * sum);
    assert_eq!(
        report.optimizer_resident_bytes,
        report.optimizer_state_bytes
    );

    let (before, after, _) = step(OptimizerKind::Muon);
    assert_eq!(before[0], after[0]);
    for b in [&after[1], &after[3]] {
        // Singular values between 0.6 and 1.21, four of them at most, wider than tall.
        let norm = norm(b) / rate;
        assert!((0.6..=1.21 * 2.0).contains(&norm), "{norm}");
        assert!(largest(b) <= 1.21e-2);
    }

    let (_, after, report) = step(OptimizerKind::Adafactor);
    for b in [&after[1], &after[3]] {
        let mean = norm(b) / (b.len() as f64).sqrt();
        assert!(mean <= 1.001 * rate && mean > 0.3 * rate, "{mean}");
    }
    // Rows and columns of four factors.
    assert_eq!(report.optimizer_state_bytes, 4 * (36 + 36 + 36 + 21));
}

pub fn noise_is_refused_where_a_model_has_none(device: &Device) {
    let config = TrainConfig {
        neftune_alpha: 5.0,
        ..config(1)
    };
    let error = TrainerBuilder::new(Toy::new(device, 0.0), config)
        .err()
        .expect("refused");
    assert!(error.to_string().contains("NEFTune alpha"), "{error}");
}

pub fn a_loss_that_is_no_number_stops_the_run_before_the_update(device: &Device) {
    let mut toy = Toy::new(device, 0.0);
    for (_, linear) in toy.lora_linears_mut() {
        let branch = linear.adapter.as_mut().unwrap();
        branch.lora.b = branch.lora.b.clone().map(|b| b.full_like(f32::INFINITY));
    }
    let mut trainer = Trainer::new(toy, config(2)).unwrap();
    let before = trainer.model().factors();
    let error = trainer.step(&batches(&rows(3), &[3], device)).unwrap_err();
    assert!(
        matches!(
            error,
            FinetuneError::NotFinite {
                step: 1,
                what: "loss",
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(trainer.model().factors(), before);
    assert_eq!(trainer.steps_done(), 0);
}

pub fn layer_checkpointing_is_refused_where_a_model_has_none(device: &Device) {
    let with = |checkpointing| {
        TrainerBuilder::new(Toy::new(device, 0.0), config(1))
            .and_then(|builder| builder.with_checkpointing(checkpointing))
    };
    assert!(with(Checkpointing::None).is_ok());
    let error = with(Checkpointing::Layer).err().unwrap();
    assert!(
        matches!(&error, FinetuneError::InvalidConfig { field: "checkpointing", value, .. } if value == "layer"),
        "{error}"
    );
}

pub fn packed_rows_are_refused_where_a_model_cannot_keep_examples_apart(device: &Device) {
    let packed = rows(7).packed(crate::support::CONTEXT).unwrap();
    assert!(packed.examples() > packed.len());
    let error = trainer(device, 0.0, 1)
        .run(&packed, &RunOptions::default(), &mut |_| {})
        .unwrap_err();
    assert!(
        matches!(
            &error,
            FinetuneError::InvalidConfig {
                field: "packing",
                ..
            }
        ),
        "{error}"
    );
}

pub fn evaluation_is_the_mean_over_all_tokens(device: &Device) {
    let model = Toy::new(device, 0.5);
    let data = rows(7);
    let one = evaluate(&model, &data, 7).unwrap();
    let many = evaluate(&model, &data, 2).unwrap();
    assert_eq!(
        one.tokens,
        data.rows().map(|row| row.unwrap().targets()).sum::<usize>()
    );
    assert_eq!(one.tokens, many.tokens);
    assert!((one.nll / many.nll - 1.0).abs() < 1e-5);
    assert!((one.perplexity - one.nll.exp()).abs() < 1e-9);
    // A fresh model knows nothing of the rows.
    assert!(one.perplexity > VOCAB as f64 / 2.0, "{one:?}");
}

pub fn training_lowers_the_loss_and_the_same_seed_gives_the_same_bits(device: &Device) {
    let data = rows(20);
    let run = || {
        let mut trainer = trainer(device, 0.1, 40);
        let mut losses = Vec::new();
        trainer
            .run(&data, &RunOptions::default(), &mut |event| {
                if let burn_finetune::Event::Step(report) = event {
                    losses.push(report.loss);
                }
            })
            .unwrap();
        (losses, trainer.into_model().valid().factors())
    };
    let (losses, factors) = run();
    assert_eq!(losses.len(), 40);
    assert!(losses[39] < losses[0] / 2.0, "{losses:?}");
    assert_eq!(run(), (losses, factors));
}

pub fn rows_longer_than_the_context_are_refused(device: &Device) {
    let data = Dataset::from_rows(vec![Row::all(vec![0; CONTEXT + 1])]);
    let error = trainer(device, 0.0, 1)
        .run(&data, &RunOptions::default(), &mut |_| ())
        .unwrap_err();
    assert!(matches!(error, FinetuneError::RowLength { value, .. } if value == CONTEXT + 1));
}
