use burn_core::{backend::Dispatch, tensor::Tensor};

pub use nf4::glu::Activation;

use crate::device::expect_served;
use crate::ops::FusedOps;

/// Returns the gated activation of a feed-forward layer: `activation(gate) * up`.
///
/// `gate` and `up` have one shape, any; the result has it too, and gate's dtype. The backward pass
/// keeps `gate` and `up` and computes both gradients in one pass over memory.
///
/// # Panics
/// When the shapes differ.
pub fn glu<const D: usize>(gate: Tensor<D>, up: Tensor<D>, activation: Activation) -> Tensor<D> {
    assert_eq!(
        gate.dims(),
        up.dims(),
        "glu: gate and up must have one shape"
    );
    expect_served("glu", &gate);
    Tensor::from_dispatch(<Dispatch as FusedOps>::glu(
        gate.dequantize().into_dispatch(),
        up.dequantize().into_dispatch(),
        activation,
    ))
}

/// Returns the gated activation of LLaMA's feed-forward layer, `silu(gate) * up`: [`glu`] with [`Activation::Silu`].
///
/// # Panics
/// When the shapes differ.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    glu(gate, up, Activation::Silu)
}

/// Returns the gated activation of Gemma's feed-forward layer, `gelu(gate) * up`: [`glu`] with
/// [`Activation::GeluTanh`].
///
/// # Panics
/// When the shapes differ.
pub fn geglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    glu(gate, up, Activation::GeluTanh)
}
