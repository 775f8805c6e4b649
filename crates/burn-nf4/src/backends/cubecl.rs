//! CubeCL: hands the tensors to the kernels of `qlora-cubecl`.

use burn_core::backend::{TensorMetadata, cubecl::dtype_to_storage_type, tensor::FloatTensor};
use burn_core::tensor::FloatDType;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use burn_operands::cubecl::{Context, lend};
use nf4::{Direction, Layout, QuantConfig};
use qlora_cubecl::matmul::low_rank::{self, LowRank};
use qlora_cubecl::{Weight, dequantize, matmul, quantize};

use crate::ops::{Nf4Ops, Nf4Primitive};

impl Nf4Ops for CubeBackend {
    fn nf4_quantize(weight: FloatTensor<Self>, config: QuantConfig) -> Nf4Primitive<Self> {
        let layout = Layout::new(weight.shape().dims(), config)
            .unwrap_or_else(|error| panic!("nf4_quantize: {error}"));
        let context = Context::of(&weight);
        let words = quantize::quantize(context.client(), lend(weight), layout);
        let [packed, absmax] = context.tensors(words.map(Weight::into_words));
        Nf4Primitive {
            packed,
            absmax,
            layout,
        }
    }

    fn nf4_dequantize(weight: Nf4Primitive<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        let context = Context::of(&weight.packed);
        let (dtype, weight) = (dtype_to_storage_type(dtype.into()), words(&context, weight));
        context.tensor(dequantize::dequantize(context.client(), &weight, dtype))
    }

    fn nf4_matmul(
        x: FloatTensor<Self>,
        weight: Nf4Primitive<Self>,
        direction: Direction,
    ) -> FloatTensor<Self> {
        let context = Context::of(&x);
        let weight = words(&context, weight);
        context.tensor(matmul::matmul(context.client(), lend(x), weight, direction))
    }

    fn nf4_lora_matmul(
        x: FloatTensor<Self>,
        weight: Nf4Primitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let context = Context::of(&x);
        let (weight, factors) = (words(&context, weight), factors(a, b, scale));
        context.tensor(low_rank::forward(
            context.client(),
            lend(x),
            weight,
            factors,
        ))
    }

    fn nf4_lora_backward(
        x: FloatTensor<Self>,
        weight: Nf4Primitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let context = Context::of(&x);
        let (weight, factors) = (words(&context, weight), factors(a, b, scale));
        let gradients = low_rank::backward(context.client(), lend(x), weight, factors, lend(grad));
        context.tensors(gradients.map(|g| [g.x, g.a, g.b])).into()
    }

    fn nf4_lora_backward_factors(
        x: FloatTensor<Self>,
        weight: Nf4Primitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let context = Context::of(&x);
        let (layout, factors) = (weight.layout, factors(a, b, scale));
        let gradients =
            low_rank::backward_factors(context.client(), lend(x), layout, factors, lend(grad));
        context.tensors(gradients).into()
    }
}

/// Returns the weight as kernels take it.
fn words(context: &Context, weight: Nf4Primitive<CubeBackend>) -> Weight {
    let [packed, absmax] = [weight.packed, weight.absmax].map(lend);
    Weight::new(context.client(), packed, absmax, weight.layout)
}

/// Returns the factors of a LoRA layer as kernels take them.
fn factors(a: CubeTensor, b: CubeTensor, scale: f64) -> LowRank {
    let [a, b] = [a, b].map(lend);
    LowRank {
        a,
        b,
        scale: scale as f32,
    }
}
