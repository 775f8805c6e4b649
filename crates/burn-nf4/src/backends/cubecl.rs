//! CubeCL: hands the tensors to the kernels of `qlora-cubecl`. The thin products of a LoRA layer are the backend's own.

use burn_core::backend::{
    TensorMetadata,
    cubecl::{dtype_to_storage_type, elem_type_to_dtype},
    ops::FloatTensorOps,
    tensor::FloatTensor,
};
use burn_core::tensor::{DType, FloatDType, Shape};
use burn_cubecl::{
    CubeBackend, CubeDevice,
    kernel::{into_contiguous, untile},
    tensor::CubeTensor,
};
use cubecl::{client::Client, server::Handle, std::tensor::TensorHandle};
use nf4::{Direction, Layout, QuantConfig};
use qlora_cubecl::{KernelError, Weight, dequantize, matmul, quantize};

use crate::ops::{Nf4Ops, Nf4Primitive};

impl Nf4Ops for CubeBackend {
    fn nf4_quantize(weight: FloatTensor<Self>, config: QuantConfig) -> Nf4Primitive<Self> {
        let layout = Layout::new(weight.shape().dims(), config)
            .unwrap_or_else(|error| panic!("nf4_quantize: {error}"));
        let context = Context::of(&weight);
        let words = quantize::quantize(&context.client, untile(weight).into(), layout);
        let words = words.unwrap_or_else(|error| panic!("{error}"));
        Nf4Primitive {
            packed: context.words(words.packed, layout.packed_words()),
            absmax: context.words(words.absmax, layout.absmax_words()),
            layout,
        }
    }

    fn nf4_dequantize(weight: Nf4Primitive<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        let context = Context::of(&weight.packed);
        let dtype = dtype_to_storage_type(dtype.into());
        context.tensor(dequantize::dequantize(
            &context.client,
            &words(weight),
            dtype,
        ))
    }

    fn nf4_matmul(
        x: FloatTensor<Self>,
        weight: Nf4Primitive<Self>,
        direction: Direction,
    ) -> FloatTensor<Self> {
        let context = Context::of(&x);
        let y = matmul::matmul(&context.client, untile(x).into(), words(weight), direction);
        context.tensor(y)
    }

    fn nf4_lora_matmul(
        x: FloatTensor<Self>,
        weight: Nf4Primitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let y = Self::nf4_matmul(x.clone(), weight, Direction::Forward);
        let xa = scaled(product(rows(x), a), scale);
        add(y, product(xa, b))
    }

    fn nf4_lora_backward(
        x: FloatTensor<Self>,
        weight: Nf4Primitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let dx = Self::nf4_matmul(grad.clone(), weight, Direction::Transposed);
        let dxa = scaled(product(rows(grad.clone()), transposed(b)), scale);
        let dx = add(dx, product(dxa.clone(), transposed(a.clone())));
        let (da, db) = factor_gradients(x, a, scale, grad, dxa);
        (dx, da, db)
    }

    fn nf4_lora_backward_factors(
        x: FloatTensor<Self>,
        _: Nf4Primitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let dxa = scaled(product(rows(grad.clone()), transposed(b)), scale);
        factor_gradients(x, a, scale, grad, dxa)
    }
}

/// Returns `xᵀ · dxa` and `(scale · x · A)ᵀ · grad`.
fn factor_gradients(
    x: CubeTensor,
    a: CubeTensor,
    scale: f64,
    grad: CubeTensor,
    dxa: CubeTensor,
) -> (CubeTensor, CubeTensor) {
    let x = rows(x);
    let da = product(transposed(x.clone()), dxa);
    let xa = scaled(product(x, a), scale);
    (da, product(transposed(xa), rows(grad)))
}

/// Returns the tensor as an f32 matrix of its rows.
fn rows(tensor: CubeTensor) -> CubeTensor {
    let shape = tensor.shape();
    let last = shape[shape.num_dims() - 1];
    let m = shape.iter().rev().skip(1).product();
    cast(
        CubeBackend::float_reshape(tensor, Shape::new([m, last])),
        DType::F32,
    )
}

fn product(lhs: CubeTensor, rhs: CubeTensor) -> CubeTensor {
    CubeBackend::float_matmul(lhs, rhs)
}

fn transposed(matrix: CubeTensor) -> CubeTensor {
    CubeBackend::float_transpose(matrix)
}

fn scaled(tensor: CubeTensor, scale: f64) -> CubeTensor {
    CubeBackend::float_mul_scalar(tensor, scale.into())
}

/// Returns `y` plus a matrix of as many values.
fn add(y: CubeTensor, delta: CubeTensor) -> CubeTensor {
    let delta = CubeBackend::float_reshape(cast(delta, y.dtype), y.shape());
    CubeBackend::float_add(y, delta)
}

fn cast(tensor: CubeTensor, dtype: DType) -> CubeTensor {
    if tensor.dtype == dtype {
        tensor
    } else {
        CubeBackend::float_cast(tensor, dtype.into())
    }
}

/// The client and device of an operation's operands and results.
struct Context {
    client: Client,
    device: CubeDevice,
}

impl Context {
    fn of(tensor: &CubeTensor) -> Self {
        Self {
            client: tensor.client.clone(),
            device: tensor.device.clone(),
        }
    }

    /// Returns a kernel's result.
    ///
    /// # Panics
    /// When the kernel refused its operands, with its reason.
    fn tensor(&self, result: Result<TensorHandle, KernelError>) -> CubeTensor {
        let tensor = result.unwrap_or_else(|error| panic!("{error}"));
        let (client, device) = (self.client.clone(), self.device.clone());
        let dtype = elem_type_to_dtype(tensor.dtype);
        CubeTensor::new(client, tensor.handle, *tensor.metadata, device, dtype)
    }

    /// Returns `len` words.
    fn words(&self, handle: Handle, len: usize) -> CubeTensor {
        let (client, device) = (self.client.clone(), self.device.clone());
        CubeTensor::new_contiguous(client, device, Shape::new([len]), handle, DType::U32)
    }
}

/// Returns the weight as kernels take it. Word tensors are contiguous unless a caller sliced them.
fn words(weight: Nf4Primitive<CubeBackend>) -> Weight {
    Weight {
        packed: into_contiguous(weight.packed).handle,
        absmax: into_contiguous(weight.absmax).handle,
        layout: weight.layout,
    }
}
