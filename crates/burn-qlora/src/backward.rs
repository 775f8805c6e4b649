//! One backward pass over a model with adapters: what it is asked for and what it gives.

use crate::branch::LoraBranch;
use crate::model::LoraModel;
use burn::tensor::{Gradients, Tensor};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The part of the forward pass that is kept until the backward pass needs it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Checkpointing {
    /// Keep every value
    ///
    /// That is, every value a gradient is computed from, of all blocks at once.
    #[default]
    None,
    /// Keep the inputs of the blocks
    ///
    /// A block runs again when its gradients are due, and only its values exist then (Chen et al., arXiv 1604.06174).
    /// Costs a second forward pass.
    Layer,
}

impl fmt::Display for Checkpointing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Layer => "layer",
        })
    }
}

/// The targets and settings of a backward pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackwardPass {
    /// Factor of the loss and of the gradients.
    pub scale: f64,
    /// Seed of the dropout and of the noise. The draws are the same whatever [`checkpointing`](Self::checkpointing) is.
    pub seed: u64,
    /// How much noise is added to the embeddings, NEFTune's alpha; 0 for none. Only a model that says so in
    /// [`CausalLm::NOISE`](crate::CausalLm::NOISE) adds any.
    pub noise: f64,
    /// The part of the forward pass that is kept.
    pub checkpointing: Checkpointing,
}

/// The loss and gradients of a backward pass. Neither has an autodiff association.
#[derive(Debug)]
pub struct LossAndGradients {
    /// The scaled loss, `[1]`, f32.
    pub loss: Tensor<1>,
    /// The gradients of A and B of every adapter, in the order of the model's layers, then of its head, then of the rows of tokens.
    pub gradients: Vec<Option<Tensor<2>>>,
}

impl LossAndGradients {
    /// Takes the gradients of adapters and rows of tokens of `loss`, the end of one graph over all of `model`, and scales both.
    pub fn of<M: LoraModel>(model: &M, loss: Tensor<1>, scale: f64) -> Self {
        let mut tape = loss.backward();
        let adapters = model.lora_adapters().into_iter();
        let mut gradients = adapter_gradients(adapters.map(|(_, branch)| branch), &mut tape);
        gradients.extend(token_row_gradients(model, &mut tape));
        Self::scaled(loss, gradients, scale)
    }

    /// Returns `loss` and its `gradients`, times `scale`.
    ///
    /// Scaled here, the gradients that pass through the model are those of a sum over tokens, none of them
    /// small for being one of many: in f16 those of a mean would vanish.
    pub fn scaled(loss: Tensor<1>, gradients: Vec<Option<Tensor<2>>>, scale: f64) -> Self {
        let scaled = |gradient: Tensor<2>| gradient.mul_scalar(scale);
        Self {
            loss: loss.inner().mul_scalar(scale),
            gradients: gradients.into_iter().map(|g| g.map(scaled)).collect(),
        }
    }
}

/// Takes the gradients of A and B of every one of `adapters`, in order, out of `tape`.
pub fn adapter_gradients<'a>(
    adapters: impl IntoIterator<Item = &'a LoraBranch>,
    tape: &mut Gradients,
) -> Vec<Option<Tensor<2>>> {
    adapters
        .into_iter()
        .flat_map(|branch| [&branch.lora.a, &branch.lora.b])
        .map(|factor| factor.val().grad_remove(tape))
        .collect()
}

/// Takes the gradients of the rows of tokens of `model`, in order, out of `tape`.
pub fn token_row_gradients<M: LoraModel>(
    model: &M,
    tape: &mut Gradients,
) -> Vec<Option<Tensor<2>>> {
    let rows = model.token_rows().into_iter();
    rows.map(|(_, rows)| rows.rows.val().grad_remove(tape))
        .collect()
}

/// Returns the largest magnitude of NEFTune's noise on embeddings of `width` in rows of `seq` tokens: `alpha / √(seq · width)`
/// (Jain et al., arXiv 2310.05914; transformers' `neftune_post_forward_hook`).
pub fn noise_magnitude(alpha: f64, seq: usize, width: usize) -> f64 {
    alpha / (seq as f64 * width as f64).sqrt()
}

/// Derives the seed of part `index` from `seed`, that of the whole: SplitMix64, so that neighbours are unrelated.
pub fn derive_seed(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
