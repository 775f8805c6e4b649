//! A causal language model with adapters, and the batch of tokens it is trained on.

use crate::backward::{BackwardPass, LossAndGradients};
use crate::continuations::Continuations;
use crate::model::LoraModel;
use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use burn_paged::WeightPages;

/// Rows of tokens with what should follow each token.
///
/// Rows are padded on the right with any token whose target is [`IGNORED`](Self::IGNORED): causal attention keeps
/// real tokens from seeing the padding, so there is no mask for it.
#[derive(Debug, Clone)]
pub struct TokenBatch {
    /// Token ids, `[batch, seq]`.
    pub input_ids: Tensor<2, Int>,
    /// The place in its row at which each token's sequence begins, `[batch, seq]`, where a row holds several
    /// sequences: a token sees nothing before it and has its position from there. Padding is a sequence of one token
    /// each. `None` where every row is one sequence.
    pub starts: Option<Tensor<2, Int>>,
    /// The token that should follow each place, or [`IGNORED`](Self::IGNORED): `[batch, seq]`.
    pub targets: Tensor<2, Int>,
}

impl TokenBatch {
    /// The target of a place that is not learnt: padding, or text that somebody else wrote.
    pub const IGNORED: i64 = burn_fused::IGNORED;
}

/// A causal language model with adapters.
pub trait CausalLm: Module + LoraModel {
    /// Whether [`loss_and_gradients`](Self::loss_and_gradients) supports
    /// [`Checkpointing::Layer`](crate::Checkpointing::Layer).
    const LAYER_CHECKPOINTING: bool = false;

    /// Whether the model keeps the sequences of a row apart where [`TokenBatch::starts`] says that there are several.
    const PACKING: bool = false;

    /// Whether [`loss_and_gradients`](Self::loss_and_gradients) adds the [noise](BackwardPass::noise) of a pass.
    const NOISE: bool = false;

    /// Returns the sum of the negative log-likelihoods of the batch's targets, in nats: `[1]`, f32.
    ///
    /// A model that never forms the logits (`burn_fused::linear_cross_entropy`) sums here as it goes.
    fn loss_sum(&self, batch: &TokenBatch) -> Tensor<1>;

    /// Returns the loss of `batch` times the pass's scale, and the gradients of the adapters, which alone are
    /// trainable.
    ///
    /// The same pass over the same rows gives the same values, on Flex the same bits, whatever its
    /// checkpointing is. The default builds one graph over the whole model, which is what
    /// `Checkpointing::None` stands for; a model that supports more says so in
    /// [`LAYER_CHECKPOINTING`](Self::LAYER_CHECKPOINTING).
    fn loss_and_gradients(&self, batch: &TokenBatch, pass: &BackwardPass) -> LossAndGradients {
        self.device().seed(pass.seed);
        let loss = self.loss_sum(batch);
        LossAndGradients::of(self, loss, pass.scale)
    }

    /// Returns the negative log-likelihood of each of the batch's targets, in nats and 0 where there is none: `[batch, seq]`,
    /// f32; `None` by a model that does not tell them apart, which cannot learn preferences.
    ///
    /// `burn_fused::token_cross_entropy` gives them without forming the logits.
    fn token_losses(&self, batch: &TokenBatch) -> Option<Tensor<2>> {
        let _ = batch;
        None
    }

    /// Returns the negative log-likelihoods of the tokens of every continuation of `asked` in turn, in nats, with zeros around them:
    /// `[continuations, tokens]`, f32; `None` by a model that does not tell the losses of tokens apart.
    ///
    /// The default runs every continuation with all of its text; a model with a cache runs the text once.
    fn continuation_losses(&self, asked: &[Continuations]) -> Option<Tensor<2>> {
        self.token_losses(&TokenBatch::of_continuations(asked, &self.device()))
    }

    /// Returns a weighted sum of [`token_losses`](Self::token_losses) and the gradients that it gives the adapters, both times
    /// the pass's scale; `None` where these are. `weigh` is given the losses, without an autodiff association, and
    /// gives the weights, which are constants: the derivatives of any function of the losses by each of them.
    ///
    /// As [`loss_and_gradients`](Self::loss_and_gradients) with respect to checkpointing and dropout.
    ///
    /// # Errors
    /// Those of `weigh`.
    fn weighted_gradients<E>(
        &self,
        batch: &TokenBatch,
        pass: &BackwardPass,
        weigh: impl FnOnce(Tensor<2>) -> Result<Tensor<2>, E>,
    ) -> Result<Option<LossAndGradients>, E> {
        self.device().seed(pass.seed);
        let Some(losses) = self.token_losses(batch) else {
            return Ok(None);
        };
        let weights = weigh(losses.clone().inner())?;
        let sum = (losses * Tensor::from_inner(weights)).sum();
        Ok(Some(LossAndGradients::of(self, sum, pass.scale)))
    }

    /// Returns the pages that weights of the model are in, if they are in any. Whoever reads a loss asks them whether it is of use
    /// ([`WeightPages::check`]): a product has no way to say that its weight could not be read.
    fn weight_pages(&self) -> Option<&WeightPages> {
        None
    }

    /// Returns whether rows of several lengths cost the least one behind the other in a single row, each a sequence of
    /// [`TokenBatch::starts`], where there is no padding. Only a model with [`PACKING`](Self::PACKING) may say so, whose attention
    /// passes over what a token does not see. The single row may be longer than [`context_len`](Self::context_len); its sequences are
    /// not.
    fn prefers_packed_rows(&self) -> bool {
        false
    }

    /// Returns the device that the model's inputs have to be on.
    fn device(&self) -> Device;

    /// Returns the length in tokens of the longest row that the model takes.
    fn context_len(&self) -> usize;
}
