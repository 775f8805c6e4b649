//! Flex: hands values and words where they lie to the kernels of `qlora-cpu`.

use burn_core::backend::{Flex, TensorMetadata, tensor::FloatTensor};
use burn_core::tensor::{Bytes, DType, Element, FloatDType, Shape, bf16, f16};
use burn_flex::{FlexTensor, Layout};
use nf4::{Direction, MatrixRef, QuantConfig};
use qlora_cpu::low_rank::{self, LowRank};
use qlora_cpu::{dequantize_vec, matmul_vec, quantize};

use crate::ops::{Nf4Ops, Nf4Primitive, matmul_shape};

/// Runs `$body` with `$E` the element type of `$dtype`.
macro_rules! with_element {
    ($operation:literal, $dtype:expr, $way_out:literal, $E:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $E = f32;
                $body
            }
            DType::F16 => {
                type $E = f16;
                $body
            }
            DType::BF16 => {
                type $E = bf16;
                $body
            }
            dtype => panic!(
                concat!($operation, ": {:?} is not supported, ", $way_out),
                dtype
            ),
        }
    };
}

impl Nf4Ops for Flex {
    fn nf4_quantize(weight: FloatTensor<Self>, config: QuantConfig) -> Nf4Primitive<Self> {
        let shape = weight.shape().dims();
        let weight = weight.to_contiguous();
        let matrix = with_element!("nf4_quantize", weight.dtype(), "cast to f32 first", E => {
            quantize(weight.storage::<E>(), shape, config)
        });
        let matrix = matrix.unwrap_or_else(|error| panic!("nf4_quantize: {error}"));
        let (layout, packed, absmax) = matrix.into_parts();
        Nf4Primitive {
            packed: tensor(packed, Shape::new([layout.packed_words()])),
            absmax: tensor(absmax, Shape::new([layout.absmax_words()])),
            layout,
        }
    }

    fn nf4_dequantize(weight: Nf4Primitive<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        let weight = contiguous(weight);
        with_element!("nf4_dequantize", dtype.into(), "use f32, f16 or bf16", E => {
            tensor(dequantize_vec::<E>(matrix(&weight)), Shape::new(weight.layout.shape()))
        })
    }

    fn nf4_matmul(
        x: FloatTensor<Self>,
        weight: Nf4Primitive<Self>,
        direction: Direction,
    ) -> FloatTensor<Self> {
        let shape = matmul_shape(&x.shape(), &weight.layout, direction);
        let (x, weight) = (x.to_contiguous(), contiguous(weight));
        with_element!("nf4_matmul", x.dtype(), "cast x to f32 first", E => {
            tensor(matmul_vec(matrix(&weight), x.storage::<E>(), rows(&x), direction), shape)
        })
    }

    fn nf4_lora_matmul(
        x: FloatTensor<Self>,
        weight: Nf4Primitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let shape = matmul_shape(&x.shape(), &weight.layout, Direction::Forward);
        let [x, a, b] = [x, a, b].map(|tensor| tensor.to_contiguous());
        let (weight, factors) = (contiguous(weight), factors(&a, &b, scale));
        with_element!("nf4_lora_matmul", x.dtype(), "cast x to f32 first", E => {
            tensor(low_rank::forward(matrix(&weight), factors, x.storage::<E>(), rows(&x)), shape)
        })
    }

    fn nf4_lora_backward(
        x: FloatTensor<Self>,
        weight: Nf4Primitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (dx, da, db) = lora_backward([x, a, b, grad], weight, scale, true);
        (dx.expect("the gradient of x was asked for"), da, db)
    }

    fn nf4_lora_backward_factors(
        x: FloatTensor<Self>,
        weight: Nf4Primitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (_, da, db) = lora_backward([x, a, b, grad], weight, scale, false);
        (da, db)
    }
}

/// Returns the gradients of x, if `wants_dx`, of A and of B.
fn lora_backward(
    tensors: [FlexTensor; 4],
    weight: Nf4Primitive<Flex>,
    scale: f64,
    wants_dx: bool,
) -> (Option<FlexTensor>, FlexTensor, FlexTensor) {
    let [x, a, b, grad] = tensors.map(|tensor| tensor.to_contiguous());
    let (weight, factors, m) = (contiguous(weight), factors(&a, &b, scale), rows(&x));
    with_element!("nf4_lora_backward", x.dtype(), "cast x to f32 first", E => {
        let (x_values, grad) = (x.storage::<E>(), grad.storage::<E>());
        let gradients = low_rank::backward(matrix(&weight), factors, x_values, grad, m, wants_dx);
        let dx = gradients.x.map(|dx| tensor(dx, x.shape()));
        (dx, tensor(gradients.a, a.shape()), tensor(gradients.b, b.shape()))
    })
}

/// Returns the matrix with words that lie one after another.
fn contiguous(weight: Nf4Primitive<Flex>) -> Nf4Primitive<Flex> {
    // A contiguous part of a larger storage is read where it lies.
    let words = |words: FlexTensor| match words.as_slice::<u32>() {
        Some(_) => words,
        None => words.to_contiguous(),
    };
    Nf4Primitive {
        packed: words(weight.packed),
        absmax: words(weight.absmax),
        layout: weight.layout,
    }
}

/// Views the words of a [`contiguous`] matrix.
fn matrix(weight: &Nf4Primitive<Flex>) -> MatrixRef<'_> {
    let [packed, absmax] = [&weight.packed, &weight.absmax].map(|words| {
        FlexTensor::as_slice(words)
            .unwrap_or_else(|| panic!("an nf4 word tensor must be U32, not {:?}", words.dtype()))
    });
    MatrixRef::new(weight.layout, packed, absmax)
        .unwrap_or_else(|error| panic!("malformed nf4 tensor: {error}"))
}

/// Views contiguous factors of a LoRA layer.
fn factors<'a>(a: &'a FlexTensor, b: &'a FlexTensor, scale: f64) -> LowRank<'a> {
    LowRank::new(a.storage(), b.storage(), a.shape()[1], scale as f32)
}

/// Returns the product of all dimensions but the last.
fn rows(x: &FlexTensor) -> usize {
    x.shape().iter().rev().skip(1).product()
}

fn tensor<E: Element + bytemuck::Pod + Send + Sync>(values: Vec<E>, shape: Shape) -> FlexTensor {
    let layout = Layout::contiguous(shape);
    FlexTensor::new(Bytes::from_elems(values), layout, E::dtype())
}
