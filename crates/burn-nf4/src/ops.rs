//! The backend extension: the operations on an NF4 matrix that every backend must have.

use burn_core as burn;
use burn_core::backend::{Backend, backend_extension, tensor::FloatTensor};
use burn_core::tensor::{FloatDType, Shape};
use burn_fused::{EpiloguePrimitive, FusedOps, ProloguePrimitive};
use nf4::{Direction, Layout, QuantConfig};

use crate::primitive::{BlockwisePrimitive, GradientsPrimitive, LayersPrimitive};
use crate::reference;

/// Operations on NF4 matrices supplied by a backend extension.
///
/// Every operation has a default body composed of the backend's own products, which decodes the matrix a few rows at a time on
/// the host; a backend overrides the ones it has kernels for.
///
/// Callers validate ([`BlockwiseTensor`](crate::BlockwiseTensor) does): an implementation may panic on a shape
/// or dtype that its doc excludes.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(any(
        feature = "wgpu",
        feature = "vulkan",
        feature = "metal",
        feature = "webgpu",
        feature = "cuda",
        feature = "rocm",
        feature = "cpu"
    )),
    NdArray: cfg(feature = "ndarray"),
    LibTorch: cfg(feature = "tch"),
    Remote: cfg(feature = "remote"),
    Capture: cfg(feature = "capture"),
    Fusion: cfg(feature = "fusion"),
    Autodiff: cfg(feature = "autodiff"),
)]
pub trait BlockwiseOps: Backend + FusedOps {
    /// Quantizes `weight: [out_features, in_features]` (f32) on its device, with the same bits on
    /// every backend (bitsandbytes `quantize_4bit`, nearest code at both levels).
    #[fusion(meta = quantize_meta)]
    fn blockwise_quantize(
        weight: FloatTensor<Self>,
        config: QuantConfig,
    ) -> BlockwisePrimitive<Self> {
        reference::quantize::<Self>(weight, config)
    }

    /// Decodes the whole matrix to `[out_features, in_features]` of `dtype`, f32 values exact.
    #[fusion(meta = dequantize_meta)]
    fn blockwise_dequantize(
        #[extension_type] weight: BlockwisePrimitive<Self>,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        reference::dequantize::<Self>(weight, dtype)
    }

    /// Returns `x · Wᵀ` for `x: [.., in_features]`, or, transposed, `x · W` for `x: [.., out_features]`.
    ///
    /// Accumulates in f32; the result has the dtype of `x` (f32, f16 or bf16). Either direction is
    /// the other's backward pass. No dense matrix is formed.
    #[fusion(meta = matmul_meta)]
    fn blockwise_matmul(
        x: FloatTensor<Self>,
        #[extension_type] weight: BlockwisePrimitive<Self>,
        direction: Direction,
    ) -> FloatTensor<Self> {
        reference::matmul::<Self>(x, weight, direction)
    }

    /// Returns `x · Wᵀ + scale · (x · A) · B`, a LoRA layer as one operation.
    ///
    /// `x: [.., in_features]` (f32, f16 or bf16), `a: [in_features, rank]`, `b: [rank, out_features]`
    /// (f32). Accumulates in f32; the result has the dtype of `x`.
    #[fusion(default)]
    fn blockwise_lora_matmul(
        x: FloatTensor<Self>,
        #[extension_type] weight: BlockwisePrimitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        reference::lora_matmul::<Self>(x, weight, a, b, scale)
    }

    /// Returns the results of layers that have `x` as their input, each that of [`Self::blockwise_matmul`] forward, or of
    /// [`Self::blockwise_lora_matmul`] if it is adapted.
    #[fusion(default)]
    fn blockwise_layers(
        x: FloatTensor<Self>,
        #[extension_type] layers: LayersPrimitive<Self>,
    ) -> Vec<FloatTensor<Self>> {
        reference::layers::<Self>(x, layers)
    }

    /// Returns the results of an epilogue of [`Self::blockwise_layers`], whose input goes through a prologue before: for
    /// generation, where each operation of its own costs a launch.
    ///
    /// What goes from one to the next may keep more than the dtype of `x`.
    #[fusion(default)]
    fn blockwise_fused_layers(
        x: FloatTensor<Self>,
        #[extension_type] prologue: ProloguePrimitive<Self>,
        #[extension_type] layers: LayersPrimitive<Self>,
        #[extension_type] epilogue: EpiloguePrimitive<Self>,
    ) -> Vec<FloatTensor<Self>> {
        reference::fused_layers::<Self>(x, prologue, layers, epilogue)
    }

    /// Returns the gradients of the operands of [`Self::blockwise_layers`] from those of its results: that of `x`, if `wants_dx`,
    /// then those of `a` and `b` of every layer that is adapted.
    #[fusion(default)]
    fn blockwise_layers_backward(
        x: FloatTensor<Self>,
        #[extension_type] layers: LayersPrimitive<Self>,
        #[extension_type] grads: GradientsPrimitive<Self>,
        wants_dx: bool,
    ) -> Vec<FloatTensor<Self>> {
        reference::layers_backward::<Self>(x, layers, grads, wants_dx)
    }

    /// Returns the gradients of `x`, `a` and `b` from the operands of [`Self::blockwise_lora_matmul`] and `grad`, the
    /// gradient of its result.
    #[fusion(default)]
    fn blockwise_lora_backward(
        x: FloatTensor<Self>,
        #[extension_type] weight: BlockwisePrimitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        reference::lora_backward::<Self>(x, weight, a, b, scale, grad)
    }

    /// Returns [`Self::blockwise_lora_backward`] without the gradient of `x`, for layers that nothing trainable feeds.
    #[fusion(default)]
    fn blockwise_lora_backward_factors(
        x: FloatTensor<Self>,
        #[extension_type] weight: BlockwisePrimitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        reference::lora_backward_factors::<Self>(x, weight, a, b, scale, grad)
    }
}

/// Returns the shape of [`BlockwiseOps::blockwise_matmul`]'s result: that of `x` with its last dimension replaced.
pub(crate) fn matmul_shape(x: &Shape, layout: &Layout, direction: Direction) -> Shape {
    let [_, n] = direction.widths(layout.shape());
    let mut shape = x.clone();
    let last = shape.num_dims() - 1;
    shape[last] = n;
    shape
}

#[cfg(feature = "fusion")]
use fusion_meta::{dequantize_meta, matmul_meta, quantize_meta};

/// The output metadata that Fusion needs before the operation has run.
#[cfg(feature = "fusion")]
mod fusion_meta {
    use super::*;
    use crate::primitive::BlockwisePrimitiveMetadata;
    use burn_core::backend::fusion::custom::TensorSpec;
    use burn_core::tensor::DType;

    pub(super) fn quantize_meta(
        weight: &TensorSpec,
        config: &QuantConfig,
    ) -> BlockwisePrimitiveMetadata {
        let shape = [weight.shape[0], weight.shape[1]];
        let layout = Layout::new(shape, *config)
            .unwrap_or_else(|error| panic!("blockwise_quantize: {error}"));
        let words = |len: usize| TensorSpec {
            shape: Shape::new([len]),
            dtype: DType::U32,
        };
        BlockwisePrimitiveMetadata {
            packed: words(layout.packed_words()),
            absmax: words(layout.absmax_words()),
            layout,
        }
    }

    pub(super) fn dequantize_meta(
        weight: &BlockwisePrimitiveMetadata,
        dtype: &FloatDType,
    ) -> TensorSpec {
        TensorSpec {
            shape: Shape::new(weight.layout.shape()),
            dtype: (*dtype).into(),
        }
    }

    pub(super) fn matmul_meta(
        x: &TensorSpec,
        weight: &BlockwisePrimitiveMetadata,
        direction: &Direction,
    ) -> TensorSpec {
        TensorSpec {
            shape: matmul_shape(&x.shape, &weight.layout, *direction),
            dtype: x.dtype,
        }
    }
}
