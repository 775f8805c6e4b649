//! CubeCL: hands the tensors to the kernels of `qlora-cubecl`. A LoRA layer is the reference's: its thin products are the
//! backend's own.

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
