//! The head, where the forward pass ends.

use super::{F32, Tensors, Terms};

impl Terms<'_> {
    /// Of the last hidden states, `[tokens, hidden]`: what the last block gave, its norm, their gradient, and what
    /// the loss needs to compute that, and the gradients of rows of the head or of its adapter.
    pub(super) fn head(&self) -> Tensors {
        let loss = self.loss();
        Tensors::one(self.norm().saved)
            + self.rows(self.hidden())
            + Tensors::one(loss.saved)
            + Tensors::one(loss.forward)
            + self.loss_of_rows()
            + self.input_of_adapter()
    }

    /// Of an adapted head: the hidden states as its factors take them, f32 `[tokens, hidden]`, where these are others, the mask of
    /// dropout in the compute dtype, and what A gives, `[tokens, rank]`, before and after it is scaled.
    fn input_of_adapter(&self) -> Tensors {
        let Some(rank) = self.head_rank else {
            return Tensors::default();
        };
        let inner = Tensors::one(self.tokens * rank as u128 * F32);
        let drops = self.workload.lora.dropout != 0.0;
        let input = match (drops, self.b == F32) {
            (false, true) => Tensors::default(),
            (false, false) => Tensors::one(self.tokens * self.hidden() * F32),
            (true, _) => Tensors::one(self.tokens * self.hidden() * (F32 + self.b)),
        };
        2 * inner + input
    }
}
