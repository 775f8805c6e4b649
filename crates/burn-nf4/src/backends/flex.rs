//! Flex: the words are read where they lie, by the CPU kernels of [`nf4`].

use burn_core::backend::{Flex, TensorMetadata, tensor::FloatTensor};
use burn_core::tensor::{Bytes, DType, Element, FloatDType, Shape, bf16, f16};
use burn_flex::{FlexTensor, Layout as FlexLayout};
use nf4::{Direction, MatrixRef, QuantConfig};

use crate::{Nf4Ops, Nf4Primitive, ops::matmul_shape};

impl Nf4Ops for Flex {
    fn nf4_quantize(weight: FloatTensor<Self>, config: QuantConfig) -> Nf4Primitive<Self> {
        let shape = weight.shape();
        let shape = [shape[0], shape[1]];
        let weight = weight.to_contiguous();
        let quantized = match weight.dtype() {
            DType::F32 => nf4::quantize(weight.storage::<f32>(), shape, config),
            DType::F16 => nf4::quantize(weight.storage::<f16>(), shape, config),
            DType::BF16 => nf4::quantize(weight.storage::<bf16>(), shape, config),
            dtype => panic!("nf4_quantize: {dtype:?} is not supported, cast to f32 first"),
        }
        .unwrap_or_else(|error| panic!("nf4_quantize: {error}"));
        let (layout, packed, absmax) = quantized.into_parts();
        Nf4Primitive {
            packed: tensor(packed, [layout.packed_words()].into()),
            absmax: tensor(absmax, [layout.absmax_words()].into()),
            layout,
        }
    }

    fn nf4_dequantize(weight: Nf4Primitive<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        let shape = Shape::new(weight.layout.shape());
        let mut values = vec![0.0f32; weight.layout.elements()];
        with_words(&weight, |words| nf4::dequantize(words, &mut values));
        from_f32(values, shape, dtype.into(), "nf4_dequantize")
    }

    fn nf4_matmul(
        x: FloatTensor<Self>,
        weight: Nf4Primitive<Self>,
        transposed: bool,
    ) -> FloatTensor<Self> {
        let dtype = x.dtype();
        let shape = matmul_shape(&x.shape(), &weight.layout, transposed);
        let direction = if transposed {
            Direction::Transposed
        } else {
            Direction::Forward
        };
        let x = x.to_contiguous();
        let m = shape.iter().rev().skip(1).product();
        let mut y = vec![0.0f32; shape.num_elements()];
        let mut multiply =
            |x: &[f32]| with_words(&weight, |words| nf4::matmul(words, x, m, &mut y, direction));
        match dtype {
            DType::F32 => multiply(x.storage::<f32>()),
            DType::F16 => multiply(&widen::<f16>(&x, f16::to_f32)),
            DType::BF16 => multiply(&widen::<bf16>(&x, bf16::to_f32)),
            dtype => panic!("nf4_matmul: {dtype:?} is not supported, cast x to f32 first"),
        }
        from_f32(y, shape, dtype, "nf4_matmul")
    }
}

/// Lends the words of `weight` as slices; they are copied only if they lie strided.
fn with_words(weight: &Nf4Primitive<Flex>, read: impl FnOnce(MatrixRef<'_>)) {
    let packed = contiguous(&weight.packed);
    let absmax = contiguous(&weight.absmax);
    let words = |tensor| {
        FlexTensor::as_slice::<u32>(tensor)
            .unwrap_or_else(|| panic!("an nf4 word tensor must be U32, not {:?}", tensor.dtype()))
    };
    let words = MatrixRef::new(weight.layout, words(&packed), words(&absmax))
        .unwrap_or_else(|error| panic!("malformed nf4 tensor: {error}"));
    read(words);
}

fn contiguous(words: &FlexTensor) -> FlexTensor {
    if words.is_contiguous() {
        words.clone()
    } else {
        words.to_contiguous()
    }
}

fn widen<E: Element + bytemuck::Pod>(x: &FlexTensor, to_f32: fn(E) -> f32) -> Vec<f32> {
    x.storage::<E>()
        .iter()
        .map(|&value| to_f32(value))
        .collect()
}

fn from_f32(values: Vec<f32>, shape: Shape, dtype: DType, operation: &str) -> FlexTensor {
    match dtype {
        DType::F32 => tensor(values, shape),
        DType::F16 => tensor(values.into_iter().map(f16::from_f32).collect(), shape),
        DType::BF16 => tensor(values.into_iter().map(bf16::from_f32).collect(), shape),
        dtype => panic!("{operation}: {dtype:?} is not supported, use f32, f16 or bf16"),
    }
}

fn tensor<E: Element + bytemuck::Pod + Send + Sync>(values: Vec<E>, shape: Shape) -> FlexTensor {
    FlexTensor::new(
        Bytes::from_elems(values),
        FlexLayout::contiguous(shape),
        E::dtype(),
    )
}
