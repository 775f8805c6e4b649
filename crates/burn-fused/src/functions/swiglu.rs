use burn_core::{backend::Dispatch, tensor::Tensor};

use crate::ops::FusedOps;

/// Returns the gated activation of LLaMA's feed-forward layer: `silu(gate) * up`.
///
/// `gate` and `up` have one shape, any; the result has it too, and gate's dtype. The backward pass
/// keeps `gate` and `up` and computes both gradients in one pass over memory.
///
/// # Panics
/// When the shapes differ.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    assert_eq!(
        gate.dims(),
        up.dims(),
        "swiglu: gate and up must have one shape"
    );
    Tensor::from_dispatch(<Dispatch as FusedOps>::swiglu(
        gate.dequantize().into_dispatch(),
        up.dequantize().into_dispatch(),
    ))
}
