//! CubeCL: hands the tensors to the kernels of `qlora-cubecl`.

use burn_core::backend::{TensorMetadata, cubecl::dtype_to_storage_type, tensor::FloatTensor};
use burn_core::tensor::FloatDType;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use burn_fused::{EpiloguePrimitive, ProloguePrimitive};
use burn_operands::cubecl::{Context, lend};
use nf4::{Direction, Layout, QuantConfig};
use qlora_cubecl::matmul::low_rank::{self, LowRank};
use qlora_cubecl::matmul::{Epilogue, Layer};
use qlora_cubecl::{Weight, dequantize, matmul, quantize};

use crate::ops::BlockwiseOps;
use crate::primitive::{BlockwisePrimitive, LayerPrimitive, LayersPrimitive};
use crate::reference;

impl BlockwiseOps for CubeBackend {
    fn blockwise_quantize(
        weight: FloatTensor<Self>,
        config: QuantConfig,
    ) -> BlockwisePrimitive<Self> {
        let layout = Layout::new(weight.shape().dims(), config)
            .unwrap_or_else(|error| panic!("blockwise_quantize: {error}"));
        let context = Context::of(&weight);
        let words = quantize::quantize(context.client(), lend(weight), layout);
        let [packed, absmax] = context.tensors(words.map(Weight::into_words));
        BlockwisePrimitive {
            packed,
            absmax,
            layout,
        }
    }

    fn blockwise_dequantize(
        weight: BlockwisePrimitive<Self>,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        let context = Context::of(&weight.packed);
        let (dtype, weight) = (dtype_to_storage_type(dtype.into()), words(&context, weight));
        context.tensor(dequantize::dequantize(context.client(), &weight, dtype))
    }

    fn blockwise_matmul(
        x: FloatTensor<Self>,
        weight: BlockwisePrimitive<Self>,
        direction: Direction,
    ) -> FloatTensor<Self> {
        let context = Context::of(&x);
        let weight = words(&context, weight);
        context.tensor(matmul::matmul(context.client(), lend(x), weight, direction))
    }

    fn blockwise_lora_matmul(
        x: FloatTensor<Self>,
        weight: BlockwisePrimitive<Self>,
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

    fn blockwise_layers(
        x: FloatTensor<Self>,
        layers: LayersPrimitive<Self>,
    ) -> Vec<FloatTensor<Self>> {
        let context = Context::of(&x);
        let layers = layers.0.into_iter().map(|layer| match layer {
            LayerPrimitive::Base { weight } => Layer {
                weight: words(&context, weight),
                low_rank: None,
            },
            LayerPrimitive::Adapted {
                weight,
                a,
                b,
                scale,
            } => Layer {
                weight: words(&context, weight),
                low_rank: Some(factors(a, b, scale)),
            },
        });
        let layers = layers.collect();
        context.tensor_list(matmul::layers(context.client(), lend(x), layers))
    }

    fn blockwise_fused_layers(
        x: FloatTensor<Self>,
        prologue: ProloguePrimitive<Self>,
        layers: LayersPrimitive<Self>,
        epilogue: EpiloguePrimitive<Self>,
    ) -> Vec<FloatTensor<Self>> {
        let context = Context::of(&x);
        let fused = bases(&context, &layers).and_then(|weights| {
            let norm = prologue.clone().into_norm();
            let epilogue = match epilogue.clone() {
                EpiloguePrimitive::None => Epilogue::None,
                EpiloguePrimitive::Add { residual } => Epilogue::Add(lend(residual)),
                EpiloguePrimitive::Glu { activation } => Epilogue::Glu(activation),
            };
            let x = lend(x.clone());
            matmul::fused_layers(context.client(), x, norm, weights, epilogue).transpose()
        });
        match fused {
            Some(results) => context.tensor_list(results),
            None => reference::fused_layers::<Self>(x, prologue, layers, epilogue),
        }
    }

    fn blockwise_lora_backward(
        x: FloatTensor<Self>,
        weight: BlockwisePrimitive<Self>,
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

    fn blockwise_lora_backward_factors(
        x: FloatTensor<Self>,
        weight: BlockwisePrimitive<Self>,
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
fn words(context: &Context, weight: BlockwisePrimitive<CubeBackend>) -> Weight {
    let [packed, absmax] = [weight.packed, weight.absmax].map(lend);
    Weight::new(context.client(), packed, absmax, weight.layout)
}

/// Returns the weights of layers of which none is adapted.
fn bases(context: &Context, layers: &LayersPrimitive<CubeBackend>) -> Option<Vec<Weight>> {
    let layers = layers.0.iter();
    layers
        .map(|layer| match layer {
            LayerPrimitive::Base { weight } => Some(words(context, weight.clone())),
            LayerPrimitive::Adapted { .. } => None,
        })
        .collect()
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
