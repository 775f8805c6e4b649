//! Examples that share rows, or follow each other in the only row of a batch, give the loss and the gradients of examples in
//! rows of their own.

use burn::module::Module;
use burn::tensor::Device;
use burn_finetune::{Batch, BatchLayout, Dataset, Row};
use burn_qlora::{BackwardPass, CausalLm, Checkpointing, freeze_base};
use burn_qlora_llama::{ComputeDtype, Decoder};
use qlora_test_support::{FAMILIES, TestDevice, Tolerance, assert_close, values};
use qlora_tests::{Curve, adapted, devices};

/// The longest row.
const SEQ: usize = 24;

/// Lengths of examples, of which the longest fills a row.
const LENGTHS: &[usize] = &[5, 24, 9, 3, 11, 7, 2, 15, 6, 10];

/// Lengths of examples that are all shorter than the contexts that rotations are stretched from.
const SHORT: &[usize] = &[5, 9, 3, 11, 7, 2, 6, 10];

/// Examples of these lengths, each with a prompt that is not learnt.
fn examples(vocab: usize, lengths: &[usize]) -> Dataset {
    let example = |(index, len): (usize, &usize)| {
        let token = |place| ((index * 7919 + place * 104_729 + 3) % vocab) as u32;
        let ids = (0..*len).map(token).collect();
        let learn = (0..*len).map(|place| place > index % 3).collect();
        Row::new(ids, learn)
    };
    Dataset::from_rows(lengths.iter().enumerate().map(example).collect())
}

fn batch(data: &Dataset, device: &Device) -> Batch {
    Batch::collate(
        &data.rows().map(Result::unwrap).collect::<Vec<Row>>(),
        device,
    )
}

/// The loss and the gradients of all factors.
fn backward(model: &Decoder, batch: &Batch, checkpointing: Checkpointing) -> (f32, Vec<Vec<f32>>) {
    let pass = BackwardPass {
        scale: 1.0 / batch.target_tokens as f64,
        seed: 0,
        noise: 0.0,
        checkpointing,
    };
    let found = model.loss_and_gradients(&batch.tensors, &pass);
    let gradients = found.gradients.into_iter();
    let gradients = gradients.map(|gradient| values(gradient.unwrap()));
    (found.loss.into_scalar::<f32>(), gradients.collect())
}

#[test]
fn loss_and_gradients_are_those_of_the_examples_apart() {
    for test in devices() {
        let device = test.device.clone().autodiff();
        let model = adapted("tiny_llama_nf4", "peft_adapter", &device);
        let without_noise = if test.is_flex() {
            BatchLayout::EndToEnd
        } else {
            BatchLayout::Padded
        };
        assert_eq!(BatchLayout::of(&model, 0.0), without_noise);
        assert_eq!(BatchLayout::of(&model, 5.0), BatchLayout::Padded);
        for checkpointing in [Checkpointing::None, Checkpointing::Layer] {
            same_apart(&test, test.name, model.clone(), LENGTHS, checkpointing);
        }
    }
}

/// With windows, and with rotations that depend on the length of the longest example, not on that of the rows.
#[test]
fn with_other_families_too() {
    for test in devices() {
        let device = test.device.clone().autodiff();
        for family in FAMILIES {
            let model = Curve::of_family(family).model(ComputeDtype::F32, &device);
            let what = format!("{family} on {}", test.name);
            let mut rotations = model.config().rotations.iter();
            if rotations.any(|rotation| rotation.scaling.depends_on_length()) {
                same_apart(&test, &what, model.clone(), SHORT, Checkpointing::None);
            }
            same_apart(&test, &what, model, LENGTHS, Checkpointing::None);
        }
    }
}

fn same_apart(
    test: &TestDevice,
    what: &str,
    model: Decoder,
    lengths: &[usize],
    checkpointing: Checkpointing,
) {
    let device = test.device.clone().autodiff();
    let model = freeze_base(model.train());
    let data = examples(model.config().vocab_size, lengths);
    let apart = batch(&data, &device);
    let packed = data.packed(SEQ).unwrap();
    assert!(
        packed.len() * SEQ < apart.tokens + SEQ,
        "rows that are full"
    );
    let packed = batch(&packed, &device);
    let rows: Vec<Row> = data.rows().map(Result::unwrap).collect();
    let end_to_end = Batch::laid_out(&rows, BatchLayout::EndToEnd, &device);
    assert_eq!(end_to_end.tensors.targets.dims(), [1, apart.tokens]);
    assert!(apart.tensors.starts.is_none());

    let reason =
        "f32 sums in another order; measured at most 1e-6 of the largest of a factor on Flex";
    let part = if test.is_flex() { 1e-5 } else { 1e-4 };
    let tolerance = Tolerance::of_largest(part, reason);
    let loss_tolerance = Tolerance::of_largest(0.1 * part, reason);
    let (loss, gradients) = backward(&model, &apart, Checkpointing::None);
    for (how, batch) in [("packed", packed), ("end to end", end_to_end)] {
        let what = format!("{what} {how}");
        assert!(batch.tensors.starts.is_some(), "{what}");
        assert_eq!(
            (batch.tokens, batch.target_tokens),
            (apart.tokens, apart.target_tokens)
        );
        let (again, others) = backward(&model, &batch, checkpointing);
        assert_close(&what, &[again], &[loss], loss_tolerance);
        for (index, (other, apart)) in others.iter().zip(&gradients).enumerate() {
            let what = format!("{what} factor {index}");
            assert_close(&what, other, apart, tolerance);
        }
    }
}

/// Whatever the first example is, the second one's loss is its own.
#[test]
fn examples_of_a_row_do_not_see_each_other() {
    for test in devices() {
        let device = test.device.clone().autodiff();
        let model = freeze_base(adapted("tiny_llama_nf4", "peft_adapter", &device).train());
        let loss = |first: &[u32]| {
            let mut row = Row::new(first.to_vec(), vec![false; first.len()]);
            row.append(&Row::all(vec![5, 9, 2, 7]));
            let batch = Batch::collate(&[&row], &device);
            assert_eq!(batch.target_tokens, 3);
            model.loss_sum(&batch.tensors).into_scalar::<f32>()
        };
        assert_eq!(
            loss(&[1, 2, 3, 4]).to_bits(),
            loss(&[8, 6, 7, 5]).to_bits(),
            "{}",
            test.name
        );
    }
}
