use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_core::backend::{Backend, tensor::FloatTensor};

/// Returns whether a gradient is going to be asked of `tensor`, a leaf's or one to be passed on.
///
/// Burn tells only the leaves; a step that is prepared and dropped tells both and leaves no trace.
pub(super) fn is_tracked<B: Backend, C: CheckpointStrategy>(
    tensor: &FloatTensor<Autodiff<B, C>>,
) -> bool {
    #[derive(Debug)]
    struct Probe;

    impl<B: Backend> Backward<B, 1> for Probe {
        type State = ();

        fn backward(self, _: Ops<(), 1>, _: &mut Gradients, _: &mut Checkpointer) {}
    }

    let probe = Backward::<B, 1>::prepare::<C>(Probe, [tensor.node()]);
    matches!(probe.compute_bound().stateful(), OpsKind::Tracked(_))
}
