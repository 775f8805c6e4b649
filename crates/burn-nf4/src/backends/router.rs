//! Remote devices and captures: each operation is a custom operation of Burn's IR.

use burn_core::backend::ir::{BackendIr, ScalarIr};
use burn_core::backend::{TensorMetadata, tensor::FloatTensor};
use burn_core::tensor::{DType, FloatDType, Shape};
use burn_operands::router::{Call, send, serve};
use burn_router::{BackendRouter, CustomOpRegistry, RouterChannel};
use nf4::{Codebook, Direction, Format, GgufFormat, Layout, QuantConfig};

use crate::ops::{BlockwiseOps, matmul_shape};
use crate::primitive::BlockwisePrimitive;

const QUANTIZE: &str = "burn_nf4::quantize";
const DEQUANTIZE: &str = "burn_nf4::dequantize";
const MATMUL: &str = "burn_nf4::matmul";
const LORA_MATMUL: &str = "burn_nf4::lora_matmul";
const LORA_BACKWARD: &str = "burn_nf4::lora_backward";
const LORA_BACKWARD_FACTORS: &str = "burn_nf4::lora_backward_factors";

/// The dtypes that a matrix may be decoded to.
const DTYPES: [FloatDType; 3] = [FloatDType::F32, FloatDType::F16, FloatDType::BF16];

/// Registers the operations of [`BlockwiseOps`] with a server of remote devices, or with the interpreter of a captured graph.
///
/// The registry goes to the server (`with_custom_ops`) before it starts. The features of the server's backend must be on in this
/// crate there.
pub fn register_blockwise_ops<B: BackendIr + BlockwiseOps>(registry: &mut CustomOpRegistry<B>) {
    serve(registry, QUANTIZE, |call| {
        let words = B::blockwise_quantize(call.float(), quant_config(call));
        call.give_int([words.packed, words.absmax]);
    });
    serve(registry, DEQUANTIZE, |call| {
        let weight = weight(call);
        let dtype = call.one_of(&DTYPES);
        call.give([B::blockwise_dequantize(weight, dtype)]);
    });
    serve(registry, MATMUL, |call| {
        let (weight, x) = (weight(call), call.float());
        let direction = call.one_of(&Direction::ALL);
        call.give([B::blockwise_matmul(x, weight, direction)]);
    });
    serve(registry, LORA_MATMUL, |call| {
        let weight = weight(call);
        let [x, a, b] = call.floats();
        let scale = call.number();
        call.give([B::blockwise_lora_matmul(x, weight, a, b, scale)]);
    });
    serve(registry, LORA_BACKWARD, |call| {
        let weight = weight(call);
        let [x, a, b, grad] = call.floats();
        let scale = call.number();
        let gradients = B::blockwise_lora_backward(x, weight, a, b, scale, grad);
        call.give(gradients.into());
    });
    serve(registry, LORA_BACKWARD_FACTORS, |call| {
        let weight = weight(call);
        let [x, a, b, grad] = call.floats();
        let scale = call.number();
        let gradients = B::blockwise_lora_backward_factors(x, weight, a, b, scale, grad);
        call.give(gradients.into());
    });
}

impl<C: RouterChannel> BlockwiseOps for BackendRouter<C> {
    fn blockwise_quantize(
        weight: FloatTensor<Self>,
        config: QuantConfig,
    ) -> BlockwisePrimitive<Self> {
        let layout = Layout::new(weight.shape().dims(), config)
            .unwrap_or_else(|error| panic!("blockwise_quantize: {error}"));
        let words = |len| (Shape::new([len]), DType::U32);
        let results = [words(layout.packed_words()), words(layout.absmax_words())];
        let scalars = quant_scalars(config).into();
        let [packed, absmax] = send(QUANTIZE, [weight], results, scalars);
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
        let result = (Shape::new(weight.layout.shape()), dtype.into());
        let mut scalars = layout_scalars(weight.layout);
        scalars.push(place(&DTYPES, dtype));
        let [dense] = send(
            DEQUANTIZE,
            [weight.packed, weight.absmax],
            [result],
            scalars,
        );
        dense
    }

    fn blockwise_matmul(
        x: FloatTensor<Self>,
        weight: BlockwisePrimitive<Self>,
        direction: Direction,
    ) -> FloatTensor<Self> {
        let shape = matmul_shape(&x.shape(), &weight.layout, direction);
        let result = (shape, x.dtype());
        let mut scalars = layout_scalars(weight.layout);
        scalars.push(place(&Direction::ALL, direction));
        let [y] = send(MATMUL, [weight.packed, weight.absmax, x], [result], scalars);
        y
    }

    fn blockwise_lora_matmul(
        x: FloatTensor<Self>,
        weight: BlockwisePrimitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let shape = matmul_shape(&x.shape(), &weight.layout, Direction::Forward);
        let result = (shape, x.dtype());
        let scalars = lora_scalars(weight.layout, scale);
        let operands = [weight.packed, weight.absmax, x, a, b];
        let [y] = send(LORA_MATMUL, operands, [result], scalars);
        y
    }

    fn blockwise_lora_backward(
        x: FloatTensor<Self>,
        weight: BlockwisePrimitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let results = [&x, &a, &b].map(|operand| (operand.shape(), operand.dtype()));
        let scalars = lora_scalars(weight.layout, scale);
        let operands = [weight.packed, weight.absmax, x, a, b, grad];
        send(LORA_BACKWARD, operands, results, scalars).into()
    }

    fn blockwise_lora_backward_factors(
        x: FloatTensor<Self>,
        weight: BlockwisePrimitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let results = [&a, &b].map(|operand| (operand.shape(), operand.dtype()));
        let scalars = lora_scalars(weight.layout, scale);
        let operands = [weight.packed, weight.absmax, x, a, b, grad];
        send(LORA_BACKWARD_FACTORS, operands, results, scalars).into()
    }
}

fn size(value: usize) -> ScalarIr {
    ScalarIr::UInt(value as u64)
}

/// Returns the place of a value in the list of all.
fn place<T: PartialEq>(list: &[T], value: T) -> ScalarIr {
    let place = list.iter().position(|it| *it == value);
    size(place.expect("the list is of all values"))
}

fn quant_scalars(config: QuantConfig) -> [ScalarIr; 3] {
    [
        place(&Codebook::ALL, config.codebook),
        size(config.block_size),
        ScalarIr::Bool(config.double_quant),
    ]
}

fn quant_config<B: BackendIr>(call: &mut Call<'_, B>) -> QuantConfig {
    QuantConfig {
        codebook: call.one_of(&Codebook::ALL),
        block_size: call.size(),
        double_quant: call.flag(),
    }
}

/// Returns the layout as scalars, which [`weight`] reads: the shape, whether the format is a file's, and which one.
fn layout_scalars(layout: Layout) -> Vec<ScalarIr> {
    let [out_features, in_features] = layout.shape();
    let mut scalars = vec![size(out_features), size(in_features)];
    match layout.format() {
        Format::Quantized(config) => {
            scalars.push(ScalarIr::Bool(false));
            scalars.extend(quant_scalars(config));
        }
        Format::Gguf(format) => {
            scalars.extend([ScalarIr::Bool(true), place(&GgufFormat::ALL, format)]);
        }
    }
    scalars
}

fn lora_scalars(layout: Layout, scale: f64) -> Vec<ScalarIr> {
    let mut scalars = layout_scalars(layout);
    scalars.push(ScalarIr::Float(scale));
    scalars
}

/// Returns the matrix of a call, its first two operands and what [`layout_scalars`] wrote.
fn weight<B: BackendIr>(call: &mut Call<'_, B>) -> BlockwisePrimitive<B> {
    let [packed, absmax] = [call.int(), call.int()];
    let shape = [call.size(), call.size()];
    let format = match call.flag() {
        true => Format::Gguf(call.one_of(&GgufFormat::ALL)),
        false => Format::Quantized(quant_config(call)),
    };
    let layout = Layout::new(shape, format)
        .unwrap_or_else(|error| panic!("a tensor in blocks that a client sent: {error}"));
    // Kernels take the words of a primitive to be those of its layout.
    let words = [&packed, &absmax].map(|words| words.shape().num_elements());
    let expected = [layout.packed_words(), layout.absmax_words()];
    assert_eq!(
        words, expected,
        "the words of a tensor in blocks that a client sent"
    );
    BlockwisePrimitive {
        packed,
        absmax,
        layout,
    }
}
