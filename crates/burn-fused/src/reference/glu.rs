//! Both activations are `gate · sigmoid(z)`: `z = gate` makes it SiLU, `z = 2·sqrt(2/π)·(gate + 0.044715·gate³)` makes it the
//! tanh form of GELU, since `1 + tanh(u) = 2·sigmoid(2u)`.

use burn_core::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use nf4::glu::{Activation, GELU_CUBIC, GELU_SLOPE};

use super::precision::{cast, widen};

pub(crate) fn forward<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    activation: Activation,
) -> FloatTensor<B> {
    let dtype = gate.dtype();
    let gate = widen::<B>(gate);
    let up = cast::<B>(up, gate.dtype());
    let sigmoid = B::sigmoid(argument::<B>(gate.clone(), activation));
    let activated = B::float_mul(gate, sigmoid);
    cast::<B>(B::float_mul(activated, up), dtype)
}

/// Computes, with `s = sigmoid(z)`, `dup = g · gate·s` and `dgate = g · up · (s + z'·gate·s·(1 − s))`.
pub(crate) fn backward<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    grad: FloatTensor<B>,
    activation: Activation,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (gate_dtype, up_dtype) = (gate.dtype(), up.dtype());
    let gate = widen::<B>(gate);
    let up = cast::<B>(up, gate.dtype());
    let grad = cast::<B>(grad, gate.dtype());

    let sigmoid = B::sigmoid(argument::<B>(gate.clone(), activation));
    let activated = B::float_mul(gate.clone(), sigmoid.clone());
    let dup = B::float_mul(grad.clone(), activated.clone());
    let slope = match activation {
        // s·(1 + gate·(1 − s)) = s + silu − silu·s
        Activation::Silu => B::float_sub(
            B::float_add(sigmoid.clone(), activated.clone()),
            B::float_mul(activated, sigmoid),
        ),
        Activation::GeluTanh => {
            let falling = B::float_mul(activated.clone(), sigmoid.clone());
            let curve = B::float_mul(argument_slope::<B>(gate), B::float_sub(activated, falling));
            B::float_add(sigmoid, curve)
        }
    };
    let dgate = B::float_mul(B::float_mul(grad, up), slope);
    (cast::<B>(dgate, gate_dtype), cast::<B>(dup, up_dtype))
}

/// Returns `z`.
fn argument<B: Backend>(gate: FloatTensor<B>, activation: Activation) -> FloatTensor<B> {
    match activation {
        Activation::Silu => gate,
        Activation::GeluTanh => {
            let square = B::float_mul(gate.clone(), gate.clone());
            let factor = B::float_mul_scalar(square, (GELU_SLOPE * GELU_CUBIC).into());
            B::float_mul(gate, B::float_add_scalar(factor, GELU_SLOPE.into()))
        }
    }
}

/// Returns the derivative of GELU's `z`.
fn argument_slope<B: Backend>(gate: FloatTensor<B>) -> FloatTensor<B> {
    let square = B::float_mul(gate.clone(), gate);
    let factor = B::float_mul_scalar(square, (3.0 * GELU_SLOPE * GELU_CUBIC).into());
    B::float_add_scalar(factor, GELU_SLOPE.into())
}
