//! The layers of a model that can carry adapters, and what is done to all of them.

use crate::branch::{LoraBranch, room_for};
use crate::config::{LoraConfig, Targets, is_named};
use crate::error::LoraError;
use crate::head::{AdaptableHead, merged_head};
use crate::layers::{Layers, LoraLayers};
use crate::linear::{QLoraLinear, as_on};
use crate::quantize::quantize_layers;
use crate::token_rows::TokenRows;
use burn::module::{Module, Param, ParamGroup, ParamId};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use nf4::QuantConfig;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A model whose linear layers can be quantized and carry adapters.
///
/// `#[derive(LoraModel)]` implements it, by the fields that [`LoraLayers`] tells of; a field's attribute says another name than the
/// field's own where that is not the one in adapter files, which are keyed by the layers' paths, as Hugging Face has them
/// (`model.layers.0.self_attn.q_proj`). The head of a language model is not among the layers: where it can carry an adapter,
/// [`lora_head`](LoraModel::lora_head) says so.
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
    /// layer again, a [`QLoraLinear`] one with a frozen dense weight. Dense layers stay as they are. A head with an adapter has a
    /// weight of its own then.
    fn merge(&mut self) {
        for (_, mut layer) in Layers::of_mut(self) {
            layer.merge();
        }
        let device = self.lora_head().map(|head| head.device);
        if let (Some((path, weight)), Some(device)) = (merged_head(self), device) {
            self.set_head_adapter(None);
            self.replace_weight(&path, as_on(weight, &device));
        }
    }

    /// Returns the head of a language model that can carry an adapter; `None` where there is none, or none that can.
    fn lora_head(&self) -> Option<AdaptableHead<'_>> {
        None
    }

    /// Puts `adapter` on the [head](Self::lora_head) in place of the one that it has.
    fn set_head_adapter(&mut self, adapter: Option<LoraBranch>) {
        let _ = adapter;
    }

    /// Returns the adapters of the layers, in their order, and then that of the head, with the paths of what carries them.
    fn lora_adapters(&self) -> Vec<(String, &LoraBranch)> {
        let linears = self.lora_linears().into_iter();
        let of_layers = linears.filter_map(|(path, linear)| Some((path, linear.adapter.as_ref()?)));
        let head = self.lora_head();
        let of_head = head.and_then(|head| Some((head.path, head.adapter?)));
        of_layers.chain(of_head).collect()
    }

    /// Takes what `update` makes of each of [`lora_adapters`](Self::lora_adapters), in their order, in its place.
    fn update_adapters(&mut self, update: &mut dyn FnMut(LoraBranch) -> LoraBranch) {
        for (_, linear) in self.lora_linears_mut() {
            linear.adapter = linear.adapter.take().map(&mut *update);
        }
        let of_head = self.lora_head().and_then(|head| head.adapter.cloned());
        if let Some(branch) = of_head {
            // So that nobody else holds the factors that are updated.
            self.set_head_adapter(None);
            self.set_head_adapter(Some(update(branch)));
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

    /// Returns the rows of embedding and head that are trained, with the paths of these.
    fn token_rows(&self) -> Vec<(String, &TokenRows)> {
        Vec::new()
    }

    /// Trains `rows` of the weight that [`whole_weights`](Self::whole_weights) names `path`, and of those that share it, in
    /// which they take their places; `None` for no rows any more, of which the weight keeps the last.
    fn set_token_rows(&mut self, path: &str, rows: Option<TokenRows>) {
        let _ = (path, rows);
    }

    /// Takes what `update` makes of each of [`token_rows`](Self::token_rows), in their order, in its place and into its weight.
    fn update_token_rows(&mut self, update: &mut dyn FnMut(Param<Tensor<2>>) -> Param<Tensor<2>>) {
        let _ = update;
    }
}

/// The embedding or the head of a model.
#[derive(Debug, Clone)]
pub struct WholeWeight {
    /// The path of the module, as Hugging Face gives it.
    pub path: String,
    /// The weight, `[vocab, hidden]`.
    pub weight: Tensor<2>,
    /// Whether it is the weight of the one before: the head's of a model with tied embeddings.
    pub shared: bool,
}

/// Attaches fresh adapters to the configured layers, and to a head that is configured by name; others lose theirs. The rows of the configured tokens are trained from
/// what they are.
///
/// A is uniform in ±1/√in_features (peft's `kaiming_uniform_(a=√5)`), B is zero, so the model computes
/// what it computed before. The values depend on the seed and the layer's place alone, not on the device
/// or on which other layers are adapted.
///
/// # Errors
/// [`LoraError::InvalidConfig`], [`LoraError::NothingToAdapt`], [`LoraError::UnknownTarget`], [`LoraError::InvalidPattern`],
/// [`LoraError::UnknownToken`], [`LoraError::NoTable`], [`LoraError::AdaptedRows`] and [`LoraError::TooLarge`]; the model is then
/// unchanged.
pub fn attach_adapters<M: LoraModel>(
    model: &mut M,
    config: &LoraConfig,
    seed: u64,
) -> Result<(), LoraError> {
    config.validate()?;
    let rows = rows_of(model, config)?;
    let linears = model.lora_linears();
    if linears.is_empty() {
        return Err(LoraError::NothingToAdapt);
    }
    let head = model.lora_head();
    let paths: Vec<String> = linears.iter().map(|(path, _)| path.clone()).collect();
    let (layers, of_head) =
        config.of_layers_and_head(&paths, head.as_ref().map(|head| head.path.as_str()))?;
    let fresh = |index: usize, shape, layer: &LoraConfig, device: &Device| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index as u64);
        fresh_branch(shape, layer, &mut rng, device)
    };
    let mut branches = Vec::with_capacity(linears.len());
    for (index, ((_, linear), layer)) in linears.iter().zip(layers).enumerate() {
        let branch = layer.map(|layer| fresh(index, linear.shape(), &layer, &linear.device()));
        branches.push(branch.transpose()?);
    }
    let of_head = match head.zip(of_head) {
        Some((head, _)) if has_rows_of(model, &rows, &head.path) => {
            return Err(LoraError::AdaptedRows { layer: head.path });
        }
        Some((head, layer)) => Some(fresh(linears.len(), head.shape, &layer, &head.device)?),
        None => None,
    };
    for ((_, linear), branch) in model.lora_linears_mut().into_iter().zip(branches) {
        linear.adapter = branch;
    }
    model.set_head_adapter(of_head);
    set_rows(model, rows);
    Ok(())
}

/// Returns whether some of `rows` are of the weight at `path`, or of the one that it shares.
fn has_rows_of<M: LoraModel>(model: &M, rows: &[(String, TokenRows)], path: &str) -> bool {
    let tables = model.whole_weights();
    let place = tables.iter().position(|table| table.path == path);
    let owner = place.map(|place| match tables[place].shared {
        true => &tables[place.saturating_sub(1)],
        false => &tables[place],
    });
    owner.is_some_and(|owner| rows.iter().any(|(path, _)| *path == owner.path))
}

/// Returns the rows of the configured tokens as they are in the model, with the paths of their weights.
fn rows_of<M: LoraModel>(
    model: &M,
    config: &LoraConfig,
) -> Result<Vec<(String, TokenRows)>, LoraError> {
    let tables = model.whole_weights();
    let indices = &config.trainable_token_indices;
    let mut paths = Vec::new();
    for (name, _) in indices.iter() {
        let table = tables.iter().find(|table| is_named(&table.path, name));
        let table = table.ok_or_else(|| LoraError::NoTable {
            layer: name.to_owned(),
        })?;
        paths.push(&table.path);
    }
    let mut rows = Vec::new();
    for WholeWeight { path, weight, .. } in tables.iter().filter(|table| !table.shared) {
        let Some(ids) = indices.of_layer(path) else {
            continue;
        };
        let vocab = weight.dims()[0];
        if let Some(token) = ids.iter().find(|id| **id as usize >= vocab) {
            return Err(LoraError::UnknownToken {
                token: *token,
                layer: path.clone(),
                rows: vocab,
            });
        }
        let places = ids.iter().map(|id| i64::from(*id)).collect();
        let places = TensorData::new::<i64, _>(places, [ids.len()]);
        let places = Tensor::<1, Int>::from_data(places, &weight.device());
        let values = weight.clone().detach().set_require_grad(false);
        let values = values.select(0, places).cast(DType::F32);
        rows.push((path.clone(), TokenRows::new(ids, values)));
    }
    Ok(rows)
}

/// Trains these rows of the weights with these paths, and no others.
pub(crate) fn set_rows<M: LoraModel>(model: &mut M, rows: Vec<(String, TokenRows)>) {
    let before = model.token_rows().into_iter();
    let before: Vec<String> = before.map(|(path, _)| path).collect();
    for path in before {
        model.set_token_rows(&path, None);
    }
    for (path, rows) in rows {
        model.set_token_rows(&path, Some(rows));
    }
}

/// Takes the adapters off all layers and the head. Rows of tokens stay as they are, and are not trained any more.
pub fn detach_adapters<M: LoraModel>(model: &mut M) {
    for (_, linear) in model.lora_linears_mut() {
        linear.adapter = None;
    }
    model.set_head_adapter(None);
    set_rows(model, Vec::new());
}

/// Returns a branch for a layer of `shape` that adds nothing yet.
fn fresh_branch(
    shape: [usize; 2],
    config: &LoraConfig,
    rng: &mut ChaCha8Rng,
    device: &Device,
) -> Result<LoraBranch, LoraError> {
    let rank = config.rank;
    let [b_len, a_len] = shape.map(|width| width.saturating_mul(rank));
    let bound = 1.0 / (shape[1] as f32).sqrt();
    let mut a = room_for(a_len, rank, shape)?;
    // Drawn in peft's order, [rank, in_features].
    a.extend((0..a_len).map(|_| bound * (2.0 * unit(rng) - 1.0)));
    let mut b = room_for(b_len, rank, shape)?;
    b.resize(b_len, 0.0);
    LoraBranch::from_peft(&a, &b, config, device)
}

/// Returns a number in `[0, 1)` from the upper 24 bits of a word: spelled out so that no release of a library
/// changes what a seed means.
pub(crate) fn unit(rng: &mut ChaCha8Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32
}

/// Makes the adapters and the rows of tokens trainable and nothing else, whatever the parameters asked for before.
pub fn freeze_base<M: Module + LoraModel>(model: M) -> M {
    let adapters = ParamGroup::from_ids(trainable(&model));
    model.no_grad().set_require_grad_group(adapters, true)
}

/// Returns the ids of the trainable parameters: A and B of every adapter, in the order of the layers and then the head, then the
/// rows of tokens.
pub fn trainable<M: LoraModel>(model: &M) -> Vec<ParamId> {
    model
        .lora_adapters()
        .into_iter()
        .flat_map(|(_, branch)| [branch.lora.a.id, branch.lora.b.id])
        .chain(model.token_rows().into_iter().map(|(_, rows)| rows.rows.id))
        .collect()
}

/// Returns the number of parameters of all adapters and rows of tokens.
pub fn num_adapter_params<M: LoraModel>(model: &M) -> usize {
    let rows = model.token_rows().into_iter();
    model
        .lora_adapters()
        .into_iter()
        .map(|(_, branch)| branch.num_params())
        .chain(rows.map(|(_, rows)| rows.num_params()))
        .sum()
}
