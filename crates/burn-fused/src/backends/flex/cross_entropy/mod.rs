//! The head's cross-entropy over tiles of tokens and vocabulary, with a running softmax: a tile of
//! logits stays in the second-level cache, the weight is read from memory once for every few
//! hundred tokens, and the gradient of `hidden` is attention's output with the weight for keys and
//! values. Bound by the products: two for a frozen head, four for a tracked one.

mod hidden;
mod targets;
mod tile;
mod weight;

use burn_core::{
    backend::{TensorMetadata, tensor::IntTensor},
    tensor::{DType, Shape},
};
use burn_flex::{Flex, FlexTensor};

use super::buffer::{Values, cast, create};
use targets::Targets;

/// The loss, f32 `[1]`.
pub(super) fn loss(hidden: FlexTensor, weight: FlexTensor, targets: IntTensor<Flex>) -> FlexTensor {
    let (hidden, weight) = (Operand::new(hidden), Operand::new(weight));
    let targets = Targets::new(targets, weight.rows);
    let selected = targets.select(&hidden.values, hidden.n);
    let head = Head::new(&hidden, selected.as_deref(), &weight, &targets);
    hidden::pass(&head, false).loss()
}

/// The loss and the gradient of `hidden`.
pub(super) fn loss_grad_hidden(
    hidden: FlexTensor,
    weight: FlexTensor,
    targets: IntTensor<Flex>,
) -> (FlexTensor, FlexTensor) {
    let (hidden, weight) = (Operand::new(hidden), Operand::new(weight));
    let targets = Targets::new(targets, weight.rows);
    let selected = targets.select(&hidden.values, hidden.n);
    let head = Head::new(&hidden, selected.as_deref(), &weight, &targets);
    let pass = hidden::pass(&head, true);
    let loss = pass.loss();
    (
        loss,
        hidden.gradient(targets.spread(pass.dhidden, hidden.n)),
    )
}

/// The loss and the gradients of `hidden` and `weight`.
pub(super) fn loss_grads(
    hidden: FlexTensor,
    weight: FlexTensor,
    targets: IntTensor<Flex>,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let (hidden, weight) = (Operand::new(hidden), Operand::new(weight));
    let targets = Targets::new(targets, weight.rows);
    let selected = targets.select(&hidden.values, hidden.n);
    let head = Head::new(&hidden, selected.as_deref(), &weight, &targets);
    let pass = hidden::pass(&head, true);
    let loss = pass.loss();
    let dweight = weight.gradient(weight::gradient(&head, &pass.lse));
    let dhidden = hidden.gradient(targets.spread(pass.dhidden, hidden.n));
    (loss, dhidden, dweight)
}

/// A matrix `[rows, n]` and what its gradient must look like.
struct Operand {
    values: Values,
    rows: usize,
    n: usize,
    dtype: DType,
}

impl Operand {
    fn new(tensor: FlexTensor) -> Self {
        let [rows, n] = tensor.shape().dims();
        Self {
            dtype: tensor.dtype(),
            values: Values::new(tensor),
            rows,
            n,
        }
    }

    fn gradient(&self, values: Vec<f32>) -> FlexTensor {
        cast(create(Shape::new([self.rows, self.n]), values), self.dtype)
    }
}

/// The operands without the tokens whose targets are ignored.
struct Head<'a> {
    /// `[tokens, n]`.
    hidden: &'a [f32],
    /// `[vocab, n]`.
    weight: &'a [f32],
    /// `[tokens]`.
    classes: &'a [usize],
    n: usize,
    vocab: usize,
}

impl<'a> Head<'a> {
    /// `selected` are the rows of `hidden` that count, `None` if all do.
    fn new(
        hidden: &'a Operand,
        selected: Option<&'a [f32]>,
        weight: &'a Operand,
        targets: &'a Targets,
    ) -> Self {
        Self {
            hidden: selected.unwrap_or(&hidden.values),
            weight: &weight.values,
            classes: &targets.classes,
            n: weight.n,
            vocab: weight.rows,
        }
    }
}
