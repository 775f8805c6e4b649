//! Rows of embedding and head that are trained.

use burn::module::Param;
use burn::tensor::{Int, Tensor};
use burn_fused::LogitsConfig;
use burn_qlora::TokenRows;

use crate::model::Decoder;
use crate::tensors::{EMBEDDING, HEAD, module};

impl Decoder {
    /// Returns the rows with the paths of the modules that they are of.
    pub(crate) fn named_token_rows(&self) -> Vec<(String, &TokenRows)> {
        let rows = [(EMBEDDING, &self.embedding_rows), (HEAD, &self.head_rows)];
        let rows = rows.into_iter();
        rows.filter_map(|(name, rows)| Some((module(name).to_owned(), rows.as_ref()?)))
            .collect()
    }

    /// Puts `rows` in the place of those of the embedding or the head, and into its weight.
    pub(crate) fn set_rows_of(&mut self, path: &str, rows: Option<TokenRows>) {
        if path == module(EMBEDDING) {
            write(rows.as_ref(), &mut self.embed_tokens.weight);
            self.embedding_rows = rows;
        } else if let Some(head) = self.lm_head.as_mut().filter(|_| path == module(HEAD)) {
            write(rows.as_ref(), head);
            self.head_rows = rows;
        }
    }

    /// Changes all rows, and the weights that they are in.
    pub(crate) fn update_rows(
        &mut self,
        update: &mut dyn FnMut(Param<Tensor<2>>) -> Param<Tensor<2>>,
    ) {
        for (name, rows) in [
            (EMBEDDING, self.embedding_rows.take()),
            (HEAD, self.head_rows.take()),
        ] {
            if let Some(rows) = rows {
                self.set_rows_of(module(name), Some(rows.map(&mut *update)));
            }
        }
    }

    /// Returns `x: [batch, seq, hidden]`, the embeddings of `input_ids: [batch, seq]`, with the gradients of the rows.
    pub(crate) fn with_embedding_gradient(
        &self,
        x: Tensor<3>,
        input_ids: Tensor<2, Int>,
    ) -> Tensor<3> {
        match &self.embedding_rows {
            Some(rows) => rows.with_lookup_gradient(x, input_ids),
            None => x,
        }
    }

    /// Returns the losses of `targets: [tokens]`, which follow `hidden: [tokens, hidden]`, each with the gradients of the
    /// head's rows; `None` where no row of the head is trained.
    pub(crate) fn losses_with_rows(
        &self,
        hidden: &Tensor<2>,
        targets: &Tensor<1, Int>,
        logits: LogitsConfig,
    ) -> Option<Tensor<1>> {
        let rows = match (&self.lm_head, &self.head_rows) {
            (Some(_), rows) => rows.as_ref(),
            (None, _) => self.embedding_rows.as_ref(),
        };
        let rows = rows.filter(|rows| rows.rows.val().is_require_grad())?;
        let (head, hidden, targets) = (self.head(), hidden.clone(), targets.clone());
        let losses =
            burn_fused::token_cross_entropy(hidden.clone(), head.clone(), targets.clone(), logits);
        Some(rows.with_loss_gradient(losses, hidden, head, targets, logits))
    }

    /// Returns whether the embedding has rows that are trained, so that gradients are wanted down to it.
    pub(crate) fn trains_embedding(&self) -> bool {
        self.embedding_rows.is_some()
    }
}

/// Puts rows into the weight that they are of. While they are, nobody else holds it, so that it need not be copied.
fn write(rows: Option<&TokenRows>, weight: &mut Param<Tensor<2>>) {
    let Some(rows) = rows else { return };
    let empty = Tensor::zeros([1, 1], &weight.lazy_device());
    let table = std::mem::replace(weight, Param::initialized(weight.id, empty));
    *weight = table.map(|table| rows.put_into(table));
}
