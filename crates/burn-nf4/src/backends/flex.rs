//! Flex: hands values and words where they lie to the kernels of `qlora-cpu`.

mod operands;

use burn_core::backend::{Flex, TensorMetadata, tensor::FloatTensor};
use burn_core::tensor::{DType, FloatDType};
use burn_flex::FlexTensor;
use burn_operands::flex::{Values, tensor};
use burn_operands::with_element;
use nf4::{Direction, QuantConfig};
use qlora_cpu::{Cpu, dequantize_vec, low_rank, matmul_vec, quantize};

use crate::ops::{BlockwiseOps, matmul_shape};
use crate::primitive::{BlockwisePrimitive, GradientsPrimitive, LayersPrimitive};
use operands::{Factors, LayerOperands, Words, rows};

impl BlockwiseOps for Flex {
    fn blockwise_quantize(
        weight: FloatTensor<Self>,
        config: QuantConfig,
    ) -> BlockwisePrimitive<Self> {
        let (shape, dtype) = (weight.shape().dims(), weight.dtype());
        let matrix = with_element!(dtype, E => {
            quantize(&Values::<E>::new(weight), shape, config)
        }, else refused("blockwise_quantize", dtype, "cast to f32 first"));
        let matrix = matrix.unwrap_or_else(|error| panic!("blockwise_quantize: {error}"));
        let (layout, packed, absmax) = matrix.into_parts();
        BlockwisePrimitive {
            packed: tensor([layout.packed_words()], packed),
            absmax: tensor([layout.absmax_words()], absmax),
            layout,
        }
    }

    fn blockwise_dequantize(
        weight: BlockwisePrimitive<Self>,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        let (words, dtype) = (Words::new(weight), dtype.into());
        with_element!(dtype, E => {
            tensor(words.layout.shape(), dequantize_vec::<E>(words.matrix()))
        }, else refused("blockwise_dequantize", dtype, "use f32, f16 or bf16"))
    }

    fn blockwise_matmul(
        x: FloatTensor<Self>,
        weight: BlockwisePrimitive<Self>,
        direction: Direction,
    ) -> FloatTensor<Self> {
        let (m, dtype, words) = (rows(&x), x.dtype(), Words::new(weight));
        let shape = matmul_shape(&x.shape(), &words.layout, direction);
        with_element!(dtype, E => {
            tensor(shape, matmul_vec(words.matrix(), &Values::<E>::new(x), m, direction))
        }, else refused("blockwise_matmul", dtype, "cast x to f32 first"))
    }

    fn blockwise_lora_matmul(
        x: FloatTensor<Self>,
        weight: BlockwisePrimitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let (m, dtype, words) = (rows(&x), x.dtype(), Words::new(weight));
        let shape = matmul_shape(&x.shape(), &words.layout, Direction::Forward);
        let factors = Factors::new(a, b, scale);
        with_element!(dtype, E => {
            let x = Values::<E>::new(x);
            tensor(shape, low_rank::forward(words.matrix(), factors.view(), &x, m))
        }, else refused("blockwise_lora_matmul", dtype, "cast x to f32 first"))
    }

    fn blockwise_layers(
        x: FloatTensor<Self>,
        layers: LayersPrimitive<Self>,
    ) -> Vec<FloatTensor<Self>> {
        let (m, dtype, shape) = (rows(&x), x.dtype(), x.shape());
        let layers: Vec<_> = layers.0.into_iter().map(LayerOperands::new).collect();
        let views: Vec<_> = layers.iter().map(LayerOperands::view).collect();
        with_element!(dtype, E => {
            let ys = Cpu::default().layers_forward(&views, &Values::<E>::new(x), m);
            let ys = ys.into_iter().zip(&layers);
            ys.map(|(y, layer)| {
                tensor(matmul_shape(&shape, layer.layout(), Direction::Forward), y)
            })
            .collect()
        }, else refused("blockwise_layers", dtype, "cast x to f32 first"))
    }

    fn blockwise_layers_backward(
        x: FloatTensor<Self>,
        layers: LayersPrimitive<Self>,
        grads: GradientsPrimitive<Self>,
        wants_dx: bool,
    ) -> Vec<FloatTensor<Self>> {
        let (m, dtype, shape) = (rows(&x), x.dtype(), x.shape());
        let layers: Vec<_> = layers.0.into_iter().map(LayerOperands::new).collect();
        let views: Vec<_> = layers.iter().map(LayerOperands::view).collect();
        with_element!(dtype, E => {
            let x = Values::<E>::new(x);
            let grads: Vec<_> = grads.0.into_iter().map(Values::<E>::new).collect();
            let grads: Vec<&[E]> = grads.iter().map(|grad| &**grad).collect();
            let gradients = Cpu::default().layers_backward(&views, &x, &grads, m, wants_dx);
            let factors = layers.iter().zip(gradients.factors).filter_map(|(layer, gradients)| {
                let shapes = layer.factor_shapes()?.into_iter();
                Some(shapes.zip(gradients?).map(|(shape, values)| tensor(shape, values)))
            });
            let dx = gradients.x.map(|dx| tensor(shape, dx));
            dx.into_iter().chain(factors.flatten()).collect()
        }, else refused("blockwise_layers_backward", dtype, "cast x to f32 first"))
    }

    fn blockwise_lora_backward(
        x: FloatTensor<Self>,
        weight: BlockwisePrimitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (dx, da, db) = lora_backward(x, weight, Factors::new(a, b, scale), grad, true);
        (dx.expect("the gradient of x was asked for"), da, db)
    }

    fn blockwise_lora_backward_factors(
        x: FloatTensor<Self>,
        weight: BlockwisePrimitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (_, da, db) = lora_backward(x, weight, Factors::new(a, b, scale), grad, false);
        (da, db)
    }
}

/// Returns the gradients of x, if `wants_dx`, of A and of B.
fn lora_backward(
    x: FlexTensor,
    weight: BlockwisePrimitive<Flex>,
    factors: Factors,
    grad: FlexTensor,
    wants_dx: bool,
) -> (Option<FlexTensor>, FlexTensor, FlexTensor) {
    let (shape, m, dtype) = (x.shape(), rows(&x), x.dtype());
    let (words, low_rank) = (Words::new(weight), factors.view());
    with_element!(dtype, E => {
        let [x, grad] = [x, grad].map(Values::<E>::new);
        let gradients = low_rank::backward(words.matrix(), low_rank, &x, &grad, m, wants_dx);
        let [a_shape, b_shape] = factors.shapes(words.layout);
        let dx = gradients.x.map(|dx| tensor(shape, dx));
        (dx, tensor(a_shape, gradients.a), tensor(b_shape, gradients.b))
    }, else refused("blockwise_lora_backward", dtype, "cast x to f32 first"))
}

fn refused(operation: &str, dtype: DType, way_out: &str) -> ! {
    panic!("{operation}: {dtype:?} is not supported, {way_out}")
}
