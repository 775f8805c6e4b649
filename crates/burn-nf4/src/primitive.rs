//! Matrices and layers as a backend sees them.

use burn_core as burn;
use burn_core::backend::{
    Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind,
    ExtensionType,
    tensor::{FloatTensor, IntTensor},
};
use nf4::Layout;

/// An NF4 matrix as a backend sees it: two 1-D tensors of `u32` words and their layout.
///
/// Every part that a device holds is an integer tensor on purpose: nothing that walks over float
/// tensors (a dtype cast, an optimizer, a gradient) can touch a quantized weight.
#[derive(ExtensionType, Clone, Debug)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub struct BlockwisePrimitive<B: Backend> {
    /// The codes, `[packed_words]`, eight of 4 bits or four of 8 bits a word, the first in the lowest bits; of U32, or of
    /// I32 with the same bits where the backend has no U32.
    pub packed: IntTensor<B>,
    /// The block scales, `[absmax_words]`, in the sections that [`Layout`] describes.
    pub absmax: IntTensor<B>,
    /// Shape `[out_features, in_features]` and format.
    pub layout: Layout,
}

/// A linear layer as a backend sees it.
#[derive(ExtensionType, Clone, Debug)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub enum LayerPrimitive<B: Backend> {
    /// A matrix.
    Base {
        /// `[out_features, in_features]`.
        #[extension_type]
        weight: BlockwisePrimitive<B>,
    },
    /// A matrix with a low-rank one on top, `Wᵀ + scale · A · B`.
    Adapted {
        /// `[out_features, in_features]`.
        #[extension_type]
        weight: BlockwisePrimitive<B>,
        /// `[in_features, rank]`, f32.
        a: FloatTensor<B>,
        /// `[rank, out_features]`, f32.
        b: FloatTensor<B>,
        /// The factor of the low-rank product.
        scale: f64,
    },
}

/// The linear layers of one input.
#[derive(Clone, Debug)]
pub struct LayersPrimitive<B: Backend>(pub Vec<LayerPrimitive<B>>);

/// Layer by layer; Burn derives this for what has a fixed number of fields.
impl<B: Backend> ExtensionType<B> for LayersPrimitive<B> {
    type Target = LayersPrimitive<Dispatch>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        let layers = self.0.into_iter();
        LayersPrimitive(
            layers
                .map(|layer| layer.map_to_dispatch(&map_kind, autodiff))
                .collect(),
        )
    }

    fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        let layers = target.0.into_iter();
        Self(
            layers
                .map(|layer| LayerPrimitive::map_from_dispatch(layer, &unwrap_kind))
                .collect(),
        )
    }

    fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target
            .0
            .iter()
            .find_map(<LayerPrimitive<B> as ExtensionType<B>>::routing_tensor)
    }

    fn routing_float_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target
            .0
            .iter()
            .find_map(<LayerPrimitive<B> as ExtensionType<B>>::routing_float_tensor)
    }

    fn autodiff_context(target: &Self::Target) -> DispatchAutodiffContext {
        let contexts = target
            .0
            .iter()
            .map(<LayerPrimitive<B> as ExtensionType<B>>::autodiff_context);
        contexts.fold(DispatchAutodiffContext::Disabled, |all, one| all.merge(one))
    }
}

/// The gradients of the results of layers.
#[derive(Clone, Debug)]
pub struct GradientsPrimitive<B: Backend>(pub Vec<FloatTensor<B>>);

/// Tensor by tensor, as Burn derives it for a fixed number of them.
impl<B: Backend> ExtensionType<B> for GradientsPrimitive<B> {
    type Target = GradientsPrimitive<Dispatch>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        let tensors = self.0.into_iter().map(|tensor| DispatchTensor {
            kind: map_kind(BackendTensor::Float(tensor)),
            autodiff,
        });
        GradientsPrimitive(tensors.collect())
    }

    fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        let tensors = target.0.into_iter();
        Self(tensors.map(|tensor| unwrap_kind(tensor).float()).collect())
    }

    fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn routing_float_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn autodiff_context(target: &Self::Target) -> DispatchAutodiffContext {
        let contexts = target.0.iter().map(|tensor| tensor.autodiff);
        contexts.fold(DispatchAutodiffContext::Disabled, |all, one| all.merge(one))
    }
}
