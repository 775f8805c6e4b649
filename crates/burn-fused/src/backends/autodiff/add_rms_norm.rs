//! An operation with two results, of which Burn's steps have one each.
//!
//! Three steps stand for it: one for each result, which only puts the gradient it is given aside, and below
//! them the one that knows the parents, which Burn runs when both are done. So the two gradients meet
//! inside the kernel, where Burn would have added them in a pass of their own.

use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_core::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::RmsNormConfig;
use crate::ops::FusedOps;
use crate::reference::precision::cast;

/// A tensor of the graph.
type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

/// The results' gradients, from when they are known until they are used.
#[derive(Debug)]
struct Pending<B: Backend> {
    sum: Option<FloatTensor<B>>,
    normalized: Option<FloatTensor<B>>,
}

/// The [`Pending`] gradients of one use of the operation, which its steps share.
#[derive(Debug, Clone)]
struct Shared<B: Backend>(Arc<Mutex<Pending<B>>>);

impl<B: Backend> Shared<B> {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Pending {
            sum: None,
            normalized: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Pending<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which of the results a step is that of.
#[derive(Debug, Clone, Copy)]
enum Output {
    Sum,
    Normalized,
}

impl<B: FusedOps> Backward<B, 1> for Output {
    type State = Shared<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let mut pending = ops.state.lock();
        let place = match self {
            Self::Sum => &mut pending.sum,
            Self::Normalized => &mut pending.normalized,
        };
        *place = Some(grad);
    }
}

/// The step below the results', with `N - 1` addends and the weight as parents.
#[derive(Debug)]
struct AddRmsNorm;

/// The sum, the weight and `1 / rms`, what the norm is like, and the results' gradients.
type Saved<B> = ([FloatTensor<B>; 3], RmsNormConfig, Shared<B>);

fn backward<B: FusedOps, const N: usize>(ops: Ops<Saved<B>, N>, grads: &mut Gradients) {
    let ([sum, weight, inv_rms], config, shared) = ops.state;
    let mut parents = ops.parents;
    let weight_node = parents[N - 1].take();
    let mut pending = shared.lock();
    let (grad_sum, grad) = (pending.sum.take(), pending.normalized.take());
    drop(pending);

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
            let shared = Shared::new();
            let saved = ([sum.clone(), weight, inv_rms], config, shared.clone());
            let below = prep.finish(saved, sum.clone());
            outputs::<B, C>(below, shared, sum, y)
        }
        OpsKind::UnTracked(prep) => {
            let (sum, y) = B::add_rms_norm(x, residual, weight, config);
            let below = prep.finish(sum.clone());
            outputs::<B, C>(below, Shared::new(), sum, y)
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
            let shared = Shared::new();
            let saved = ([x.clone(), weight, inv_rms], config, shared.clone());
            let below = prep.finish(saved, x.clone());
            outputs::<B, C>(below, shared, x, y)
        }
        OpsKind::UnTracked(prep) => {
            let y = B::rms_norm(x.clone(), weight, config);
            let below = prep.finish(x.clone());
            outputs::<B, C>(below, Shared::new(), x, y)
        }
    }
}

/// Returns the two results above the step `below`.
fn outputs<B: FusedOps, C: CheckpointStrategy>(
    below: Tracked<B, C>,
    shared: Shared<B>,
    sum: FloatTensor<B>,
    normalized: FloatTensor<B>,
) -> (Tracked<B, C>, Tracked<B, C>) {
    let output = |kind: Output, value| {
        let prepared = Backward::<B, 1>::prepare::<C>(kind, [below.node()]);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(shared.clone(), value),
            OpsKind::UnTracked(prep) => prep.finish(value),
        }
    };
    (
        output(Output::Sum, sum),
        output(Output::Normalized, normalized),
    )
}
