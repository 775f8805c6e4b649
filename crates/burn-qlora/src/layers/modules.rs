//! What a module may be made of beside linear layers.

use std::marker::PhantomData;

use burn::module::{Param, ParameterValue, RunningState};
use burn::nn::conv::{
    Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d, DeformConv2d,
};
use burn::nn::interpolate::{Interpolate1d, Interpolate2d};
use burn::nn::norm::Normalization;
use burn::nn::pool::{
    AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d, AvgPool1d, AvgPool2d, MaxPool1d,
    MaxPool2d,
};
use burn::nn::{
    BatchNorm, CosineSimilarity, Dropout, Embedding, GaussianNoise, GroupNorm, Identity,
    InstanceNorm, LayerNorm, LocalResponseNorm, PairwiseDistance, PixelShuffle, PixelUnshuffle,
    PositionalEncoding, RmsNorm, RotaryEncoding, Unfold4d, activation, loss,
};
use burn::tensor::Tensor;
use burn::tensor::kind::Basic;

use crate::branch::LoraBranch;
use crate::layers::{LayerMut, LayerRef, Layers, LoraLayers};
use crate::token_rows::TokenRows;

/// Implements the trait for modules without linear layers.
macro_rules! without_layers {
    ($([$($parameters:tt)*] $module:ty),* $(,)?) => {
        $(impl<$($parameters)*> LoraLayers for $module {
            fn collect_layers<'a>(&'a self, _layers: &mut Layers<LayerRef<'a>>) {}

            fn collect_layers_mut<'a>(&'a mut self, _layers: &mut Layers<LayerMut<'a>>) {}
        })*
    };
    ($($module:ty),* $(,)?) => {
        without_layers!($([] $module),*);
    };
}

without_layers!(
    [V: ParameterValue] Param<V>,
    [const D: usize, K: Basic] Tensor<D, K>,
    [V] RunningState<V>,
    [T: ?Sized] PhantomData<T>,
);
without_layers!(bool, String, f32, f64);
without_layers!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);
without_layers!(
    Embedding,
    LoraBranch,
    TokenRows,
    PositionalEncoding,
    RotaryEncoding
);
without_layers!(
    BatchNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LocalResponseNorm,
    Normalization,
    RmsNorm
);
without_layers!(
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    DeformConv2d
);
without_layers!(
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AvgPool1d,
    AvgPool2d,
    MaxPool1d,
    MaxPool2d
);
without_layers!(
    Interpolate1d,
    Interpolate2d,
    PixelShuffle,
    PixelUnshuffle,
    Unfold4d
);
without_layers!(
    CosineSimilarity,
    Dropout,
    GaussianNoise,
    Identity,
    PairwiseDistance
);
without_layers!(
    activation::Celu,
    activation::Elu,
    activation::GLU,
    activation::Gelu,
    activation::HardShrink,
    activation::HardSigmoid,
    activation::HardSwish,
    activation::Hardtanh,
    activation::LeakyRelu,
    activation::LogSigmoid,
    activation::Mish,
    activation::PRelu,
    activation::RRelu,
    activation::Relu,
    activation::Relu6,
    activation::Selu,
    activation::Shrink,
    activation::SiLU,
    activation::Sigmoid,
    activation::SoftShrink,
    activation::Softplus,
    activation::Softsign,
    activation::Tanh,
    activation::Tanhshrink,
    activation::Threshold,
    activation::ThresholdedRelu,
);
without_layers!(
    loss::BinaryCrossEntropyLoss,
    loss::CrossEntropyLoss,
    loss::HuberLoss,
    loss::KLDivLoss,
    loss::MseLoss,
    loss::SmoothL1Loss,
);
