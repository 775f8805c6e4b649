//! Rows of an embedding or a head that are trained while the others are frozen.

/// The ways by which the rows get their gradients.
mod gradients;

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use std::sync::Arc;

/// Rows of an embedding or a head `[vocab, hidden]` that are trained, those of some tokens; peft's `trainable_token_indices`.
///
/// The weight they belong to is frozen and holds a copy of them in its own dtype, at the places of their tokens
/// ([`put_into`](Self::put_into)), so that whatever multiplies or looks up reads one matrix; after an update,
/// [`LoraModel::update_token_rows`](crate::LoraModel::update_token_rows) writes the copy anew. What they add are their
/// gradients: [`with_lookup_gradient`](Self::with_lookup_gradient) and [`with_loss_gradient`](Self::with_loss_gradient).
#[derive(Module, Debug)]
pub struct TokenRows {
    /// `[tokens, hidden]`, f32, in the order of [`ids`](Self::ids).
    pub rows: Param<Tensor<2>>,
    #[module(skip)]
    ids: Arc<[u32]>,
}

impl TokenRows {
    /// Returns rows of the tokens `ids`, `rows: [tokens, hidden]`.
    ///
    /// # Panics
    /// When there is not one row for each token.
    pub fn new(ids: &[u32], rows: Tensor<2>) -> Self {
        assert_eq!(
            rows.dims()[0],
            ids.len(),
            "there should be one row for each token"
        );
        Self {
            rows: Param::from_tensor(rows.cast(DType::F32)),
            ids: ids.into(),
        }
    }

    /// Returns the tokens.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Returns the number of trainable values.
    pub fn num_params(&self) -> usize {
        self.rows.shape().num_elements()
    }

    /// Returns the same with what `update` makes of the parameter.
    pub fn map(mut self, update: impl FnOnce(Param<Tensor<2>>) -> Param<Tensor<2>>) -> Self {
        self.rows = update(self.rows);
        self
    }

    /// Returns the weight `table: [vocab, hidden]` with the rows at the places of their tokens, in its dtype. A table that
    /// nobody else holds is changed in its place.
    pub fn put_into(&self, table: Tensor<2>) -> Tensor<2> {
        let width = table.dims()[1];
        // What is detached keeps that it wants a gradient.
        let rows = self.rows.val().detach().set_require_grad(false);
        let rows = rows.cast(table.dtype());
        let mut place = 0;
        self.ids
            .chunk_by(|id, next| id.checked_add(1) == Some(*next))
            .fold(table, |table, run| {
                let (from, to) = (run[0] as usize, run[0] as usize + run.len());
                let values = rows.clone().slice([place..place + run.len(), 0..width]);
                place += run.len();
                table.slice_assign([from..to, 0..width], values)
            })
    }
}
