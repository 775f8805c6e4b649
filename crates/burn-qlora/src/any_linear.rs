//! The linear layer of a model that is dense first and in 4 bits later.

use std::fmt;

use burn::config::Config;
use burn::module::{
    Content, Devices, DisplaySettings, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
    ModuleVisitor,
};
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use burn_fused::{Epilogue, Prologue};
use nf4::QuantConfig;

use crate::error::LoraError;
use crate::linear::QLoraLinear;

/// A linear layer that is dense, as Burn's own, until it is quantized, and then frozen with a place for an adapter.
///
/// It has the `forward` of Burn's [`Linear`] and takes its place in a module by a change of the field's type. The parameters have
/// the paths that they have in the layer it is: of a dense one those of a [`Linear`], so that a record or a checkpoint of a module
/// with [`Linear`]s in these places is read into it, PyTorch's too (burn-store's `PyTorchToBurnAdapter` transposes what it knows by
/// the type `Linear`). A record of one kind is refused by a layer of the other: what is saved after
/// [`quantize`](Self::quantize) is loaded after it.
///
/// Embeddings and convolutions are not served: QLoRA quantizes the linear layers. A convolution with a kernel of size 1 is a linear
/// layer over the channels, and can be written as one.
#[derive(Clone, Debug)]
// Burn has no `Module` for a box, and a model has only a few hundred of these.
#[allow(clippy::large_enum_variant)]
pub enum AnyLinear {
    /// Burn's layer, which can be trained as a whole.
    Dense(Linear),
    /// A frozen base, in 4 bits or kept dense, that can carry a LoRA adapter.
    Quantized(QLoraLinear),
}

/// The shape of an [`AnyLinear`] and its first values, those of Burn's [`LinearConfig`].
///
/// A layer whose weight is saved transposed, [`LinearLayout::Col`](burn::nn::LinearLayout::Col), is a [`Linear`] of that configuration
/// by [`AnyLinear::from`].
#[derive(Config, Debug)]
pub struct AnyLinearConfig {
    /// Width of the input.
    pub d_input: usize,
    /// Width of the output.
    pub d_output: usize,
    /// Whether there is a bias.
    #[config(default = true)]
    pub bias: bool,
    /// The values that the parameters begin with.
    #[config(
        default = "Initializer::KaimingUniform{gain: 1.0 / f64::sqrt(3.0), fan_out_only: false}"
    )]
    pub initializer: Initializer,
}

impl AnyLinearConfig {
    /// Returns a dense layer. As in any of Burn's, its values come into being when they are first asked for.
    pub fn init(&self, device: &Device) -> AnyLinear {
        LinearConfig::new(self.d_input, self.d_output)
            .with_bias(self.bias)
            .with_initializer(self.initializer.clone())
            .init(device)
            .into()
    }
}

impl From<Linear> for AnyLinear {
    fn from(linear: Linear) -> Self {
        Self::Dense(linear)
    }
}

impl From<QLoraLinear> for AnyLinear {
    fn from(linear: QLoraLinear) -> Self {
        Self::Quantized(linear)
    }
}

impl AnyLinear {
    /// Maps `x: [..., in_features]` to `[..., out_features]`, in x's dtype.
    ///
    /// # Panics
    /// As the `forward` of the layer it is.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Dense(linear) => linear.forward(x),
            Self::Quantized(linear) => linear.forward(x),
        }
    }

    /// Maps `x: [..., in_features]` through each of some layers, as [`forward`](Self::forward) does: together where all of them
    /// are quantized ([`QLoraLinear::forward_each`]).
    ///
    /// # Panics
    /// As the `forward` of any of the layers.
    pub fn forward_each<const D: usize>(layers: &[Self], x: Tensor<D>) -> Vec<Tensor<D>> {
        Self::forward_fused(layers, x, Prologue::None, Epilogue::None)
    }

    /// Returns the results of the `epilogue` of [`forward_each`](Self::forward_each), whose `x` goes through the `prologue` before, as
    /// [`QLoraLinear::forward_fused`] does for layers that all are quantized.
    ///
    /// # Panics
    /// As the `forward` of any of the layers, and as prologue and epilogue.
    pub fn forward_fused<const D: usize>(
        layers: &[Self],
        x: Tensor<D>,
        prologue: Prologue,
        epilogue: Epilogue<D>,
    ) -> Vec<Tensor<D>> {
        let quantized: Option<Vec<_>> = layers.iter().map(Self::adaptable).collect();
        if let Some(layers) = quantized {
            return QLoraLinear::forward_fused(&layers, x, prologue, epilogue);
        }
        let x = prologue.apply(x);
        let products = layers.iter().map(|layer| layer.forward(x.clone()));
        epilogue.apply(products.collect())
    }

    /// Returns the shape, `[out_features, in_features]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(linear) => {
                let [in_features, out_features] = linear.weight.lazy_shape().dims();
                [out_features, in_features]
            }
            Self::Quantized(linear) => linear.shape(),
        }
    }

    /// Returns the layer if it can carry an adapter, as it cannot while it is dense.
    pub fn adaptable(&self) -> Option<&QLoraLinear> {
        match self {
            Self::Dense(_) => None,
            Self::Quantized(linear) => Some(linear),
        }
    }

    /// Returns the layer, to be changed, if it can carry an adapter, as it cannot while it is dense.
    pub fn adaptable_mut(&mut self) -> Option<&mut QLoraLinear> {
        match self {
            Self::Dense(_) => None,
            Self::Quantized(linear) => Some(linear),
        }
    }

    /// Quantizes the weight where it is and lets the dense one go; the bias stays as it is. What is in 4 bits already stays so.
    ///
    /// # Errors
    /// [`LoraError::Quantize`] when the configuration is invalid, or the weight holds what is not finite; the layer is then as it
    /// was.
    pub fn quantize(&mut self, config: QuantConfig) -> Result<(), LoraError> {
        match self {
            // The parameters are handles: this layer's dense values are gone once the last is.
            Self::Dense(linear) => *self = QLoraLinear::from_linear(linear.clone(), config)?.into(),
            Self::Quantized(linear) => linear.quantize(config)?,
        }
        Ok(())
    }

    /// Makes Burn's own layer of it again, dense, with the adapter folded in.
    pub fn merge(&mut self) {
        if let Self::Quantized(linear) = self {
            *self = linear.merged().into();
        }
    }
}

/// Nothing but the layer that it is: no level in a parameter's path tells of the kind.
impl Module for AnyLinear {
    fn collect_devices(&self, devices: Devices) -> Devices {
        match self {
            Self::Dense(linear) => linear.collect_devices(devices),
            Self::Quantized(linear) => linear.collect_devices(devices),
        }
    }

    fn fork(self, device: &Device) -> Self {
        match self {
            Self::Dense(linear) => linear.fork(device).into(),
            Self::Quantized(linear) => linear.fork(device).into(),
        }
    }

    fn to_device(self, device: &Device) -> Self {
        match self {
            Self::Dense(linear) => linear.to_device(device).into(),
            Self::Quantized(linear) => linear.to_device(device).into(),
        }
    }

    fn train(self) -> Self {
        match self {
            Self::Dense(linear) => linear.train().into(),
            Self::Quantized(linear) => linear.train().into(),
        }
    }

    fn valid(&self) -> Self {
        match self {
            Self::Dense(linear) => linear.valid().into(),
            Self::Quantized(linear) => linear.valid().into(),
        }
    }

    fn materialize(self) -> Self {
        match self {
            Self::Dense(linear) => linear.materialize().into(),
            Self::Quantized(linear) => linear.materialize().into(),
        }
    }

    fn visit<Visitor: ModuleVisitor>(&self, visitor: &mut Visitor) {
        match self {
            Self::Dense(linear) => linear.visit(visitor),
            Self::Quantized(linear) => linear.visit(visitor),
        }
    }

    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        match self {
            Self::Dense(linear) => linear.map(mapper).into(),
            Self::Quantized(linear) => linear.map(mapper).into(),
        }
    }
}

impl ModuleDisplayDefault for AnyLinear {
    fn content(&self, content: Content) -> Option<Content> {
        match self {
            Self::Dense(linear) => linear.content(content),
            Self::Quantized(linear) => linear.content(content),
        }
    }

    fn num_params(&self) -> usize {
        Module::num_params(self)
    }
}

impl ModuleDisplay for AnyLinear {
    fn format(&self, settings: DisplaySettings) -> String {
        match self {
            Self::Dense(linear) => linear.format(settings),
            Self::Quantized(linear) => linear.format(settings),
        }
    }
}

impl fmt::Display for AnyLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.format(DisplaySettings::default()))
    }
}
