//! CubeCL: hands the tensors to the kernels of `qlora-cubecl`. Dense products are the backend's own where its default routine
//! fits the device and does not round f32; what has types that the kernels do not serve goes to the reference bodies.

use burn_core::backend::tensor::{FloatTensor, IntTensor};
use burn_core::backend::{TensorMetadata, ops::FloatTensorOps};
use burn_core::tensor::DType;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use burn_operands::cubecl::{Context, dtype, dtypes, lend};
use nf4::glu::Activation;
use qlora_cubecl::fused::{
    attention::{self, Angles, CachedOperands, Operands},
    cross_entropy, glu,
    rms_norm::{self, Saved},
    rope,
};
use qlora_cubecl::matmul::{Norm, dense, dense_rows};

use crate::around::ProloguePrimitive;
use crate::config::{AttentionConfig, LogitsConfig, RmsNormConfig};
use crate::operands::{AttentionMask, CachedTokens, Rotation};
use crate::ops::FusedOps;
use crate::reference::{self, precision::cast};

impl FusedOps for CubeBackend {
    fn matmul(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        let context = Context::of(&lhs);
        let weight = Self::float_transpose(rhs.clone());
        if let Some(y) = few_rows(&context, &lhs, None, weight) {
            return y;
        }
        let [left, right] = [lhs.clone(), rhs.clone()].map(lend);
        if !dense::serves(context.client(), [&left, &right]) {
            return Self::float_matmul(lhs, rhs);
        }
        context.tensor(dense::multiply(context.client(), left, right))
    }

    fn linear(
        x: FloatTensor<Self>,
        prologue: ProloguePrimitive<Self>,
        weight: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let norm = prologue.clone().into_norm();
        let y = few_rows(&Context::of(&x), &x, norm, weight.clone());
        y.unwrap_or_else(|| Self::matmul(prologue.apply(x), Self::float_transpose(weight)))
    }

    fn widened_matmul(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        if dense::has_planes(Context::of(&lhs).client()) {
            Self::float_matmul(lhs, rhs)
        } else {
            Self::matmul(lhs, rhs)
        }
    }

    fn rms_norm_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !rms_norm::serves(&dtypes([&x]), dtype(&weight)) {
            return reference::rms_norm::forward::<Self>(x, weight, config);
        }
        let context = Context::of(&x);
        let results = rms_norm::forward(context.client(), lend(x), lend(weight), config);
        context.tensors(results).into()
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inv_rms: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> FloatTensor<Self> {
        if !rms_norm::serves(&dtypes([&x, &grad]), dtype(&weight)) {
            return reference::rms_norm::backward::<Self>(x, weight, inv_rms, grad, config);
        }
        let context = Context::of(&x);
        let saved = saved([x, weight, inv_rms]);
        let dx = rms_norm::backward(context.client(), saved, lend(grad), None, config);
        context.tensor(dx)
    }

    fn add_rms_norm_forward(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if !rms_norm::serves(&dtypes([&x, &residual]), dtype(&weight)) {
            return reference::rms_norm::add_forward::<Self>(x, residual, weight, config);
        }
        let context = Context::of(&x);
        let [x, residual, weight] = [x, residual, weight].map(lend);
        let results = rms_norm::add_forward(context.client(), x, residual, weight, config);
        context.tensors(results).into()
    }

    fn add_rms_norm_backward(
        sum: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inv_rms: FloatTensor<Self>,
        grad_sum: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> FloatTensor<Self> {
        let dtypes = dtypes([&sum, &grad_sum, &grad]);
        if !rms_norm::serves(&dtypes, dtype(&weight)) {
            return reference::rms_norm::add_backward::<Self>(
                sum, weight, inv_rms, grad_sum, grad, config,
            );
        }
        let context = Context::of(&sum);
        let saved = saved([sum, weight, inv_rms]);
        let [grad_sum, grad] = [grad_sum, grad].map(lend);
        let client = context.client();
        let dx = rms_norm::backward(client, saved, grad, Some(grad_sum), config);
        context.tensor(dx)
    }

    fn glu(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        if !glu::serves(&dtypes([&gate, &up])) {
            return reference::glu::forward::<Self>(gate, up, activation);
        }
        let context = Context::of(&gate);
        let [gate, up] = [gate, up].map(lend);
        context.tensor(glu::forward(context.client(), gate, up, activation))
    }

    fn glu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !glu::serves(&dtypes([&gate, &up, &grad])) {
            return reference::glu::backward::<Self>(gate, up, grad, activation);
        }
        let context = Context::of(&gate);
        let [gate, up, grad] = [gate, up, grad].map(lend);
        let gradients = glu::backward(context.client(), gate, up, grad, activation);
        context.tensors(gradients).into()
    }

    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        inverse: bool,
    ) -> FloatTensor<Self> {
        if !rope::serves(dtype(&x), dtypes([&cos, &sin])) {
            return reference::rope::rotate::<Self>(x, cos, sin, inverse);
        }
        let context = Context::of(&x);
        let [x, cos, sin] = [x, cos, sin].map(lend);
        context.tensor(rope::rotate(context.client(), x, cos, sin, inverse))
    }

    fn causal_attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: AttentionMask<Self>,
        config: AttentionConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [k, v] = [k, v].map(|kept| match q.dtype() {
            DType::F32 => cast::<Self>(kept, DType::F32),
            _ => kept,
        });
        if !attention::serves(&dtypes([&q, &k, &v]), elements([&q, &k])) {
            return reference::attention::forward::<Self>(q, k, v, mask, config);
        }
        let context = Context::of(&q);
        let results = attention::forward(context.client(), operands([q, k, v], mask, config));
        context.tensors(results).into()
    }

    fn causal_attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: AttentionMask<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        config: AttentionConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let dtypes = dtypes([&q, &k, &v, &out, &grad]);
        if !attention::serves(&dtypes, elements([&q, &k])) {
            let all = [q, k, v, out, lse, grad];
            return reference::attention::backward::<Self>(all, mask, config);
        }
        let context = Context::of(&q);
        let operands = operands([q, k, v], mask, config);
        let results = [out, lse].map(lend);
        let gradients = attention::backward(context.client(), operands, results, lend(grad));
        context.tensors(gradients).into()
    }

    fn cached_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        rotation: Rotation<Self>,
        cache: CachedTokens<Self>,
        mask: AttentionMask<Self>,
        config: AttentionConfig,
    ) -> (FloatTensor<Self>, CachedTokens<Self>) {
        let context = Context::of(&q);
        let (new, kept) = (dtypes([&q, &k, &v]), dtypes([&cache.keys, &cache.values]));
        let tables = tables(rotation.clone());
        let angles = tables.as_ref().map(|tables| dtypes(tables.each_ref()));
        if !attention::serves_cached(context.client(), new, kept, angles, q.shape()[1]) {
            return reference::cached_attention::forward([q, k, v], rotation, cache, mask, config);
        }
        let [keys, values] = [cache.keys, cache.values].map(owned);
        let [q, k, v] = [q, k, v].map(lend);
        let [lent_keys, lent_values] = [&keys, &values].map(|kept| lend(kept.clone()));
        let operands = CachedOperands {
            q,
            k,
            v,
            angles: tables.map(|tables| {
                let [query_cos, query_sin, key_cos, key_sin] = tables.map(lend);
                Angles {
                    query: [query_cos, query_sin],
                    key: [key_cos, key_sin],
                }
            }),
            keys: lent_keys,
            values: lent_values,
            len: cache.len,
            starts: mask.starts().map(lend),
            config,
        };
        let out = context.tensor(attention::forward_cached(context.client(), operands));
        let len = cache.len + 1;
        (out, CachedTokens { keys, values, len })
    }

    fn cross_entropy(
        products: FloatTensor<Self>,
        classes: IntTensor<Self>,
        weights: FloatTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        if !cross_entropy::serves(dtype(&products), dtype(&weights)) {
            return reference::cross_entropy::rows::<Self>(products, classes, weights, config);
        }
        let context = Context::of(&products);
        let rows = rows([products, classes, weights], config);
        context.tensor(cross_entropy::losses(context.client(), rows))
    }

    fn cross_entropy_grad(
        products: FloatTensor<Self>,
        classes: IntTensor<Self>,
        weights: FloatTensor<Self>,
        config: LogitsConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !cross_entropy::serves(dtype(&products), dtype(&weights)) {
            return reference::cross_entropy::rows_grad::<Self>(products, classes, weights, config);
        }
        let context = Context::of(&products);
        let rows = rows([products, classes, weights], config);
        let results = cross_entropy::losses_and_gradient(context.client(), rows);
        context.tensors(results).into()
    }
}

impl ProloguePrimitive<CubeBackend> {
    /// Returns the norm as kernels take it.
    pub fn into_norm(self) -> Option<Norm> {
        match self {
            Self::None => None,
            Self::RmsNorm { weight, config } => Some(Norm {
                weight: lend(weight),
                config,
            }),
        }
    }
}

/// Returns `x · weightᵀ`, of `x` normalized before, where there is a kernel for a few rows.
fn few_rows(
    context: &Context,
    x: &CubeTensor,
    norm: Option<Norm>,
    weight: CubeTensor,
) -> Option<CubeTensor> {
    let (client, x, weight) = (context.client(), lend(x.clone()), lend(weight));
    if !dense_rows::serves(client, &x, norm.as_ref(), &weight) {
        return None;
    }
    Some(context.tensor(dense_rows::multiply(client, x, norm, &weight)))
}

/// Returns a tensor that may be written where it lies, a copy if need be.
fn owned(tensor: CubeTensor) -> CubeTensor {
    if tensor.can_mut() && tensor.is_contiguous() {
        tensor
    } else {
        tensor.copy()
    }
}

/// Returns the tables of a rotation: cosines and sines of the queries, and those of the keys.
fn tables(rotation: Rotation<CubeBackend>) -> Option<[CubeTensor; 4]> {
    match rotation {
        Rotation::None => None,
        Rotation::Angles {
            query_cos,
            query_sin,
            key_cos,
            key_sin,
        } => Some([query_cos, query_sin, key_cos, key_sin]),
    }
}

/// Returns what a norm kept, as kernels take it.
fn saved(kept: [CubeTensor; 3]) -> Saved {
    let [x, weight, inv_rms] = kept.map(lend);
    Saved { x, weight, inv_rms }
}

fn operands(
    [q, k, v]: [CubeTensor; 3],
    mask: AttentionMask<CubeBackend>,
    config: AttentionConfig,
) -> Operands {
    let [q, k, v] = [q, k, v].map(lend);
    Operands {
        q,
        k,
        v,
        starts: mask.starts().map(lend),
        config,
    }
}

fn rows(tensors: [CubeTensor; 3], config: LogitsConfig) -> cross_entropy::Operands {
    let [products, classes, weights] = tensors.map(lend);
    cross_entropy::Operands {
        products,
        classes,
        weights,
        scale: config.scale as f32,
        softcap: config.softcap.map(|cap| cap as f32),
    }
}

fn elements<const N: usize>(tensors: [&CubeTensor; N]) -> [usize; N] {
    tensors.map(|tensor| tensor.shape().num_elements())
}
