use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_core::backend::tensor::FloatTensor;
use nf4::glu::Activation;

use crate::ops::FusedOps;

#[derive(Debug)]
struct Glu;

impl<B: FusedOps> Backward<B, 2> for Glu {
    /// `gate`, `up` and the activation.
    type State = ([FloatTensor<B>; 2], Activation);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let ([gate, up], activation) = ops.state;
        let [gate_node, up_node] = ops.parents;

        // One pass reads all three operands either way; a gradient nobody wants is dropped.
        let (dgate, dup) = B::glu_backward(gate, up, grad, activation);
        if let Some(node) = gate_node {
            grads.register::<B>(node.id, dgate);
        }
        if let Some(node) = up_node {
            grads.register::<B>(node.id, dup);
        }
    }
}

pub(super) fn glu<B: FusedOps, C: CheckpointStrategy>(
    gate: FloatTensor<Autodiff<B, C>>,
    up: FloatTensor<Autodiff<B, C>>,
    activation: Activation,
) -> FloatTensor<Autodiff<B, C>> {
    let (gate, gate_node) = gate.into_parts();
    let (up, up_node) = up.into_parts();
    let nodes = [gate_node, up_node];

    match Backward::<B, 2>::prepare::<C>(Glu, nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => {
            let y = B::glu(gate.clone(), up.clone(), activation);
            prep.finish(([gate, up], activation), y)
        }
        OpsKind::UnTracked(prep) => prep.finish(B::glu(gate, up, activation)),
    }
}
