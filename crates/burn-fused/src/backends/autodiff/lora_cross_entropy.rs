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
struct LoraLinearCrossEntropy;

impl<B: FusedOps> Backward<B, 3> for LoraLinearCrossEntropy {
    /// The gradients of `hidden`, `rows` and `factor` for a gradient of one of the loss.
    type State = [FloatTensor<B>; 3];

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = B::float_reshape(grads.consume::<B>(&ops.node), Shape::new([1, 1]));
        for (node, unit) in ops.parents.into_iter().zip(ops.state) {
            if let Some(node) = node {
                let grad = cast::<B>(grad.clone(), unit.dtype());
                grads.register::<B>(node.id, B::float_mul(unit, grad));
            }
        }
    }
}

pub(super) fn linear<B: FusedOps, C: CheckpointStrategy>(
    hidden: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    [rows, factor]: [FloatTensor<Autodiff<B, C>>; 2],
    targets: IntTensor<B>,
    config: LogitsConfig,
) -> FloatTensor<Autodiff<B, C>> {
    let (weight, _) = weight.into_parts();
    let (hidden, hidden_node) = hidden.into_parts();
    let (rows, rows_node) = rows.into_parts();
    let (factor, factor_node) = factor.into_parts();
    let nodes = [hidden_node, rows_node, factor_node];

    match Backward::<B, 3>::prepare::<C>(LoraLinearCrossEntropy, nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => {
            let (loss, dhidden, drows, dfactor) =
                B::lora_linear_cross_entropy_grads(hidden, weight, rows, factor, targets, config);
            prep.finish([dhidden, drows, dfactor], loss)
        }
        OpsKind::UnTracked(prep) => prep.finish(B::lora_linear_cross_entropy(
            hidden, weight, rows, factor, targets, config,
        )),
    }
}

#[derive(Debug)]
struct LoraTokenCrossEntropy;

/// Hidden states, weight, rows, factor and targets.
type Operands<B> = ([FloatTensor<B>; 4], IntTensor<B>);

impl<B: FusedOps> Backward<B, 3> for LoraTokenCrossEntropy {
    /// The gradients of `hidden` and `rows` for gradients of one of every loss; and the operands, if `factor` is tracked: the sum
    /// over tokens that its gradient is has to know theirs.
    type State = ([FloatTensor<B>; 2], Option<Operands<B>>, LogitsConfig);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [hidden_node, rows_node, factor_node] = ops.parents;
        let (units, operands, config) = ops.state;
        if let (Some(node), Some(([hidden, weight, rows, factor], targets))) =
            (factor_node, operands)
        {
            let dfactor = B::lora_token_cross_entropy_grad_factor(
                hidden,
                weight,
                rows,
                factor,
                targets,
                grad.clone(),
                config,
            );
            grads.register::<B>(node.id, dfactor);
        }
        for (node, unit) in [hidden_node, rows_node].into_iter().zip(units) {
            if let Some(node) = node {
                let rows = Shape::new([unit.shape()[0], 1]);
                let grad = cast::<B>(B::float_reshape(grad.clone(), rows), unit.dtype());
                grads.register::<B>(node.id, B::float_mul(unit, grad));
            }
        }
    }
}

pub(super) fn of_tokens<B: FusedOps, C: CheckpointStrategy>(
    hidden: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    [rows, factor]: [FloatTensor<Autodiff<B, C>>; 2],
    targets: IntTensor<B>,
    config: LogitsConfig,
) -> FloatTensor<Autodiff<B, C>> {
    let factor_tracked = is_tracked::<B, C>(&factor);
    let (weight, _) = weight.into_parts();
    let (hidden, hidden_node) = hidden.into_parts();
    let (rows, rows_node) = rows.into_parts();
    let (factor, factor_node) = factor.into_parts();
    let nodes = [hidden_node, rows_node, factor_node];

    match Backward::<B, 3>::prepare::<C>(LoraTokenCrossEntropy, nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => {
            let operands = factor_tracked.then(|| {
                let operands = [&hidden, &weight, &rows, &factor].map(Clone::clone);
                (operands, targets.clone())
            });
            let (losses, dhidden, drows) = B::lora_token_cross_entropy_grad_tokens(
                hidden, weight, rows, factor, targets, config,
            );
            prep.finish(([dhidden, drows], operands, config), losses)
        }
        OpsKind::UnTracked(prep) => prep.finish(B::lora_token_cross_entropy(
            hidden, weight, rows, factor, targets, config,
        )),
    }
}
