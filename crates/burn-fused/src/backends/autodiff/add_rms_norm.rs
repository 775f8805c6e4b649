//! The sum and its normalization, whose gradients meet inside the kernel.

use burn_autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_core::backend::{TensorMetadata, tensor::FloatTensor};
use burn_operands::autodiff::{ResultGradients, Tracked, results};

use crate::config::RmsNormConfig;
use crate::ops::FusedOps;
use crate::reference::precision::cast;

/// The results.
const RESULTS: usize = 2;

/// The step below the results', with `N - 1` addends and the weight as parents.
#[derive(Debug)]
struct AddRmsNorm;

/// The sum, the weight and `1 / rms`, what the norm is like, and the results' gradients.
type Saved<B> = ([FloatTensor<B>; 3], RmsNormConfig, ResultGradients<B>);

fn backward<B: FusedOps, const N: usize>(ops: Ops<Saved<B>, N>, grads: &mut Gradients) {
    let ([sum, weight, inv_rms], config, shared) = ops.state;
    let mut parents = ops.parents;
    let weight_node = parents[N - 1].take();
    let mut pending = shared.take().into_iter();
    let (grad_sum, grad) = (pending.next().flatten(), pending.next().flatten());

    if let (Some(node), Some(grad)) = (weight_node, &grad) {
        let dtype = weight.dtype();
        let dweight = B::rms_norm_backward_weight(sum.clone(), inv_rms.clone(), grad.clone());
        grads.register::<B>(node.id, cast::<B>(dweight, dtype));
    }
    let addends: Vec<_> = parents.into_iter().flatten().collect();
    if addends.is_empty() {
        return;
    }
    let dsum = match (grad_sum, grad) {
        (Some(grad_sum), Some(grad)) => {
            B::add_rms_norm_backward(sum, weight, inv_rms, grad_sum, grad, config)
        }
        (None, Some(grad)) => B::rms_norm_backward(sum, weight, inv_rms, grad, config),
        (Some(grad_sum), None) => grad_sum,
        (None, None) => return,
    };
    for node in addends {
        grads.register::<B>(node.id, dsum.clone());
    }
}

impl<B: FusedOps> Backward<B, 3> for AddRmsNorm {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        backward::<B, 3>(ops, grads);
    }
}

impl<B: FusedOps> Backward<B, 2> for AddRmsNorm {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        backward::<B, 2>(ops, grads);
    }
}

pub(super) fn add_rms_norm<B: FusedOps, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    residual: Tracked<B, C>,
    weight: Tracked<B, C>,
    config: RmsNormConfig,
) -> (Tracked<B, C>, Tracked<B, C>) {
    let [
        (x, x_node),
        (residual, residual_node),
        (weight, weight_node),
    ] = [x, residual, weight].map(|tensor| tensor.into_parts());
    let prepared = Backward::<B, 3>::prepare::<C>(AddRmsNorm, [x_node, residual_node, weight_node]);
    match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let (sum, y, inv_rms) = B::add_rms_norm_forward(x, residual, weight.clone(), config);
            let shared = ResultGradients::new(RESULTS);
            let saved = ([sum.clone(), weight, inv_rms], config, shared.clone());
            let below = prep.finish(saved, sum.clone());
            outputs::<B, C>(below, shared, sum, y)
        }
        OpsKind::UnTracked(prep) => {
            let (sum, y) = B::add_rms_norm(x, residual, weight, config);
            let below = prep.finish(sum.clone());
            outputs::<B, C>(below, ResultGradients::new(RESULTS), sum, y)
        }
    }
}

pub(super) fn residual_rms_norm<B: FusedOps, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    weight: Tracked<B, C>,
    config: RmsNormConfig,
) -> (Tracked<B, C>, Tracked<B, C>) {
    let [(x, x_node), (weight, weight_node)] = [x, weight].map(|tensor| tensor.into_parts());
    let prepared = Backward::<B, 2>::prepare::<C>(AddRmsNorm, [x_node, weight_node]);
    match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let (y, inv_rms) = B::rms_norm_forward(x.clone(), weight.clone(), config);
            let shared = ResultGradients::new(RESULTS);
            let saved = ([x.clone(), weight, inv_rms], config, shared.clone());
            let below = prep.finish(saved, x.clone());
            outputs::<B, C>(below, shared, x, y)
        }
        OpsKind::UnTracked(prep) => {
            let y = B::rms_norm(x.clone(), weight, config);
            let below = prep.finish(x.clone());
            outputs::<B, C>(below, ResultGradients::new(RESULTS), x, y)
        }
    }
}

/// Returns the two results above the step `below`.
fn outputs<B: FusedOps, C: CheckpointStrategy>(
    below: Tracked<B, C>,
    shared: ResultGradients<B>,
    sum: FloatTensor<B>,
    normalized: FloatTensor<B>,
) -> (Tracked<B, C>, Tracked<B, C>) {
    let mut results = results::<B, C>(&below, &shared, [sum, normalized]).into_iter();
    let mut next = || results.next().expect("there are two results");
    (next(), next())
}
