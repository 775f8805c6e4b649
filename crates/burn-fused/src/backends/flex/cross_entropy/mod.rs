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
    tensor::{DType, Shape, bf16, f16},
};
use burn_flex::{Flex, FlexTensor};

use super::{
    buffer::{Typed, Values, cast, create},
    number::{Number, with_number},
};
use targets::Targets;

/// The loss, f32 `[1]`.
pub(super) fn loss(hidden: FlexTensor, weight: FlexTensor, targets: IntTensor<Flex>) -> FlexTensor {
    with_number!(weight.dtype(), E => Operands::<E>::new(hidden, weight, targets).pass(false).loss())
}

/// The loss and the gradient of `hidden`.
pub(super) fn loss_grad_hidden(
    hidden: FlexTensor,
    weight: FlexTensor,
    targets: IntTensor<Flex>,
) -> (FlexTensor, FlexTensor) {
    let dtype = hidden.dtype();
    with_number!(weight.dtype(), E => {
        let operands = Operands::<E>::new(hidden, weight, targets);
        let pass = operands.pass(true);
        (pass.loss(), operands.hidden_gradient(pass, dtype))
    })
}

/// The loss and the gradients of `hidden` and `weight`.
pub(super) fn loss_grads(
    hidden: FlexTensor,
    weight: FlexTensor,
    targets: IntTensor<Flex>,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let dtypes = [hidden.dtype(), weight.dtype()];
    let wide = Values::new(weight.clone());
    with_number!(weight.dtype(), E => {
        let operands = Operands::<E>::new(hidden, weight, targets);
        let pass = operands.pass(true);
        let dweight = operands.weight_gradient(&wide, &pass, dtypes[1]);
        (pass.loss(), operands.hidden_gradient(pass, dtypes[0]), dweight)
    })
}

/// The head's operands in the weight's type.
struct Operands<E> {
    hidden: Typed,
    weight: Typed,
    targets: Targets,
    /// The rows of `hidden` that count, `None` if all do.
    selected: Option<Vec<E>>,
    /// Width of a row.
    n: usize,
}

impl<E: Number> Operands<E> {
    fn new(hidden: FlexTensor, weight: FlexTensor, targets: IntTensor<Flex>) -> Self {
        let [vocab, n] = weight.shape().dims();
        let hidden = Typed::new(cast(hidden, weight.dtype()));
        let targets = Targets::new(targets, vocab);
        Self {
            selected: targets.select(hidden.slice(), n),
            hidden,
            weight: Typed::new(weight),
            targets,
            n,
        }
    }

    fn head(&self) -> Head<'_, E> {
        let weight = self.weight.slice();
        Head {
            hidden: self.selected.as_deref().unwrap_or(self.hidden.slice()),
            weight,
            classes: &self.targets.classes,
            n: self.n,
            vocab: self.weight.shape()[0],
        }
    }

    fn pass(&self, gradient: bool) -> hidden::Pass {
        hidden::pass(&self.head(), gradient)
    }

    fn hidden_gradient(&self, pass: hidden::Pass, dtype: DType) -> FlexTensor {
        let values = self.targets.spread(pass.dhidden, self.n);
        cast(create(self.hidden.shape(), values), dtype)
    }

    fn weight_gradient(&self, weight: &[f32], pass: &hidden::Pass, dtype: DType) -> FlexTensor {
        let mut scratch = Vec::new();
        let head = self.head();
        let head = Head {
            hidden: E::read(head.hidden, &mut scratch),
            weight,
            classes: head.classes,
            n: head.n,
            vocab: head.vocab,
        };
        let values = weight::gradient(&head, &pass.lse);
        cast(create(Shape::new([head.vocab, head.n]), values), dtype)
    }
}

/// The operands without the tokens whose targets are ignored.
struct Head<'a, E> {
    /// `[tokens, n]`.
    hidden: &'a [E],
    /// `[vocab, n]`.
    weight: &'a [E],
    /// `[tokens]`.
    classes: &'a [usize],
    n: usize,
    vocab: usize,
}
