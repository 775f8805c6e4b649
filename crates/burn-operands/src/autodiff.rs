//! Operations with several results, of which Burn's steps have one each.
//!
//! A step for each result stands for such an operation, which only puts the gradient it is given aside, and below them one that
//! knows the parents, which Burn runs when all are done. So the gradients meet inside the backward pass of the operation, where
//! Burn would have added what each of them gives in a pass of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_core::backend::{Backend, tensor::FloatTensor};

/// A tensor of the graph.
pub type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

/// The gradients of an operation's results, from when they are known until they are used. Its steps share them.
#[derive(Clone, Debug)]
pub struct ResultGradients<B: Backend>(Arc<Mutex<Vec<Option<FloatTensor<B>>>>>);

impl<B: Backend> ResultGradients<B> {
    /// Returns those of one use of an operation with `count` results, none of which is known.
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Mutex::new(vec![None; count])))
    }

    /// Takes the gradients out, in the order of the results; `None` for a result that nothing was made of.
    pub fn take(&self) -> Vec<Option<FloatTensor<B>>> {
        self.lock().iter_mut().map(Option::take).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<FloatTensor<B>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The step of the result at a place.
#[derive(Clone, Copy, Debug)]
struct ResultStep(usize);

impl<B: Backend> Backward<B, 1> for ResultStep {
    type State = ResultGradients<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        ops.state.lock()[self.0] = Some(grad);
    }
}

/// Returns the results as tensors of the graph, above `below`, the tensor of the step that knows the parents.
pub fn results<B: Backend, C: CheckpointStrategy>(
    below: &Tracked<B, C>,
    gradients: &ResultGradients<B>,
    values: impl IntoIterator<Item = FloatTensor<B>>,
) -> Vec<Tracked<B, C>> {
    let values = values.into_iter().enumerate();
    values
        .map(|(place, value)| {
            let prepared = Backward::<B, 1>::prepare::<C>(ResultStep(place), [below.node()]);
            match prepared.compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish(gradients.clone(), value),
                OpsKind::UnTracked(prep) => prep.finish(value),
            }
        })
        .collect()
}
