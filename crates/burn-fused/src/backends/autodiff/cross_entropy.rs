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
struct LinearCrossEntropy;

impl<B: FusedOps> Backward<B, 2> for LinearCrossEntropy {
    /// The gradients of `hidden` and `weight` for a gradient of one of the loss, each if tracked.
    type State = [Option<FloatTensor<B>>; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = B::float_reshape(grads.consume::<B>(&ops.node), Shape::new([1, 1]));
        for (node, unit) in ops.parents.into_iter().zip(ops.state) {
            if let (Some(node), Some(unit)) = (node, unit) {
                let grad = cast::<B>(grad.clone(), unit.dtype());
                grads.register::<B>(node.id, B::float_mul(unit, grad));
            }
        }
    }
}

pub(super) fn linear_cross_entropy<B: FusedOps, C: CheckpointStrategy>(
    hidden: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    targets: IntTensor<B>,
    config: LogitsConfig,
) -> FloatTensor<Autodiff<B, C>> {
    let weight_tracked = is_tracked::<B, C>(&weight);
    let (hidden, hidden_node) = hidden.into_parts();
    let (weight, weight_node) = weight.into_parts();
    let nodes = [hidden_node, weight_node];

    match Backward::<B, 2>::prepare::<C>(LinearCrossEntropy, nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) if weight_tracked => {
            let (loss, dhidden, dweight) =
                B::linear_cross_entropy_grads(hidden, weight, targets, config);
            prep.finish([Some(dhidden), Some(dweight)], loss)
        }
        OpsKind::Tracked(prep) => {
            let (loss, dhidden) =
                B::linear_cross_entropy_grad_hidden(hidden, weight, targets, config);
            prep.finish([Some(dhidden), None], loss)
        }
        OpsKind::UnTracked(prep) => {
            prep.finish(B::linear_cross_entropy(hidden, weight, targets, config))
        }
    }
}
