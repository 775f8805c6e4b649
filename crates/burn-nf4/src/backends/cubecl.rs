//! CubeCL: hands the tensors to the kernels of `qlora-cubecl`.

use burn_core::backend::{
    TensorMetadata,
    cubecl::{dtype_to_storage_type, elem_type_to_dtype},
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
use qlora_cubecl::matmul::low_rank::{self, LowRank};
use qlora_cubecl::{KernelError, Weight, dequantize, matmul, quantize};

use crate::ops::{Nf4Ops, Nf4Primitive};

impl Nf4Ops for CubeBackend {
    fn nf4_quantize(weight: FloatTensor<Self>, config: QuantConfig) -> Nf4Primitive<Self> {
        let layout = Layout::new(weight.shape().dims(), config)
            .unwrap_or_else(|error| panic!("nf4_quantize: {error}"));
        let context = Context::of(&weight);
        let words = quantize::quantize(&context.client, lend(weight), layout);
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
        let y = matmul::matmul(&context.client, lend(x), words(weight), direction);
        context.tensor(y)
    }

    fn nf4_lora_matmul(
        x: FloatTensor<Self>,
        weight: Nf4Primitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let context = Context::of(&x);
        let factors = factors(a, b, scale);
        let y = low_rank::forward(&context.client, lend(x), words(weight), factors);
        context.tensor(y)
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
        let (factors, weight) = (factors(a, b, scale), words(weight));
        let gradients = low_rank::backward(&context.client, lend(x), weight, factors, lend(grad));
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
        let (factors, layout) = (factors(a, b, scale), weight.layout);
        let gradients =
            low_rank::backward_factors(&context.client, lend(x), layout, factors, lend(grad));
        context.tensors(gradients).into()
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
        let [tensor] = self.tensors(result.map(|tensor| [tensor]));
        tensor
    }

    /// Returns a kernel's results.
    ///
    /// # Panics
    /// As [`Self::tensor`].
    fn tensors<const N: usize>(
        &self,
        results: Result<[TensorHandle; N], KernelError>,
    ) -> [CubeTensor; N] {
        let tensors = results.unwrap_or_else(|error| panic!("{error}"));
        tensors.map(|tensor| {
            let (client, device) = (self.client.clone(), self.device.clone());
            let dtype = elem_type_to_dtype(tensor.dtype);
            CubeTensor::new(client, tensor.handle, *tensor.metadata, device, dtype)
        })
    }

    /// Returns `len` words.
    fn words(&self, handle: Handle, len: usize) -> CubeTensor {
        let (client, device) = (self.client.clone(), self.device.clone());
        CubeTensor::new_contiguous(client, device, Shape::new([len]), handle, DType::U32)
    }
}

/// Returns the tensor as kernels take it.
fn lend(tensor: CubeTensor) -> TensorHandle {
    untile(tensor).into()
}

/// Returns the factors of a LoRA layer as kernels take them.
fn factors(a: CubeTensor, b: CubeTensor, scale: f64) -> LowRank {
    LowRank {
        a: lend(a),
        b: lend(b),
        scale: scale as f32,
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
