//! The backend extension: what a backend must be able to do with state in pages.

use std::sync::Arc;

use burn_core as burn;
use burn_core::backend::{Backend, backend_extension, tensor::FloatTensor};
use nf4::adamw::AdamWStep;

use crate::slot::{Slot, SlotInit};

/// Updates of parameters whose state is paged.
///
/// Pages are brought in, kept and written back by the backend's own means: on Flex, NdArray and LibTorch they live in a file
/// and pass through two buffers in RAM; on a CubeCL device they live in host memory and pass through two
/// buffers on the device. What goes wrong on the way (an operation has no other way to say it) is kept
/// in the slot's pool, where the optimizer looks.
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
    Fusion: cfg(feature = "fusion"),
)]
pub trait PagedOps: Backend {
    /// Opens the store of `slot`'s pages on the device of `like`, which comes back as it is, so that moments can
    /// be written before the first update.
    #[fusion(meta = like_first)]
    fn paged_open(like: FloatTensor<Self>, slot: Arc<Slot>) -> FloatTensor<Self>;

    /// Applies one AdamW update (see [`AdamWStep`]) to `param` by `grad`, both f32 of the same shape, and to the
    /// moments in `slot`, initialised as `init` says. One pass over all four.
    #[fusion(meta = like_param)]
    fn paged_adamw(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        slot: Arc<Slot>,
        init: SlotInit,
        step: AdamWStep,
    ) -> FloatTensor<Self>;
}

#[cfg(feature = "fusion")]
use fusion_meta::{like_first, like_param};

/// The output metadata that Fusion needs before the operation has run.
#[cfg(feature = "fusion")]
mod fusion_meta {
    use super::*;
    use burn_core::backend::fusion::custom::TensorSpec;

    pub(super) fn like_first(like: &TensorSpec, _: &Arc<Slot>) -> TensorSpec {
        TensorSpec {
            shape: like.shape.clone(),
            dtype: like.dtype,
        }
    }

    pub(super) fn like_param(
        param: &TensorSpec,
        _: &TensorSpec,
        _: &Arc<Slot>,
        _: &SlotInit,
        _: &AdamWStep,
    ) -> TensorSpec {
        TensorSpec {
            shape: param.shape.clone(),
            dtype: param.dtype,
        }
    }
}
