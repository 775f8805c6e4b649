//! What a model has to offer to be fine-tuned.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use burn_qlora::{BackwardPass, LoraModel, LossAndGradients};

use crate::Batch;

/// Marks a target that is not to be learnt: padding, or text somebody else wrote.
pub const IGNORED: i64 = -100;

/// A causal language model with adapters.
pub trait CausalLm: Module + LoraModel {
    /// Whether [`loss_and_gradients`](Self::loss_and_gradients) knows `Checkpointing::Layer`.
    const LAYER_CHECKPOINTING: bool = false;

    /// Whether the model keeps the sequences of a row apart where [`Batch::starts`] says that there are several.
    const PACKING: bool = false;

    /// The sum of the negative log-likelihoods of the batch's targets, in nats: `[1]`, f32.
    ///
    /// Rows are padded on the right, and causal attention keeps real tokens from seeing the padding, so there
    /// is no mask for that. A model that never forms the logits (`burn_fused::linear_cross_entropy`) sums
    /// here as it goes.
    fn loss_sum(&self, batch: &Batch) -> Tensor<1>;

    /// The loss of `batch` times the pass's scale, and the gradients of the adapters, which alone are
    /// trainable.
    ///
    /// The same pass over the same rows gives the same values, on Flex the same bits, whatever its
    /// checkpointing is. The default builds one graph over the whole model, which is what
    /// `Checkpointing::None` stands for; a model that can do more says so in
    /// [`LAYER_CHECKPOINTING`](Self::LAYER_CHECKPOINTING).
    fn loss_and_gradients(&self, batch: &Batch, pass: &BackwardPass) -> LossAndGradients {
        self.device().seed(pass.seed);
        let loss = self.loss_sum(batch);
        LossAndGradients::of(self, loss, pass.scale)
    }

    /// Where the model's inputs have to be.
    fn device(&self) -> Device;

    /// The longest row the model can take.
    fn context_len(&self) -> usize;
}
