//! The linear layers of a block, whatever their weights are made of.

use std::slice;

use burn::module::Module;
use burn::nn::{Initializer, LinearConfig};
use burn::tensor::{Device, Tensor};
use burn_fused::{Epilogue, Prologue};
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

    /// Maps `x` to one tensor `[batch, seq, width]` for each of the widths, and those by the epilogue.
    pub(crate) fn forward(&self, x: LayerInput, epilogue: Epilogue<3>) -> Vec<Tensor<3>> {
        let [stacked] = self.matrices.as_slice() else {
            return forward_each(&self.matrices, x, epilogue);
        };
        let all = forward_one(stacked, x, Epilogue::None);
        epilogue.apply(all.split_with_sizes(self.widths.clone(), 2))
    }
}

/// The input of layers: what they take is `x`, `[batch, seq, in_features]`, by the prologue.
#[derive(Clone, Debug)]
pub struct LayerInput {
    /// The values before the prologue.
    pub x: Tensor<3>,
    /// The operation that is computed in one with the layers where that can be.
    pub prologue: Prologue,
}

impl From<Tensor<3>> for LayerInput {
    fn from(x: Tensor<3>) -> Self {
        Self {
            x,
            prologue: Prologue::None,
        }
    }
}

/// Maps `x` through each of the layers, and the results by the epilogue.
#[cfg(feature = "qlora")]
fn forward_each(layers: &[Projection], x: LayerInput, epilogue: Epilogue<3>) -> Vec<Tensor<3>> {
    Projection::forward_fused(layers, x.x, x.prologue, epilogue)
}

/// Maps `x` through each of the layers, and the results by the epilogue.
#[cfg(not(feature = "qlora"))]
fn forward_each(layers: &[Projection], x: LayerInput, epilogue: Epilogue<3>) -> Vec<Tensor<3>> {
    let x = x.prologue.apply(x.x);
    let results = layers.iter().map(|layer| layer.forward(x.clone()));
    epilogue.apply(results.collect())
}

/// Maps `x` through a layer, and the result by an epilogue of one.
pub(crate) fn forward_one(layer: &Projection, x: LayerInput, epilogue: Epilogue<3>) -> Tensor<3> {
    let [result] = exactly(forward_each(slice::from_ref(layer), x, epilogue));
    result
}

/// Returns whether a layer of `x` and an epilogue are computed in one.
#[cfg(feature = "qlora")]
pub(crate) fn fuses(layer: &Projection, x: &Tensor<3>) -> bool {
    layer.adaptable().is_some_and(|layer| layer.fuses(x))
}

/// Returns whether a layer of `x` and an epilogue are computed in one.
#[cfg(not(feature = "qlora"))]
pub(crate) fn fuses(_layer: &Projection, _x: &Tensor<3>) -> bool {
    false
}

/// Returns as many results as are asked for.
///
/// # Panics
/// When there are others.
pub(crate) fn exactly<const N: usize>(results: Vec<Tensor<3>>) -> [Tensor<3>; N] {
    let count = results.len();
    results
        .try_into()
        .unwrap_or_else(|_| panic!("{count} results where {N} are asked for"))
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
