//! The adapters of a file, put on a model.

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::branch::LoraBranch;
use crate::config::{LoraConfig, Targets, is_named, short_name};
use crate::error::LoraError;
use crate::model::{LoraModel, WholeWeight};
use crate::peft::contents::{Contents, Stored, another_model};
use crate::peft::mlx;
use crate::peft::names::{Part, of_mlx, of_peft};
use crate::peft::{Adapter, Format};

/// Puts the adapters of `adapter` on `model`, once everything is read and checked, and returns what describes them.
///
/// # Errors
/// As [`Adapter::attach`].
pub(super) fn attach<M: LoraModel>(
    model: &mut M,
    adapter: &Adapter,
) -> Result<LoraConfig, LoraError> {
    let file = &adapter.weights;
    let linears: Vec<Layer> = model
        .lora_linears()
        .into_iter()
        .map(|(path, linear)| Layer {
            path,
            shape: linear.shape(),
            device: linear.device(),
        })
        .collect();
    let paths: Vec<String> = linears.iter().map(|layer| layer.path.clone()).collect();
    let whole = model.whole_weights();

    // Everything is checked and made before the first layer is touched.
    let mut contents = adapter.contents()?;
    let beside: Vec<String> = whole.iter().map(|weight| weight.path.clone()).collect();
    contents.find_layers(&[beside.clone(), paths.clone()].concat());
    let config = describe(adapter, &contents, &paths, |path| {
        beside.iter().any(|known| known == path)
    })?;
    let layers = if config.targets == Targets::Names(Vec::new()) {
        vec![None; paths.len()]
    } else {
        let layers = config.of_layers(&paths);
        layers.map_err(|error| another_model(file.path(), error.to_string()))?
    };
    let reader = Reader {
        transposed: matches!(adapter.format, Format::Mlx(_)),
    };
    let replaced = reader.whole_weights(&mut contents, &adapter.config, whole)?;
    let mut branches = Vec::with_capacity(linears.len());
    for (linear, layer) in linears.iter().zip(layers) {
        let branch = layer.map(|layer| reader.branch(&mut contents, linear, &layer));
        branches.push(branch.transpose()?);
    }
    if let Some(left) = contents.left() {
        return Err(another_model(file.path(), fits_nothing(left, adapter)));
    }
    if replaced.is_empty() && branches.iter().all(Option::is_none) {
        let reason = "it has no tensor for any layer of this one".to_owned();
        return Err(another_model(file.path(), reason));
    }

    for ((_, linear), branch) in model.lora_linears_mut().into_iter().zip(branches) {
        linear.adapter = branch;
    }
    for (path, weight) in replaced {
        model.replace_weight(&path, weight);
    }
    Ok(config)
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

fn describe(
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
        .layers()
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

/// A layer that can carry an adapter.
struct Layer {
    path: String,
    /// `[out_features, in_features]`.
    shape: [usize; 2],
    device: Device,
}

/// Reads factors.
struct Reader {
    /// Whether factors are `[in, rank]` and `[rank, out]`, as mlx-lm has them, and not `[rank, in]` and `[out, rank]`.
    transposed: bool,
}

impl Reader {
    /// Reads the adapter of a layer.
    fn branch(
        &self,
        contents: &mut Contents<'_>,
        layer: &Layer,
        config: &LoraConfig,
    ) -> Result<LoraBranch, LoraError> {
        let [out_features, in_features] = layer.shape;
        let a = contents.need(&layer.path, Part::A)?;
        let b = contents.need(&layer.path, Part::B)?;
        // Both shapes before any value.
        self.check(&a, [("rank", config.rank), ("in_features", in_features)])?;
        self.check(&b, [("out_features", out_features), ("rank", config.rank)])?;
        let (a, b) = (self.read(&a, config.rank)?, self.read(&b, out_features)?);
        LoraBranch::from_peft(&a, &b, config, &layer.device)
    }

    /// Returns the embedding and the head as the adapter has them, those of them that it changes. `base` are those of the model.
    ///
    /// What low-rank factors add to them is added here: neither is a layer that carries an adapter.
    fn whole_weights(
        &self,
        contents: &mut Contents<'_>,
        config: &LoraConfig,
        base: Vec<WholeWeight>,
    ) -> Result<Vec<(String, Tensor<2>)>, LoraError> {
        let mut replaced = Vec::new();
        // A weight that stands in the file as the model's own, not as a module of the adapter: in peft it goes to the head as
        // well that shares it.
        let mut of_the_model: Option<Tensor<2>> = None;
        for WholeWeight {
            path,
            weight,
            shared,
        } in base
        {
            let shape = weight.dims();
            let (device, dtype) = (weight.device(), weight.dtype());
            let saves = config
                .modules_to_save
                .iter()
                .any(|name| is_named(&path, name));
            let saved = if saves {
                Some(contents.need(&path, Part::Weight)?)
            } else {
                contents.take(&path, Part::Weight)
            };
            let saved = saved.map(|saved| read_whole(&saved, shape)).transpose()?;
            let on_device = |values: Vec<f32>| {
                Tensor::<2>::from_data(TensorData::new(values, shape), (&device, dtype))
            };
            let inherited = of_the_model.take().filter(|_| shared);
            if !saves && let Some(saved) = &saved {
                of_the_model = Some(on_device(saved.clone()));
            }
            let delta = self.delta(contents, &path, &weight, config)?;
            let replacement = match (saved, inherited, delta) {
                (None, None, None) => continue,
                (None, Some(inherited), None) => inherited,
                (saved, inherited, delta) => {
                    let mut values = match saved {
                        Some(saved) => saved,
                        None => to_host(inherited.unwrap_or(weight), &path)?,
                    };
                    for (value, change) in values.iter_mut().zip(delta.into_iter().flatten()) {
                        *value += change;
                    }
                    on_device(values)
                }
            };
            replaced.push((path, replacement));
        }
        Ok(replaced)
    }

    /// Returns what the factors of the embedding or the head at `path` add to it, `[vocab, hidden]`, row-major, `None` where there
    /// are none.
    fn delta(
        &self,
        contents: &mut Contents<'_>,
        path: &str,
        weight: &Tensor<2>,
        config: &LoraConfig,
    ) -> Result<Option<Vec<f32>>, LoraError> {
        let [vocab, hidden] = weight.dims();
        let own = config.of_layer(path)?;
        let rank = own.rank;
        let device = weight.device().without_autodiff();
        let tensor = |values, shape: [usize; 2]| {
            Tensor::<2>::from_data(TensorData::new(values, shape), (&device, DType::F32))
        };
        let product = if let Some(a) = contents.take(path, Part::A) {
            let b = contents.need(path, Part::B)?;
            self.check(&a, [("rank", rank), ("in_features", hidden)])?;
            self.check(&b, [("out_features", vocab), ("rank", rank)])?;
            let (a, b) = (self.read(&a, rank)?, self.read(&b, vocab)?);
            tensor(b, [vocab, rank]).matmul(tensor(a, [rank, hidden]))
        } else if let Some(a) = contents.take(path, Part::EmbeddingA) {
            let b = contents.need(path, Part::EmbeddingB)?;
            self.check(&a, [("rank", rank), ("vocab_size", vocab)])?;
            self.check(&b, [("hidden_size", hidden), ("rank", rank)])?;
            let (a, b) = (
                tensor(a.read()?, [rank, vocab]),
                tensor(b.read()?, [hidden, rank]),
            );
            a.transpose().matmul(b.transpose())
        } else {
            return Ok(None);
        };
        to_host(product.mul_scalar(own.scale()), path).map(Some)
    }

    /// Checks the shape of a factor, given in peft's orientation with the names of its axes.
    fn check(&self, stored: &Stored<'_>, mut axes: [(&str, usize); 2]) -> Result<(), LoraError> {
        if self.transposed {
            axes.reverse();
        }
        check_shape(stored, axes)
    }

    /// Reads a factor in peft's orientation, of `rows` rows in it.
    fn read(&self, stored: &Stored<'_>, rows: usize) -> Result<Vec<f32>, LoraError> {
        let values = stored.read()?;
        if !self.transposed {
            return Ok(values);
        }
        let columns = values.len() / rows;
        let place = |at: usize| at % columns * rows + at / columns;
        Ok((0..values.len()).map(|at| values[place(at)]).collect())
    }
}

/// Reads a whole embedding or head of the model's `shape`.
fn read_whole(saved: &Stored<'_>, shape: [usize; 2]) -> Result<Vec<f32>, LoraError> {
    let [vocab, hidden] = shape;
    if let [rows, width] = *saved.shape()
        && rows != vocab
        && width == hidden
    {
        let reason = format!(
            "its tensor `{}` has {rows} rows, of a vocabulary that was resized before it was trained; this model's has \
             {vocab}: put it on the resized model",
            saved.name()
        );
        return Err(another_model(&saved.file(), reason));
    }
    check_shape(saved, [("vocab_size", vocab), ("hidden_size", hidden)])?;
    saved.read()
}

fn check_shape(stored: &Stored<'_>, axes: [(&str, usize); 2]) -> Result<(), LoraError> {
    let needed = axes.map(|(_, size)| size);
    let found = stored.shape();
    if found == needed {
        return Ok(());
    }
    let why = if found.len() != 2 || found.contains(&0) {
        "it was saved by shards of ZeRO-3 or FSDP that were not gathered".to_owned()
    } else {
        let differs = axes
            .iter()
            .zip(found)
            .find(|((_, needed), found)| needed != *found);
        let ((axis, needed), found) = differs.unwrap_or((&axes[0], &found[0]));
        format!("{axis} is {found} in the file and {needed} here")
    };
    let reason = format!(
        "tensor `{}` has shape {found:?}, but the layer needs {needed:?}: {why}",
        stored.name()
    );
    Err(another_model(&stored.file(), reason))
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

/// Returns why a tensor of the file was not taken.
fn fits_nothing((path, part, name): (&str, Part, &str), adapter: &Adapter) -> String {
    match part {
        Part::A | Part::B => format!("its tensor `{name}` fits no targeted layer"),
        Part::EmbeddingA | Part::EmbeddingB => {
            format!("its tensor `{name}` fits no embedding")
        }
        _ if !adapter.config.modules_to_save.is_empty() => format!(
            "its tensor `{name}` is the whole weight of `{path}`, one of `modules_to_save` {:?}; of these the embedding and \
             the head are read",
            adapter.config.modules_to_save
        ),
        _ => format!(
            "its tensor `{name}` is the whole weight of `{path}`; of whole weights those of the embedding and the head are read"
        ),
    }
}
