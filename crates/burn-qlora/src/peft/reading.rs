//! The adapters of a file, put on a model.

use burn::tensor::{DType, Tensor, TensorData};

use crate::branch::LoraBranch;
use crate::config::{LoraConfig, Targets, is_named, short_name};
use crate::error::LoraError;
use crate::factors::Factors;
use crate::model::{LoraModel, WholeWeight, set_rows};
use crate::peft::contents::{Contents, another_model};
use crate::peft::fitted::{AdaptableLayers, WholeLayer};
use crate::peft::mlx;
use crate::peft::names::{of_mlx, of_peft};
use crate::peft::{Adapter, Format};
use crate::token_rows::TokenRows;

/// Puts the adapters of `adapter` on `model`, once everything is read and checked, and returns what describes them.
///
/// # Errors
/// As [`Adapter::attach`].
pub(super) fn attach<M: LoraModel>(
    model: &mut M,
    adapter: &Adapter,
) -> Result<LoraConfig, LoraError> {
    let linears = model.lora_linears();
    let head = model.lora_head();
    let head_path = head.as_ref().map(|head| head.path.clone());
    let whole = model.whole_weights();
    let layers = AdaptableLayers {
        linears: linears
            .iter()
            .map(|(path, linear)| (path.clone(), linear.shape()))
            .collect(),
        whole: whole.iter().map(WholeLayer::from).collect(),
    };
    let fitted = adapter.fit(&layers)?;

    // Everything is read and made before the first layer is touched.
    let (mut replaced, mut rows) = (Vec::new(), Vec::new());
    let mut as_they_are = Vec::new();
    let mut of_head = None;
    for WholeWeight {
        path,
        weight,
        shared,
    } in whole
    {
        let (shape, device, dtype) = (weight.dims(), weight.device(), weight.dtype());
        if !fitted.changes_whole(&path) {
            let values = if shared { None } else { fitted.rows(&path)? };
            if let (Some(values), Some(ids)) = (values, fitted.tokens(&path)) {
                let values = TensorData::new(values, [ids.len(), shape[1]]);
                let values = Tensor::from_data(values, (&device, DType::F32));
                rows.push((path, TokenRows::new(ids, values)));
            }
            continue;
        }
        let factors = fitted.factors_of_whole(&path)?;
        let can_carry = factors.is_none() || head_path.as_ref() == Some(&path);
        if can_carry && fitted.tokens(&path).is_none() && fitted.keeps_whole(&path) {
            let is_own = match fitted.saved(&path)? {
                Some(saved) => {
                    let saved = TensorData::new(saved, shape);
                    let saved = Tensor::<2>::from_data(saved, (&device, dtype));
                    to_host(saved, &path)? == to_host(weight.clone(), &path)?
                }
                None => true,
            };
            if is_own {
                as_they_are.push(path);
                of_head = of_head.or(factors);
                continue;
            }
        }
        if let Some(values) = fitted.whole(&path, || to_host(weight, &path))? {
            let data = TensorData::new(values, shape);
            replaced.push((path, Tensor::<2>::from_data(data, (&device, dtype))));
        }
    }
    let branches = linears
        .iter()
        .map(|(path, linear)| {
            let Some(Factors { a, b, config }) = fitted.factors(path)? else {
                return Ok(None);
            };
            LoraBranch::from_peft(&a, &b, &config, &linear.device()).map(Some)
        })
        .collect::<Result<Vec<_>, LoraError>>()?;
    let paths: Vec<String> = linears.iter().map(|(path, _)| path.clone()).collect();
    let of_head = match (head, of_head) {
        (Some(head), Some(Factors { a, b, config })) => {
            Some(LoraBranch::from_peft(&a, &b, &config, &head.device)?)
        }
        _ => None,
    };
    let described = on_model(
        adapter,
        fitted.into_config(),
        paths,
        head_path.filter(|_| of_head.is_some()),
        &as_they_are,
    )?;

    for ((_, linear), branch) in model.lora_linears_mut().into_iter().zip(branches) {
        linear.adapter = branch;
    }
    model.set_head_adapter(of_head);
    for (path, weight) in replaced {
        model.replace_weight(&path, weight);
    }
    set_rows(model, rows);
    Ok(described)
}

/// Returns `fitted`, which describes `adapter` on a model with the layers `paths`, without the embedding or head that the file has
/// `as_they_are` in the model, and with the `head` among the layers, where it carries the factors that the file has of it.
fn on_model(
    adapter: &Adapter,
    mut fitted: LoraConfig,
    mut paths: Vec<String>,
    head: Option<String>,
    as_they_are: &[String],
) -> Result<LoraConfig, LoraError> {
    fitted
        .modules_to_save
        .retain(|name| !as_they_are.iter().any(|path| is_named(path, name)));
    if head.is_none() {
        return Ok(fitted);
    }
    let mut contents = adapter.contents()?;
    contents.find_layers(&[as_they_are, &paths].concat());
    paths.extend(head);
    Ok(LoraConfig {
        modules_to_save: fitted.modules_to_save,
        trainable_token_indices: fitted.trainable_token_indices,
        ..describe(adapter, &contents, &paths, |_| false)?
    })
}

/// Returns what describes `adapter` on a model whose layers that can carry adapters are `paths`.
///
/// # Errors
/// As [`Adapter::config`].
pub(super) fn config(adapter: &Adapter, paths: &[String]) -> Result<LoraConfig, LoraError> {
    let mut contents = adapter.contents()?;
    contents.find_layers(paths);
    let carries = |path: &str| {
        paths.iter().any(|known| known == path) && contents.factored().any(|known| known == path)
    };
    describe(adapter, &contents, paths, |path| {
        EMBEDDING_LAYER_NAMES.contains(&short_name(path)) && !carries(path)
    })
}

/// What embedding and head are called in peft, where the model is not at hand.
const EMBEDDING_LAYER_NAMES: [&str; 2] = ["embed_tokens", "lm_head"];

/// Returns what describes `adapter`, whose tensors are `contents`; `is_whole` tells embedding and head by their paths.
///
/// # Errors
/// As [`Adapter::config`].
pub(super) fn describe(
    adapter: &Adapter,
    contents: &Contents<'_>,
    paths: &[String],
    is_whole: impl Fn(&str) -> bool,
) -> Result<LoraConfig, LoraError> {
    let file = adapter.weights.path();
    if let Format::Mlx(scope) = &adapter.format {
        let blocks = mlx::blocks(paths);
        let over = |path: &str| Some((path.to_owned(), scope.passes_over(path, blocks)?));
        if let Some((path, why)) = contents.factored().find_map(over) {
            let reason = format!("it has tensors of `{path}`, but {why}");
            return Err(another_model(file, reason));
        }
    }
    let mut config = adapter.config.clone();
    let is_linear = |path: &&str| paths.iter().any(|known| known == path);
    if adapter.targets_of_the_tensors {
        let targets = contents.factored().filter(is_linear);
        config.targets = Targets::Names(targets.map(str::to_owned).collect());
    }
    let mut beside: Vec<String> = contents
        .whole_layers()
        .filter(|path| is_whole(path))
        .map(|path| short_name(path).to_owned())
        .collect();
    beside.dedup();
    config.modules_to_save = beside;
    config
        .fitted_to(paths)
        .map_err(|error| another_model(file, error.to_string()))
}

impl Adapter {
    /// Sorts the tensors of the weight file.
    ///
    /// # Errors
    /// [`LoraError::Malformed`] for a tensor that no ordinary LoRA has.
    pub(super) fn contents(&self) -> Result<Contents<'_>, LoraError> {
        Contents::new(
            &self.weights,
            match self.format {
                Format::Peft => of_peft,
                Format::Mlx(_) => of_mlx,
            },
        )
    }
}

/// Copies a weight to the host, in f32.
fn to_host(weight: Tensor<2>, path: &str) -> Result<Vec<f32>, LoraError> {
    let device_error = |reason: String| LoraError::Device {
        name: path.to_owned(),
        reason,
    };
    let weight = weight.without_autodiff().cast(DType::F32);
    let data = weight
        .try_into_data()
        .map_err(|error| device_error(error.to_string()))?;
    data.try_to_vec::<f32>()
        .map_err(|error| device_error(error.to_string()))
}
