//! The linear layers of a block, whatever their weights are made of.

use burn::module::Module;
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
#[cfg(feature = "qlora")]
use burn_qlora::QLoraLinear;

use crate::tensors::ProjectionSpec;

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

    pub(crate) fn init_spec(spec: &ProjectionSpec, device: &Device) -> Self {
        let [out_features, in_features] = spec.shape;
        Self::init(in_features, out_features, spec.bias, device)
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
/// Linear layers of one input: one matrix each, or a single one that stacks them, as Phi-3 has q, k and v.
#[derive(Module, Debug)]
pub struct Projections {
    /// One for each result, or one for all.
    pub matrices: Vec<Projection>,
    /// Widths of the results.
    pub widths: Vec<usize>,
}

impl Projections {
    /// Maps `x: [.., in_features]` to one tensor `[.., width]` for each of the `N` widths.
    ///
    /// # Panics
    /// When there are not `N` widths.
    pub fn forward<const D: usize, const N: usize>(&self, x: Tensor<D>) -> [Tensor<D>; N] {
        let results: Vec<_> = match self.matrices.as_slice() {
            [stacked] => stacked
                .forward(x)
                .split_with_sizes(self.widths.clone(), D - 1),
            matrices => matrices
                .iter()
                .map(|matrix| matrix.forward(x.clone()))
                .collect(),
        };
        let count = results.len();
        results
            .try_into()
            .unwrap_or_else(|_| panic!("{count} projections where {N} are asked for"))
    }
}
