//! The adapters of a file, put on a model.

use burn::tensor::{DType, Tensor, TensorData};

use crate::branch::LoraBranch;
use crate::config::{LoraConfig, Targets, short_name};
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
        } else if let Some(values) = fitted.whole(&path, || to_host(weight, &path))? {
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

    for ((_, linear), branch) in model.lora_linears_mut().into_iter().zip(branches) {
        linear.adapter = branch;
    }
    for (path, weight) in replaced {
        model.replace_weight(&path, weight);
    }
    set_rows(model, rows);
    Ok(fitted.into_config())
}

/// Returns what describes `adapter` on a model whose layers that can carry adapters are `paths`.
///
/// # Errors
/// As [`Adapter::config`].
pub(super) fn config(adapter: &Adapter, paths: &[String]) -> Result<LoraConfig, LoraError> {
    let mut contents = adapter.contents()?;
    contents.find_layers(paths);
    describe(adapter, &contents, paths, |path| {
        EMBEDDING_LAYER_NAMES.contains(&short_name(path))
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
