//! CubeCL: hands the tensors' buffers to the kernels of `qlora-cubecl`. The products of the head are the backend's own, and
//! everything in types that the kernels are not written for goes to the reference bodies.

use burn_core::backend::{
    TensorMetadata,
    cubecl::dtype_to_storage_type,
    tensor::{FloatTensor, IntTensor},
};
use burn_core::tensor::{DType, Shape};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::server::Handle;
use qlora_cubecl::{
    KernelError,
    fused::{
        Matrix,
        attention::{self, Operands, Sizes, Starts},
        cross_entropy::{self, Targets},
        rms_norm::{self, NormWeight},
        rope::{self, Angles},
        swiglu,
    },
};

use crate::{AttentionMask, AttentionShape, FusedOps, reference};

impl FusedOps for CubeBackend {
    fn rms_norm_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !served([&x, &weight]) {
            return reference::rms_norm::forward::<Self>(x, weight, eps);
        }
        let (x, weight) = (into_contiguous(x), into_contiguous(weight));
        let (y, inv_rms) = launched(
            "rms_norm",
            rms_norm::forward(&x.client, matrix(&x), norm_weight(&weight), eps as f32),
        );
        (like(&x, y), one_a_row(&x, inv_rms))
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inv_rms: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if !served([&x, &weight]) || grad.dtype != x.dtype {
            return reference::rms_norm::backward::<Self>(x, weight, inv_rms, grad);
        }
        norm_gradient(x, weight, inv_rms, grad, None)
    }

    fn add_rms_norm_forward(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if !served([&x, &weight]) {
            return reference::rms_norm::add_forward::<Self>(x, residual, weight, eps);
        }
        let [x, residual, weight] = [x, residual, weight].map(into_contiguous);
        let (sum, y, inv_rms) = launched(
            "add_rms_norm",
            rms_norm::add_forward(
                &x.client,
                matrix(&x),
                &residual.handle,
                norm_weight(&weight),
                eps as f32,
            ),
        );
        (like(&x, sum), like(&x, y), one_a_row(&x, inv_rms))
    }

    fn add_rms_norm_backward(
        sum: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inv_rms: FloatTensor<Self>,
        grad_sum: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if !served([&sum, &weight]) || [grad_sum.dtype, grad.dtype] != [sum.dtype; 2] {
            return reference::rms_norm::add_backward::<Self>(sum, weight, inv_rms, grad_sum, grad);
        }
        norm_gradient(sum, weight, inv_rms, grad, Some(grad_sum))
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        if !served([&gate]) || up.dtype != gate.dtype {
            return reference::swiglu::forward::<Self>(gate, up);
        }
        let [gate, up] = [gate, up].map(into_contiguous);
        let y = swiglu::forward(&gate.client, matrix(&gate), &up.handle);
        like(&gate, launched("swiglu", y))
    }

    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !served([&gate]) || [up.dtype, grad.dtype] != [gate.dtype; 2] {
            return reference::swiglu::backward::<Self>(gate, up, grad);
        }
        let [gate, up, grad] = [gate, up, grad].map(into_contiguous);
        let (dgate, dup) = launched(
            "swiglu",
            swiglu::backward(&gate.client, matrix(&gate), &up.handle, &grad.handle),
        );
        (like(&gate, dgate), like(&gate, dup))
    }

    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        inverse: bool,
    ) -> FloatTensor<Self> {
        if !served([&x, &cos]) || sin.dtype != cos.dtype {
            return reference::rope::rotate::<Self>(x, cos, sin, inverse);
        }
        let [x, cos, sin] = [x, cos, sin].map(into_contiguous);
        let angles = Angles {
            cos: &cos.handle,
            sin: &sin.handle,
            dtype: dtype_to_storage_type(cos.dtype),
            rows: cos.shape()[0],
        };
        let heads = x.shape()[2];
        let y = rope::rotate(&x.client, matrix(&x), heads, angles, inverse);
        like(&x, launched("rope", y))
    }

    fn causal_attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: AttentionMask<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !attention_served([&q, &k, &v]) {
            return reference::attention::forward::<Self>(q, k, v, mask, scale);
        }
        let [q, k, v] = [q, k, v].map(into_contiguous);
        let starts = mask.starts().map(into_contiguous);
        let operands = operands([&q, &k, &v], starts.as_ref(), scale);
        let (y, lse) = launched("attention", attention::forward(&q.client, operands));
        let [batch, q_len, heads, _] = q.shape().dims();
        (like(&q, y), f32_like(&q, [batch, q_len, heads].into(), lse))
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
        let served = attention_served([&q, &k, &v]);
        if !served || [out.dtype, grad.dtype] != [q.dtype; 2] || lse.dtype != DType::F32 {
            let all = [q, k, v, out, lse, grad];
            return reference::attention::backward::<Self>(all, mask, scale);
        }
        let [q, k, v, out, lse, grad] = [q, k, v, out, lse, grad].map(into_contiguous);
        let starts = mask.starts().map(into_contiguous);
        let operands = operands([&q, &k, &v], starts.as_ref(), scale);
        let results = [&out.handle, &lse.handle, &grad.handle];
        let gradients = attention::backward(&q.client, operands, results);
        let gradients = launched("attention", gradients);
        (
            like(&q, gradients.q),
            like(&k, gradients.k),
            like(&v, gradients.v),
        )
    }

    fn cross_entropy(
        logits: FloatTensor<Self>,
        classes: IntTensor<Self>,
        weights: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if [logits.dtype, weights.dtype] != [DType::F32; 2] {
            return reference::cross_entropy::rows::<Self>(logits, classes, weights);
        }
        row_losses(into_contiguous(logits), classes, weights, false).0
    }

    fn cross_entropy_grad(
        logits: FloatTensor<Self>,
        classes: IntTensor<Self>,
        weights: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if [logits.dtype, weights.dtype] != [DType::F32; 2] {
            return reference::cross_entropy::rows_grad::<Self>(logits, classes, weights);
        }
        // The gradient takes the place of the logits.
        let logits = into_contiguous(logits);
        let logits = match logits.can_mut() {
            true => logits,
            false => logits.copy(),
        };
        row_losses(logits, classes, weights, true)
    }
}

/// Whether there are kernels for these types.
fn served<const N: usize>(tensors: [&CubeTensor; N]) -> bool {
    tensors
        .iter()
        .all(|tensor| matches!(tensor.dtype, DType::F32 | DType::F16 | DType::BF16))
}

/// Whether there are kernels for these operands of an attention.
fn attention_served([q, k, v]: [&CubeTensor; 3]) -> bool {
    let empty = [q, k].iter().any(|x| x.shape().num_elements() == 0);
    served([q]) && [k.dtype, v.dtype] == [q.dtype; 2] && !empty
}

/// The operands of an attention, contiguous tensors.
fn operands<'a>(
    [q, k, v]: [&'a CubeTensor; 3],
    starts: Option<&'a CubeTensor>,
    scale: f64,
) -> Operands<'a> {
    let shape = AttentionShape::new(q.shape().dims(), k.shape().dims());
    Operands {
        q: &q.handle,
        k: &k.handle,
        v: &v.handle,
        dtype: dtype_to_storage_type(q.dtype),
        sizes: Sizes {
            batch: shape.batch,
            q_len: shape.q_len,
            heads: shape.heads(),
            kv_len: shape.kv_len,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
        },
        starts: starts.map(|starts| Starts {
            handle: &starts.handle,
            dtype: dtype_to_storage_type(starts.dtype),
        }),
        scale: scale as f32,
    }
}

fn norm_gradient(
    x: CubeTensor,
    weight: CubeTensor,
    inv_rms: CubeTensor,
    grad: CubeTensor,
    grad_sum: Option<CubeTensor>,
) -> CubeTensor {
    let [x, weight, inv_rms, grad] = [x, weight, inv_rms, grad].map(into_contiguous);
    let grad_sum = grad_sum.map(into_contiguous);
    let dx = rms_norm::backward(
        &x.client,
        matrix(&x),
        norm_weight(&weight),
        &inv_rms.handle,
        &grad.handle,
        grad_sum.as_ref().map(|grad| &grad.handle),
    );
    like(&x, launched("rms_norm", dx))
}

/// The losses, and the logits or what has taken their place.
fn row_losses(
    logits: CubeTensor,
    classes: CubeTensor,
    weights: CubeTensor,
    gradient: bool,
) -> (CubeTensor, CubeTensor) {
    let [classes, weights] = [classes, weights].map(into_contiguous);
    let targets = Targets {
        classes: &classes.handle,
        dtype: dtype_to_storage_type(classes.dtype),
        weights: &weights.handle,
    };
    let losses = cross_entropy::losses(&logits.client, matrix(&logits), targets, gradient);
    let losses = launched("cross_entropy", losses);
    (one_a_row(&logits, losses), logits)
}

/// A contiguous tensor as a matrix of its last dimension.
fn matrix(x: &CubeTensor) -> Matrix<'_> {
    let shape = x.shape();
    let columns = shape[shape.num_dims() - 1];
    Matrix {
        handle: &x.handle,
        dtype: dtype_to_storage_type(x.dtype),
        rows: shape.num_elements() / columns.max(1),
        columns,
    }
}

fn norm_weight(weight: &CubeTensor) -> NormWeight<'_> {
    NormWeight {
        handle: &weight.handle,
        dtype: dtype_to_storage_type(weight.dtype),
    }
}

/// A contiguous tensor of the shape and type of `x`.
fn like(x: &CubeTensor, handle: Handle) -> CubeTensor {
    let (client, device) = (x.client.clone(), x.device.clone());
    CubeTensor::new_contiguous(client, device, x.shape(), handle, x.dtype)
}

/// A contiguous f32 tensor with a number for each row of `x`.
fn one_a_row(x: &CubeTensor, handle: Handle) -> CubeTensor {
    let mut shape = x.shape();
    let last = shape.num_dims() - 1;
    shape[last] = 1;
    f32_like(x, shape, handle)
}

/// A contiguous f32 tensor beside `x`.
fn f32_like(x: &CubeTensor, shape: Shape, handle: Handle) -> CubeTensor {
    let (client, device) = (x.client.clone(), x.device.clone());
    CubeTensor::new_contiguous(client, device, shape, handle, DType::F32)
}

fn launched<T>(operation: &str, result: Result<T, KernelError>) -> T {
    result.unwrap_or_else(|error| panic!("{operation}: {error}"))
}
