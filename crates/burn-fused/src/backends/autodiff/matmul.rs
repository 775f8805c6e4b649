use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_core::backend::tensor::FloatTensor;

use super::tracked::is_tracked;
use crate::ops::FusedOps;

#[derive(Debug)]
struct Matmul;

impl<B: FusedOps> Backward<B, 2> for Matmul {
    /// The operands, each if the other is tracked.
    type State = [Option<FloatTensor<B>>; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [lhs, rhs] = ops.state;
        let [lhs_node, rhs_node] = ops.parents;

        if let (Some(node), Some(rhs)) = (lhs_node, rhs) {
            let dlhs = B::matmul(grad.clone(), B::float_transpose(rhs));
            grads.register::<B>(node.id, dlhs);
        }
        if let (Some(node), Some(lhs)) = (rhs_node, lhs) {
            let drhs = B::matmul(B::float_transpose(lhs), grad);
            grads.register::<B>(node.id, drhs);
        }
    }
}

pub(super) fn matmul<B: FusedOps, C: CheckpointStrategy>(
    lhs: FloatTensor<Autodiff<B, C>>,
    rhs: FloatTensor<Autodiff<B, C>>,
) -> FloatTensor<Autodiff<B, C>> {
    let [lhs_tracked, rhs_tracked] = [&lhs, &rhs].map(is_tracked::<B, C>);
    let (lhs, lhs_node) = lhs.into_parts();
    let (rhs, rhs_node) = rhs.into_parts();
    let nodes = [lhs_node, rhs_node];

    match Backward::<B, 2>::prepare::<C>(Matmul, nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => {
            let kept = [
                rhs_tracked.then(|| lhs.clone()),
                lhs_tracked.then(|| rhs.clone()),
            ];
            prep.finish(kept, B::matmul(lhs, rhs))
        }
        OpsKind::UnTracked(prep) => prep.finish(B::matmul(lhs, rhs)),
    }
}
