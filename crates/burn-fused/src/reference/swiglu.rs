use burn_core::backend::{Backend, TensorMetadata, tensor::FloatTensor};

use super::precision::{cast, widen};

pub(crate) fn forward<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    let dtype = gate.dtype();
    let gate = widen::<B>(gate);
    let up = cast::<B>(up, gate.dtype());
    let silu = B::float_mul(gate.clone(), B::sigmoid(gate));
    cast::<B>(B::float_mul(silu, up), dtype)
}

/// Computes, with `s = sigmoid(gate)`, `dup = g · gate·s` and `dgate = g · up · s·(1 + gate·(1 − s))`.
pub(crate) fn backward<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (gate_dtype, up_dtype) = (gate.dtype(), up.dtype());
    let gate = widen::<B>(gate);
    let up = cast::<B>(up, gate.dtype());
    let grad = cast::<B>(grad, gate.dtype());

    let sigmoid = B::sigmoid(gate.clone());
    let silu = B::float_mul(gate.clone(), sigmoid.clone());
    let dup = B::float_mul(grad.clone(), silu.clone());
    // s·(1 + gate·(1 − s)) = s + silu − silu·s
    let slope = B::float_sub(
        B::float_add(sigmoid.clone(), silu.clone()),
        B::float_mul(silu, sigmoid),
    );
    let dgate = B::float_mul(B::float_mul(grad, up), slope);
    (cast::<B>(dgate, gate_dtype), cast::<B>(dup, up_dtype))
}
