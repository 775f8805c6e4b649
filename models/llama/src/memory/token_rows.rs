//! Rows of embedding and head that are trained.

use super::{F32, Tensors, Terms};
use crate::tensors::{EMBEDDING, HEAD, module};

impl Terms<'_> {
    /// Returns the number of the embedding's rows, and of the head's; both are the same ones where the head is the embedding.
    pub(super) fn token_rows(&self) -> [usize; 2] {
        let indices = &self.workload.lora.trainable_token_indices;
        let rows = |name| indices.of_layer(module(name)).map_or(0, <[u32]>::len);
        let embedding = rows(EMBEDDING);
        let head = match self.config.tie_word_embeddings {
            true => embedding,
            false => rows(HEAD),
        };
        [embedding, head]
    }

    /// Returns the elements of the parameters, `[rows, hidden]` each.
    pub(super) fn token_parameters(&self) -> impl Iterator<Item = [usize; 2]> {
        let [embedding, head] = self.token_rows();
        let head = if self.config.tie_word_embeddings {
            0
        } else {
            head
        };
        let rows = [embedding, head].into_iter().filter(|rows| *rows > 0);
        rows.map(|rows| [rows, self.config.hidden_size])
    }

    /// Which token is which of the embedding's rows, f32 `[tokens, rows]`, from the lookup to its backward pass.
    pub(super) fn kept_by_lookup(&self) -> Tensors {
        self.by_token(self.token_rows()[0])
    }

    /// Beside the loss: of the head's rows the logits, their softmax, what of it is due to the target, and their slopes, f32
    /// `[tokens, rows]`; and the hidden states with the rows of the targets and their product, f32 `[tokens, hidden]`.
    pub(super) fn loss_of_rows(&self) -> Tensors {
        match self.token_rows()[1] {
            0 => Tensors::default(),
            rows => 4 * self.by_token(rows) + 3 * self.by_token(self.config.hidden_size),
        }
    }

    /// Returns a tensor f32 `[tokens, width]`.
    fn by_token(&self, width: usize) -> Tensors {
        Tensors::one(self.tokens * width as u128 * F32)
    }
}
