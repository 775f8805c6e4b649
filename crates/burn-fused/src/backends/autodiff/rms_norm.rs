use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_core::backend::{TensorMetadata, tensor::FloatTensor};

use crate::config::RmsNormConfig;
use crate::ops::FusedOps;
use crate::reference::precision::cast;

#[derive(Debug)]
struct RmsNorm;

impl<B: FusedOps> Backward<B, 2> for RmsNorm {
    /// `x`, `weight`, `1 / rms`, and what the norm is like.
    type State = ([FloatTensor<B>; 3], RmsNormConfig);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let ([x, weight, inv_rms], config) = ops.state;
        let [x_node, weight_node] = ops.parents;

        if let Some(node) = weight_node {
            let dtype = weight.dtype();
            let dweight = B::rms_norm_backward_weight(x.clone(), inv_rms.clone(), grad.clone());
            grads.register::<B>(node.id, cast::<B>(dweight, dtype));
        }
        if let Some(node) = x_node {
            let dx = B::rms_norm_backward(x, weight, inv_rms, grad, config);
            grads.register::<B>(node.id, dx);
        }
    }
}

pub(super) fn rms_norm<B: FusedOps, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    config: RmsNormConfig,
) -> FloatTensor<Autodiff<B, C>> {
    let (x, x_node) = x.into_parts();
    let (weight, weight_node) = weight.into_parts();
    let nodes = [x_node, weight_node];

    match Backward::<B, 2>::prepare::<C>(RmsNorm, nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => {
            let (y, inv_rms) = B::rms_norm_forward(x.clone(), weight.clone(), config);
            prep.finish(([x, weight, inv_rms], config), y)
        }
        OpsKind::UnTracked(prep) => prep.finish(B::rms_norm(x, weight, config)),
    }
}
