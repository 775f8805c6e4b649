//! The classifier, and what Burn's `Learner` asks of it: a step of training and one of validation.

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{
    Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig,
    PositionalEncoding, PositionalEncodingConfig,
};
use burn::tensor::{Device, Int, Tensor};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};
use burn_qlora::LoraModel;

use crate::encoder::Block;

/// Texts of one length with their classes.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Ids of words, `[batch, seq]`.
    pub words: Tensor<2, Int>,
    /// `[batch]`.
    pub classes: Tensor<1, Int>,
}

/// A transformer encoder, the mean over the words, and a linear layer.
#[derive(Module, LoraModel, Debug)]
pub struct Classifier {
    words: Embedding,
    positions: PositionalEncoding,
    blocks: Vec<Block>,
    norm: LayerNorm,
    #[lora(skip)] // as small as it is, it stays dense, and frozen
    head: Linear,
}

impl Classifier {
    /// Returns a dense model of `blocks` blocks for a vocabulary of `words` and two classes.
    pub fn new(words: usize, width: usize, blocks: usize, device: &Device) -> Self {
        Self {
            words: EmbeddingConfig::new(words, width).init(device),
            positions: PositionalEncodingConfig::new(width)
                .with_max_sequence_size(64)
                .init(device),
            blocks: (0..blocks).map(|_| Block::new(width, 4, device)).collect(),
            norm: LayerNormConfig::new(width).init(device),
            head: LinearConfig::new(width, 2).init(device),
        }
    }

    /// Maps `words: [batch, seq]` to the logits of the classes, `[batch, 2]`.
    pub fn forward(&self, words: Tensor<2, Int>) -> Tensor<2> {
        let x = self.positions.forward(self.words.forward(words));
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        let mean = self.norm.forward(x).mean_dim(1).squeeze_dim::<2>(1);
        self.head.forward(mean)
    }

    /// Returns the mean loss of a batch, with what the metrics are made of.
    pub fn classify(&self, batch: Batch) -> ClassificationOutput {
        let output = self.forward(batch.words);
        let loss = CrossEntropyLossConfig::new().init(&output.device());
        let loss = loss.forward(output.clone(), batch.classes.clone());
        ClassificationOutput::new(loss, output, batch.classes)
    }
}

impl TrainStep for Classifier {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> TrainOutput<ClassificationOutput> {
        let item = self.classify(batch);
        // Of the adapters, once there are any: nothing else asks for a gradient.
        TrainOutput::new(self, item.loss.backward(), item)
    }
}

impl InferenceStep for Classifier {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> ClassificationOutput {
        self.classify(batch)
    }
}
