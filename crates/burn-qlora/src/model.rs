//! The layers of a model that can carry adapters, and what is done to all of them.

use crate::branch::{LoraBranch, room_for};
use crate::config::{LoraConfig, Targets};
use crate::error::LoraError;
use crate::layers::{Layers, LoraLayers};
use crate::linear::QLoraLinear;
use crate::quantize::quantize_layers;
use burn::module::{Module, ParamGroup, ParamId};
use burn::tensor::Tensor;
use nf4::QuantConfig;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A model whose linear layers can be quantized and carry adapters.
///
/// `#[derive(LoraModel)]` implements it, by the fields that [`LoraLayers`] tells of; a field's attribute says another name than the
/// field's own where that is not the one in adapter files, which are keyed by the layers' paths, as Hugging Face has them
/// (`model.layers.0.self_attn.q_proj`). The head of a language model is not among the layers.
///
/// ```
/// use burn::module::Module;
/// use burn::nn::{LayerNorm, Linear};
/// use burn_qlora::{AnyLinear, LoraModel};
///
/// #[derive(Module, LoraModel, Debug)]
/// struct Classifier {
///     #[lora(name = "encoder.layer")]
///     blocks: Vec<Block>,
///     /// Stays dense.
///     #[lora(skip)]
///     head: Linear,
/// }
///
/// #[derive(Module, LoraModel, Debug)]
/// struct Block {
///     norm: LayerNorm,
///     query: AnyLinear, // encoder.layer.0.query
///     key: AnyLinear,
/// }
/// ```
pub trait LoraModel: LoraLayers {
    /// Returns the layers that can carry an adapter, with their paths: those that are not dense.
    fn lora_linears(&self) -> Vec<(String, &QLoraLinear)> {
        let layers = Layers::of(self).into_iter();
        layers
            .filter_map(|(path, layer)| Some((path, layer.adaptable()?)))
            .collect()
    }

    /// Returns the same layers in the same order, to be changed.
    fn lora_linears_mut(&mut self) -> Vec<(String, &mut QLoraLinear)> {
        let layers = Layers::of_mut(self).into_iter();
        layers
            .filter_map(|(path, layer)| Some((path, layer.adaptable()?)))
            .collect()
    }

    /// Quantizes the weights of all layers where they are, as [`quantize_targets`](Self::quantize_targets) does.
    ///
    /// # Errors
    /// Those of [`quantize_targets`](Self::quantize_targets).
    fn quantize(&mut self, config: &QuantConfig) -> Result<(), LoraError> {
        self.quantize_targets(&Targets::AllLinear, config)
    }

    /// Quantizes the weights of the layers that `targets` means where they are, one after the other. A dense weight goes before that
    /// of the next layer is touched: beside the model, memory holds what quantizing one layer takes. Of a model that was only just
    /// initialized, whose parameters Burn makes when they are asked for, no more than one dense weight ever exists. Layers
    /// that are quantized already stay as they are.
    ///
    /// # Errors
    /// [`LoraError::NoLayers`]; [`LoraError::Quantize`] for a configuration that is invalid, [`LoraError::UnknownTarget`] and
    /// [`LoraError::InvalidPattern`]: the model is then unchanged. [`LoraError::QuantizeLayer`] for a weight that cannot be
    /// quantized: the layers before it are then.
    fn quantize_targets(
        &mut self,
        targets: &Targets,
        config: &QuantConfig,
    ) -> Result<(), LoraError> {
        quantize_layers(Layers::of_mut(self), targets, *config)
    }

    /// Folds all adapters into their weights, which are dense from then on: an [`AnyLinear`](crate::AnyLinear) becomes Burn's own
    /// layer again, a [`QLoraLinear`] one with a frozen dense weight. Dense layers stay as they are.
    fn merge(&mut self) {
        for (_, mut layer) in Layers::of_mut(self) {
            layer.merge();
        }
    }

    /// Returns the weights beside these layers that an adapter may bring: of a language model the embedding and the head.
    fn whole_weights(&self) -> Vec<WholeWeight> {
        Vec::new()
    }

    /// Puts `weight` in the place of the one that [`whole_weights`](Self::whole_weights) names `path`, of the same shape and
    /// dtype, frozen. A head that was the embedding is a weight of its own from then on.
    fn replace_weight(&mut self, path: &str, weight: Tensor<2>) {
        let _ = (path, weight);
    }
}

/// The embedding or the head of a model, which carry no adapter of their own.
#[derive(Debug, Clone)]
pub struct WholeWeight {
    /// The path of the module, as Hugging Face gives it.
    pub path: String,
    /// The weight, `[vocab, hidden]`.
    pub weight: Tensor<2>,
    /// Whether it is the weight of the one before: the head's of a model with tied embeddings.
    pub shared: bool,
}

/// Attaches fresh adapters to the configured layers; other layers lose theirs.
///
/// A is uniform in ±1/√in_features (peft's `kaiming_uniform_(a=√5)`), B is zero, so the model computes
/// what it computed before. The values depend on the seed and the layer's place alone, not on the device
/// or on which other layers are adapted.
///
/// # Errors
/// [`LoraError::InvalidConfig`], [`LoraError::NothingToAdapt`], [`LoraError::UnknownTarget`], [`LoraError::InvalidPattern`] and
/// [`LoraError::TooLarge`]; the model is then unchanged.
pub fn attach_adapters<M: LoraModel>(
    model: &mut M,
    config: &LoraConfig,
    seed: u64,
) -> Result<(), LoraError> {
    config.validate()?;
    let mut linears = model.lora_linears_mut();
    if linears.is_empty() {
        return Err(LoraError::NothingToAdapt);
    }
    let paths: Vec<String> = linears.iter().map(|(path, _)| path.clone()).collect();
    let layers = config.of_layers(&paths)?;
    let mut branches = Vec::with_capacity(linears.len());
    for (index, ((_, linear), layer)) in linears.iter().zip(layers).enumerate() {
        let branch = layer.map(|layer| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(index as u64);
            fresh_branch(linear, &layer, &mut rng)
        });
        branches.push(branch.transpose()?);
    }
    for ((_, linear), branch) in linears.iter_mut().zip(branches) {
        linear.adapter = branch;
    }
    Ok(())
}

/// Takes the adapters off all layers.
pub fn detach_adapters<M: LoraModel>(model: &mut M) {
    for (_, linear) in model.lora_linears_mut() {
        linear.adapter = None;
    }
}

/// Returns a branch for `linear` that adds nothing yet.
fn fresh_branch(
    linear: &QLoraLinear,
    config: &LoraConfig,
    rng: &mut ChaCha8Rng,
) -> Result<LoraBranch, LoraError> {
    let (rank, shape) = (config.rank, linear.shape());
    let [b_len, a_len] = shape.map(|width| width.saturating_mul(rank));
    let bound = 1.0 / (shape[1] as f32).sqrt();
    let mut a = room_for(a_len, rank, shape)?;
    // Drawn in peft's order, [rank, in_features].
    a.extend((0..a_len).map(|_| bound * (2.0 * unit(rng) - 1.0)));
    let mut b = room_for(b_len, rank, shape)?;
    b.resize(b_len, 0.0);
    LoraBranch::from_peft(&a, &b, config, &linear.device())
}

/// Returns a number in `[0, 1)` from the upper 24 bits of a word: spelled out so that no release of a library
/// changes what a seed means.
pub(crate) fn unit(rng: &mut ChaCha8Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32
}

/// Makes the adapters trainable and nothing else, whatever the parameters asked for before.
pub fn freeze_base<M: Module + LoraModel>(model: M) -> M {
    let adapters = ParamGroup::from_ids(trainable(&model));
    model.no_grad().set_require_grad_group(adapters, true)
}

/// Returns the ids of the trainable parameters: A and B of every adapter, in the order of the layers.
pub fn trainable<M: LoraModel>(model: &M) -> Vec<ParamId> {
    model
        .lora_linears()
        .into_iter()
        .filter_map(|(_, linear)| linear.adapter.as_ref())
        .flat_map(|branch| [branch.lora.a.id, branch.lora.b.id])
        .collect()
}

/// Returns the number of parameters of all adapters.
pub fn num_adapter_params<M: LoraModel>(model: &M) -> usize {
    model
        .lora_linears()
        .into_iter()
        .filter_map(|(_, linear)| linear.adapter.as_ref())
        .map(LoraBranch::num_params)
        .sum()
}
