//! One linear layer of a block, whatever its weight is made of.

use burn::module::Module;
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
#[cfg(feature = "qlora")]
use burn_qlora::QLoraLinear;

/// A linear layer of a block: Burn's own, or one with a frozen base and a place for an adapter.
#[derive(Module, Debug)]
// Burn derives no `Module` for a box, and a model has only a few hundred of these.
#[allow(clippy::large_enum_variant)]
pub enum Projection {
    /// A dense layer that can be trained as a whole.
    Dense(Linear),
    /// A frozen base, in 4 bits or dense, that can carry a LoRA adapter.
    #[cfg(feature = "qlora")]
    Frozen(QLoraLinear),
}

impl Projection {
    /// Returns a dense layer with weights from N(0, 0.02), as LLaMA is initialized, and zero biases.
    pub fn init(in_features: usize, out_features: usize, bias: bool, device: &Device) -> Self {
        let mut linear = LinearConfig::new(in_features, out_features)
            .with_bias(bias)
            .with_initializer(Initializer::Normal {
                mean: 0.0,
                std: 0.02,
            })
            .init(device);
        linear.bias = linear
            .bias
            .map(|bias| bias.map(|values| values.zeros_like()));
        Self::Dense(linear)
    }

    /// Maps `x: [.., in_features]` to `[.., out_features]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Dense(linear) => linear.forward(x),
            #[cfg(feature = "qlora")]
            Self::Frozen(linear) => linear.forward(x),
        }
    }
}
