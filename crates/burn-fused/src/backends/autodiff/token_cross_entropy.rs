use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_core::{
    backend::{
        TensorMetadata,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::Shape,
};

use super::tracked::is_tracked;
use crate::config::LogitsConfig;
use crate::ops::FusedOps;
use crate::reference::precision::cast;

#[derive(Debug)]
struct TokenCrossEntropy;

/// Hidden states, weight and targets.
type Operands<B> = (FloatTensor<B>, FloatTensor<B>, IntTensor<B>);

impl<B: FusedOps> Backward<B, 2> for TokenCrossEntropy {
    /// The gradient of `hidden` for gradients of one of every loss, if that is tracked; and the operands, if `weight` is: the
    /// sum over tokens that its gradient is has to know theirs.
    type State = (Option<FloatTensor<B>>, Option<Operands<B>>, LogitsConfig);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [hidden_node, weight_node] = ops.parents;
        let (unit, operands, config) = ops.state;
        if let (Some(node), Some((hidden, weight, targets))) = (weight_node, operands) {
            let dweight =
                B::token_cross_entropy_grad_weight(hidden, weight, targets, grad.clone(), config);
            grads.register::<B>(node.id, dweight);
        }
        if let (Some(node), Some(unit)) = (hidden_node, unit) {
            let rows = Shape::new([unit.shape()[0], 1]);
            let grad = cast::<B>(B::float_reshape(grad, rows), unit.dtype());
            grads.register::<B>(node.id, B::float_mul(unit, grad));
        }
    }
}

pub(super) fn token_cross_entropy<B: FusedOps, C: CheckpointStrategy>(
    hidden: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    targets: IntTensor<B>,
    config: LogitsConfig,
) -> FloatTensor<Autodiff<B, C>> {
    let weight_tracked = is_tracked::<B, C>(&weight);
    let (hidden, hidden_node) = hidden.into_parts();
    let (weight, weight_node) = weight.into_parts();
    let nodes = [hidden_node, weight_node];

    match Backward::<B, 2>::prepare::<C>(TokenCrossEntropy, nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => {
            let operands =
                weight_tracked.then(|| (hidden.clone(), weight.clone(), targets.clone()));
            let (losses, dhidden) =
                B::token_cross_entropy_grad_hidden(hidden, weight, targets, config);
            prep.finish((Some(dhidden), operands, config), losses)
        }
        OpsKind::UnTracked(prep) => {
            prep.finish(B::token_cross_entropy(hidden, weight, targets, config))
        }
    }
}
