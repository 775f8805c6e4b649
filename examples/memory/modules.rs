//! The modules of the other examples, with something to learn.

use anyhow::Result;
use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_qlora::{CausalLm, TokenBatch};

use crate::ways::{Measured, measure};
use crate::{own_llm, qlora_linear, text_classifier, vision_transformer};

/// Values in a row of each module.
pub const WIDTH: usize = 512;
const BLOCKS: usize = 4;
const ROWS: usize = 2;
const LENGTH: usize = 16;
/// Tokens that there are, and classes.
const VOCAB: usize = 26;

/// The measures of one example's module.
pub struct Example {
    pub name: &'static str,
    /// Elements of the weights that are quantized, and of those among them whose input asks for no gradient.
    pub weights: usize,
    pub untracked: usize,
    /// In the order of `Way::ALL`.
    pub ways: Vec<Measured>,
}

/// Trains each module in every way.
pub fn examples() -> Result<Vec<Example>> {
    let device = Device::flex().autodiff();
    device.seed(2);
    let ids = |below: usize| {
        let ids = Tensor::<2>::random(
            [ROWS, LENGTH],
            Distribution::Uniform(0.0, below as f64),
            &device,
        );
        ids.int()
    };
    let (words, next) = (ids(VOCAB), ids(VOCAB));
    let classes: Tensor<1, Int> = ids(2).slice([0..ROWS, 0..1]).squeeze_dim(1);
    let images = Tensor::random(
        [ROWS, vision_transformer::SIDE, vision_transformer::SIDE],
        Distribution::Normal(0.0, 1.0),
        &device,
    );
    let x = Tensor::random(
        [ROWS * LENGTH, WIDTH],
        Distribution::Normal(0.0, 1.0),
        &device,
    );
    let linear = || {
        measure(
            || qlora_linear::Net::new([WIDTH, 4 * WIDTH, WIDTH], &device),
            |net| (net.forward(x.clone()) - x.clone()).square().mean(),
        )
    };
    // Not counted: what threads keep once they have worked on dense weights.
    linear()?;
    let square = WIDTH * WIDTH;
    Ok(vec![
        Example {
            name: "qlora-linear",
            weights: 8 * square,
            untracked: 4 * square,
            ways: linear()?,
        },
        Example {
            name: "text-classifier",
            weights: 12 * BLOCKS * square,
            untracked: 3 * square,
            ways: measure(
                || text_classifier::Classifier::new(VOCAB, WIDTH, BLOCKS, &device),
                |net| {
                    let (words, classes) = (words.clone(), classes.clone());
                    net.classify(text_classifier::Batch { words, classes }).loss
                },
            )?,
        },
        Example {
            name: "vision-transformer",
            weights: 12 * BLOCKS * square + 16 * WIDTH,
            untracked: 16 * WIDTH,
            ways: measure(
                || vision_transformer::VisionTransformer::new(WIDTH, BLOCKS, &device),
                |net| net.loss(images.clone(), classes.clone()),
            )?,
        },
        Example {
            name: "own-llm",
            weights: 10 * BLOCKS * square,
            untracked: 3 * square,
            ways: measure(
                || own_llm::Decoder::new(VOCAB, WIDTH, BLOCKS, LENGTH, &device),
                |net| {
                    let batch = TokenBatch {
                        input_ids: words.clone(),
                        starts: None,
                        targets: next.clone(),
                    };
                    net.loss_sum(&batch) / (ROWS * LENGTH) as f32
                },
            )?,
        },
    ])
}
