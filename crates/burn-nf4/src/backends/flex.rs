//! Flex: the words are read where they lie, by the CPU kernels of [`nf4`].

use burn_core::backend::{Flex, TensorMetadata, tensor::FloatTensor};
use burn_core::tensor::{Bytes, DType, Element, FloatDType, Shape, bf16, f16};
use burn_flex::{FlexTensor, Layout as FlexLayout};
use nf4::{Direction, MatrixRef, QuantConfig};
use qlora_cpu::low_rank::{self, LowRank};

use crate::{Nf4Ops, Nf4Primitive, ops::matmul_shape};

impl Nf4Ops for Flex {
    fn nf4_quantize(weight: FloatTensor<Self>, config: QuantConfig) -> Nf4Primitive<Self> {
        let shape = weight.shape();
        let shape = [shape[0], shape[1]];
        let weight = weight.to_contiguous();
        let quantized = match weight.dtype() {
            DType::F32 => qlora_cpu::quantize(weight.storage::<f32>(), shape, config),
            DType::F16 => qlora_cpu::quantize(weight.storage::<f16>(), shape, config),
            DType::BF16 => qlora_cpu::quantize(weight.storage::<bf16>(), shape, config),
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
        with_words(&weight, |words| qlora_cpu::dequantize(words, &mut values));
        from_f32(values, shape, dtype.into(), "nf4_dequantize")
    }

    fn nf4_matmul(
        x: FloatTensor<Self>,
        weight: Nf4Primitive<Self>,
        direction: Direction,
    ) -> FloatTensor<Self> {
        let dtype = x.dtype();
        let shape = matmul_shape(&x.shape(), &weight.layout, direction);
        let x = x.to_contiguous();
        match dtype {
            DType::F32 => multiply::<f32>(&x, &weight, shape, direction),
            DType::F16 => multiply::<f16>(&x, &weight, shape, direction),
            DType::BF16 => multiply::<bf16>(&x, &weight, shape, direction),
            dtype => panic!("nf4_matmul: {dtype:?} is not supported, cast x to f32 first"),
        }
    }

    fn nf4_lora_matmul(
        x: FloatTensor<Self>,
        weight: Nf4Primitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let lora = Lora::new(&x, weight, a, b, scale);
        match x.dtype() {
            DType::F32 => lora.forward::<f32>(&x),
            DType::F16 => lora.forward::<f16>(&x),
            DType::BF16 => lora.forward::<bf16>(&x),
            dtype => panic!("nf4_lora_matmul: {dtype:?} is not supported, cast x to f32 first"),
        }
    }

    fn nf4_lora_backward(
        x: FloatTensor<Self>,
        weight: Nf4Primitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let lora = Lora::new(&x, weight, a, b, scale);
        let (dx, da, db) = lora.backward_as(&x, &grad, true);
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
        let lora = Lora::new(&x, weight, a, b, scale);
        let (_, da, db) = lora.backward_as(&x, &grad, false);
        (da, db)
    }
}

/// The product of rows that lie one after another.
fn multiply<E: Number>(
    x: &FlexTensor,
    weight: &Nf4Primitive<Flex>,
    shape: Shape,
    direction: Direction,
) -> FlexTensor {
    let m = shape.iter().rev().skip(1).product();
    let y = with_words(weight, |words| {
        qlora_cpu::matmul_vec(words, x.storage::<E>(), m, direction)
    });
    tensor(y, shape)
}

/// An element type of both Burn and [`nf4`].
trait Number: Element + qlora_cpu::Element + bytemuck::Pod {}

impl<E: Element + qlora_cpu::Element + bytemuck::Pod> Number for E {}

/// A LoRA layer: a packed matrix and f32 factors.
struct Lora {
    weight: Nf4Primitive<Flex>,
    a: FlexTensor,
    b: FlexTensor,
    rank: usize,
    scale: f32,
    /// Of `x`.
    shape: Shape,
}

impl Lora {
    fn new(
        x: &FlexTensor,
        weight: Nf4Primitive<Flex>,
        a: FlexTensor,
        b: FlexTensor,
        scale: f64,
    ) -> Self {
        Self {
            weight,
            rank: a.shape()[1],
            a: a.to_contiguous(),
            b: b.to_contiguous(),
            scale: scale as f32,
            shape: x.shape(),
        }
    }

    fn m(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    fn with<R>(&self, run: impl FnOnce(MatrixRef<'_>, LowRank<'_>) -> R) -> R {
        let (a, b) = (self.a.storage::<f32>(), self.b.storage::<f32>());
        let low_rank = LowRank::new(a, b, self.rank, self.scale);
        with_words(&self.weight, |words| run(words, low_rank))
    }

    fn forward<E: Number>(&self, x: &FlexTensor) -> FlexTensor {
        let x = x.to_contiguous();
        let shape = matmul_shape(&self.shape, &self.weight.layout, Direction::Forward);
        let y = self
            .with(|words, low_rank| low_rank::forward(words, low_rank, x.storage::<E>(), self.m()));
        tensor(y, shape)
    }

    fn backward_as(
        &self,
        x: &FlexTensor,
        grad: &FlexTensor,
        dx: bool,
    ) -> (Option<FlexTensor>, FlexTensor, FlexTensor) {
        match x.dtype() {
            DType::F32 => self.backward::<f32>(x, grad, dx),
            DType::F16 => self.backward::<f16>(x, grad, dx),
            DType::BF16 => self.backward::<bf16>(x, grad, dx),
            dtype => panic!("nf4_lora_backward: {dtype:?} is not supported, cast x to f32 first"),
        }
    }

    /// The gradients of x, if `dx`, of A and of B.
    fn backward<E: Number>(
        &self,
        x: &FlexTensor,
        grad: &FlexTensor,
        dx: bool,
    ) -> (Option<FlexTensor>, FlexTensor, FlexTensor) {
        let (x, grad) = (x.to_contiguous(), grad.to_contiguous());
        let gradients = self.with(|words, low_rank| {
            let (x, grad) = (x.storage::<E>(), grad.storage::<E>());
            low_rank::backward(words, low_rank, x, grad, self.m(), dx)
        });
        (
            gradients.x.map(|dx| tensor(dx, self.shape.clone())),
            tensor(gradients.a, self.a.shape()),
            tensor(gradients.b, self.b.shape()),
        )
    }
}

/// Lends the words of `weight` as slices; they are copied only if they lie strided.
fn with_words<R>(weight: &Nf4Primitive<Flex>, read: impl FnOnce(MatrixRef<'_>) -> R) -> R {
    let packed = contiguous(&weight.packed);
    let absmax = contiguous(&weight.absmax);
    let words = |tensor| {
        FlexTensor::as_slice::<u32>(tensor)
            .unwrap_or_else(|| panic!("an nf4 word tensor must be U32, not {:?}", tensor.dtype()))
    };
    let words = MatrixRef::new(weight.layout, words(&packed), words(&absmax))
        .unwrap_or_else(|error| panic!("malformed nf4 tensor: {error}"));
    read(words)
}

fn contiguous(words: &FlexTensor) -> FlexTensor {
    if words.is_contiguous() {
        words.clone()
    } else {
        words.to_contiguous()
    }
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
