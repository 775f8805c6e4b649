//! Kernels on the CPU that compute in f32, and read and write f32, f16 and bf16; f64 goes to the default bodies.
//!
//! Results depend neither on the number of threads nor on their timing: how the work is cut up
//! depends on shapes alone, and every sum is made in one order.

mod attention;
mod buffer;
mod cross_entropy;
mod matmul;
mod number;
mod rms_norm;
mod rope;
mod simd;
mod swiglu;

use burn_core::{
    backend::tensor::{FloatTensor, IntTensor},
    tensor::DType,
};
use burn_flex::{Flex, FlexTensor};

use crate::{AttentionMask, FusedOps, composed};

/// Whether the kernels, which compute in f32, lose nothing.
fn fits(tensor: &FlexTensor) -> bool {
    tensor.dtype() != DType::F64
}

impl FusedOps for Flex {
    fn rms_norm_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if fits(&x) {
            rms_norm::forward(x, weight, eps)
        } else {
            composed::rms_norm::forward::<Self>(x, weight, eps)
        }
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inv_rms: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if fits(&x) {
            rms_norm::backward(x, weight, inv_rms, grad)
        } else {
            composed::rms_norm::backward::<Self>(x, weight, inv_rms, grad)
        }
    }

    fn rms_norm_backward_weight(
        x: FloatTensor<Self>,
        inv_rms: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if fits(&x) {
            rms_norm::backward_weight(x, inv_rms, grad)
        } else {
            composed::rms_norm::backward_weight::<Self>(x, inv_rms, grad)
        }
    }

    fn add_rms_norm_forward(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if fits(&x) {
            rms_norm::add_forward(x, residual, weight, eps)
        } else {
            composed::rms_norm::add_forward::<Self>(x, residual, weight, eps)
        }
    }

    fn add_rms_norm_backward(
        sum: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inv_rms: FloatTensor<Self>,
        grad_sum: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if fits(&sum) {
            rms_norm::add_backward(sum, weight, inv_rms, grad_sum, grad)
        } else {
            composed::rms_norm::add_backward::<Self>(sum, weight, inv_rms, grad_sum, grad)
        }
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        if fits(&gate) {
            swiglu::forward(gate, up)
        } else {
            composed::swiglu::forward::<Self>(gate, up)
        }
    }

    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if fits(&gate) {
            swiglu::backward(gate, up, grad)
        } else {
            composed::swiglu::backward::<Self>(gate, up, grad)
        }
    }

    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        inverse: bool,
    ) -> FloatTensor<Self> {
        if fits(&x) {
            rope::rotate(x, cos, sin, inverse)
        } else {
            composed::rope::rotate::<Self>(x, cos, sin, inverse)
        }
    }

    fn causal_attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: AttentionMask<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if fits(&q) {
            attention::forward(q, k, v, mask.starts(), scale)
        } else {
            composed::attention::forward::<Self>(q, k, v, mask, scale)
        }
    }

    fn causal_attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: AttentionMask<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if fits(&q) {
            attention::backward([q, k, v, out, lse, grad], mask.starts(), scale)
        } else {
            composed::attention::backward::<Self>([q, k, v, out, lse, grad], mask, scale)
        }
    }

    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        if fits(&hidden) {
            cross_entropy::loss(hidden, weight, targets)
        } else {
            composed::cross_entropy::loss::<Self>(hidden, weight, targets)
        }
    }

    fn linear_cross_entropy_grad_hidden(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if fits(&hidden) {
            cross_entropy::loss_grad_hidden(hidden, weight, targets)
        } else {
            composed::cross_entropy::loss_grad_hidden::<Self>(hidden, weight, targets)
        }
    }

    fn linear_cross_entropy_grads(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if fits(&hidden) {
            cross_entropy::loss_grads(hidden, weight, targets)
        } else {
            composed::cross_entropy::loss_grads::<Self>(hidden, weight, targets)
        }
    }
}
