use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind, unary},
};
use burn_core::backend::tensor::FloatTensor;

use crate::ops::FusedOps;

#[derive(Debug)]
struct Rope;

impl<B: FusedOps> Backward<B, 1> for Rope {
    /// `cos`, `sin` and the direction.
    type State = (FloatTensor<B>, FloatTensor<B>, bool);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (cos, sin, inverse) = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |grad| {
            B::rope(grad, cos, sin, !inverse)
        });
    }
}

pub(super) fn rope<B: FusedOps, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    cos: FloatTensor<Autodiff<B, C>>,
    sin: FloatTensor<Autodiff<B, C>>,
    inverse: bool,
) -> FloatTensor<Autodiff<B, C>> {
    let (x, node) = x.into_parts();
    let (cos, sin) = (cos.into_primitive(), sin.into_primitive());

    match Backward::<B, 1>::prepare::<C>(Rope, [node])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => {
            let y = B::rope(x, cos.clone(), sin.clone(), inverse);
            prep.finish((cos, sin, inverse), y)
        }
        OpsKind::UnTracked(prep) => prep.finish(B::rope(x, cos, sin, inverse)),
    }
}
