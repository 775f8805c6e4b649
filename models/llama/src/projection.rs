//! The linear layers of a block, whatever their weights are made of.

use burn::module::Module;
use burn::nn::{Initializer, LinearConfig};
use burn::tensor::{Device, Tensor};
#[cfg(feature = "qlora")]
use burn_qlora::{LayerMut, LayerRef, Layers, LoraLayers};

use crate::tensors::ProjectionSpec;

/// A linear layer of a block: one of Burn's own that can be trained as a whole, or with the feature `qlora` one with a frozen base
/// and a place for an adapter.
#[cfg(not(feature = "qlora"))]
pub use burn::nn::Linear as Projection;
/// A linear layer of a block: one of Burn's own that can be trained as a whole, or with the feature `qlora` one with a frozen base
/// and a place for an adapter.
#[cfg(feature = "qlora")]
pub use burn_qlora::AnyLinear as Projection;

impl ProjectionSpec {
    /// Returns a dense layer with weights from N(0, 0.02), as LLaMA is initialized, and zero biases.
    pub(crate) fn init(&self, device: &Device) -> Projection {
        let [out_features, in_features] = self.shape;
        let mut linear = LinearConfig::new(in_features, out_features)
            .with_bias(self.bias)
            .with_initializer(Initializer::Normal {
                mean: 0.0,
                std: 0.02,
            })
            .init(device);
        linear.bias = linear
            .bias
            .map(|bias| bias.map(|values| values.zeros_like()));
        Projection::from(linear)
    }
}

/// Linear layers of one input: one matrix each, or a single one that stacks them, as Phi-3 has q, k and v.
#[derive(Module, Debug)]
pub struct Projections {
    /// One for each result, or one for all.
    pub matrices: Vec<Projection>,
    /// Widths of the results.
    pub widths: Vec<usize>,
    /// What checkpoints call each matrix.
    #[module(skip)]
    pub names: Vec<&'static str>,
}

impl Projections {
    pub(crate) fn new(
        specs: &[ProjectionSpec],
        matrices: Vec<Projection>,
        widths: Vec<usize>,
    ) -> Self {
        Self {
            matrices,
            widths,
            names: specs.iter().map(ProjectionSpec::name).collect(),
        }
    }

    /// Maps `x: [.., in_features]` to one tensor `[.., width]` for each of the `N` widths.
    ///
    /// # Panics
    /// When there are not `N` widths.
    pub fn forward<const D: usize, const N: usize>(&self, x: Tensor<D>) -> [Tensor<D>; N] {
        let results: Vec<_> = match self.matrices.as_slice() {
            [stacked] => stacked
                .forward(x)
                .split_with_sizes(self.widths.clone(), D - 1),
            matrices => forward_each(matrices, x),
        };
        let count = results.len();
        results
            .try_into()
            .unwrap_or_else(|_| panic!("{count} projections where {N} are asked for"))
    }
}

/// Maps `x` through each of the layers.
#[cfg(feature = "qlora")]
fn forward_each<const D: usize>(layers: &[Projection], x: Tensor<D>) -> Vec<Tensor<D>> {
    Projection::forward_each(layers, x)
}

/// Maps `x` through each of the layers.
#[cfg(not(feature = "qlora"))]
fn forward_each<const D: usize>(layers: &[Projection], x: Tensor<D>) -> Vec<Tensor<D>> {
    let results = layers.iter().map(|layer| layer.forward(x.clone()));
    results.collect()
}

#[cfg(feature = "qlora")]
impl LoraLayers for Projections {
    fn collect_layers<'a>(&'a self, layers: &mut Layers<LayerRef<'a>>) {
        for (name, matrix) in self.names.iter().zip(&self.matrices) {
            layers.below(name, matrix);
        }
    }

    fn collect_layers_mut<'a>(&'a mut self, layers: &mut Layers<LayerMut<'a>>) {
        for (name, matrix) in self.names.iter().zip(&mut self.matrices) {
            layers.below(name, matrix);
        }
    }
}
