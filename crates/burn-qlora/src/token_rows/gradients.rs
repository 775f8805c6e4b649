use super::TokenRows;
use burn::tensor::{DType, Int, Tensor, TensorData};
use burn_fused::LogitsConfig;

impl TokenRows {
    /// Returns `x: [batch, seq, hidden]`, the rows that a table with these rows in it has for `ids: [batch, seq]`, with the
    /// gradient that it gives these rows. The values stay.
    pub fn with_lookup_gradient(&self, x: Tensor<3>, ids: Tensor<2, Int>) -> Tensor<3> {
        if !self.is_trained() {
            return x;
        }
        let [batch, seq, width] = x.dims();
        let hits = self.hits(ids.reshape([batch * seq]));
        let rows = burn_fused::matmul(hits, self.rows.val());
        let rows = rows.cast(x.dtype()).reshape([batch, seq, width]);
        x + without_value(rows)
    }

    /// Returns `losses: [tokens]`, the negative log-likelihoods of `targets: [tokens]` that
    /// [`burn_fused::token_cross_entropy`] has of `hidden: [tokens, hidden]`, the weight `head` with these rows in it, and
    /// `logits`, with the gradients that they give these rows. The values stay.
    ///
    /// The gradient of a loss by a row is `(softmax − one-hot of the target) · hidden`, and the softmax follows from the loss:
    /// no logits are made but those of these rows, `[tokens, rows]`.
    pub fn with_loss_gradient(
        &self,
        losses: Tensor<1>,
        hidden: Tensor<2>,
        head: Tensor<2>,
        targets: Tensor<1, Int>,
        logits: LogitsConfig,
    ) -> Tensor<1> {
        if !self.is_trained() {
            return losses;
        }
        let ([tokens, _], [vocab, _]) = (hidden.dims(), head.dims());
        let hidden = hidden.detach().cast(DType::F32);
        let head = head.detach();
        let rows_of = |ids: Tensor<1, Int>| head.clone().select(0, ids).cast(DType::F32);

        let classes = targets.clone().clamp(0, vocab as i64 - 1);
        let of_targets = (hidden.clone() * rows_of(classes)).sum_dim(1);
        let log_sum_exp = losses.clone().detach().reshape([tokens, 1]) + logits.apply(of_targets);
        let frozen = rows_of(self.id_tensor(&targets.device()));
        let products = burn_fused::matmul(hidden.clone(), frozen.transpose());
        let probabilities = (logits.apply(products) - log_sum_exp).exp();
        let asked = targets.clone().greater_equal_elem(0).float();
        let asked = asked.cast(DType::F32).reshape([tokens, 1]);
        let slopes = (probabilities - self.hits(targets)) * asked;

        let products = burn_fused::matmul(hidden, self.rows.val().transpose());
        let weighed = (logits.apply(products) * slopes).sum_dim(1);
        losses + without_value(weighed.reshape([tokens]))
    }

    fn is_trained(&self) -> bool {
        self.rows.val().is_require_grad()
    }

    /// Returns which of `ids: [tokens]` is which of the tokens: 1 or 0, f32, `[tokens, rows]`.
    fn hits(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        let ([tokens], rows) = (ids.dims(), self.ids.len());
        let own = self.id_tensor(&ids.device()).reshape([1, rows]);
        let own = own.expand([tokens, rows]);
        let ids = ids.reshape([tokens, 1]).expand([tokens, rows]);
        ids.equal(own).float().cast(DType::F32)
    }

    fn id_tensor(&self, device: &burn::tensor::Device) -> Tensor<1, Int> {
        let ids: Vec<i64> = self.ids.iter().map(|id| i64::from(*id)).collect();
        let shape = [ids.len()];
        Tensor::from_data(TensorData::new(ids, shape), device)
    }
}

/// Returns zeros that hand their gradient on to `x`.
fn without_value<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.clone() - x.detach()
}
