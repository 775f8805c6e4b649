//! The head, where the forward pass ends.

use super::{Tensors, Terms};

impl Terms<'_> {
    /// Of the last hidden states, `[tokens, hidden]`: what the last block gave, its norm, their gradient, and what
    /// the loss needs to compute that, and the gradients of rows of the head.
    pub(super) fn head(&self) -> Tensors {
        let loss = self.loss();
        Tensors::one(self.norm().saved)
            + self.rows(self.hidden())
            + Tensors::one(loss.saved)
            + Tensors::one(loss.forward)
            + self.loss_of_rows()
    }
}
