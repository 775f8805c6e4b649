use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_core::backend::tensor::FloatTensor;

use crate::config::AttentionConfig;
use crate::operands::AttentionMask;
use crate::ops::FusedOps;

#[derive(Debug)]
struct CausalAttention;

impl<B: FusedOps> Backward<B, 3> for CausalAttention {
    /// `q`, `k`, `v`, the output and the log-sum-exp of the rows, the mask, and the scores' settings.
    type State = ([FloatTensor<B>; 5], AttentionMask<B>, AttentionConfig);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let ([q, k, v, out, lse], mask, config) = ops.state;

        // The three share the probabilities, which are most of the work.
        let (dq, dk, dv) = B::causal_attention_backward(q, k, v, mask, out, lse, grad, config);
        for (node, grad) in ops.parents.into_iter().zip([dq, dk, dv]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

pub(super) fn causal_attention<B: FusedOps, C: CheckpointStrategy>(
    q: FloatTensor<Autodiff<B, C>>,
    k: FloatTensor<Autodiff<B, C>>,
    v: FloatTensor<Autodiff<B, C>>,
    mask: AttentionMask<Autodiff<B, C>>,
    config: AttentionConfig,
) -> FloatTensor<Autodiff<B, C>> {
    let (q, q_node) = q.into_parts();
    let (k, k_node) = k.into_parts();
    let (v, v_node) = v.into_parts();
    let nodes = [q_node, k_node, v_node];
    let mask = match mask {
        AttentionMask::Causal => AttentionMask::Causal,
        AttentionMask::Packed { starts } => AttentionMask::Packed { starts },
    };

    match Backward::<B, 3>::prepare::<C>(CausalAttention, nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => {
            let (out, lse) =
                B::causal_attention_forward(q.clone(), k.clone(), v.clone(), mask.clone(), config);
            prep.finish(([q, k, v, out.clone(), lse], mask, config), out)
        }
        OpsKind::UnTracked(prep) => prep.finish(B::causal_attention(q, k, v, mask, config)),
    }
}
