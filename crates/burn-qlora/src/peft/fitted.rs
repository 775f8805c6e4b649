//! An adapter held against the layers of a model, its values still on disk.

use std::collections::HashMap;

use crate::config::{LoraConfig, Targets, is_named};
use crate::error::LoraError;
use crate::factors::Factors;
use crate::model::WholeWeight;
use crate::peft::contents::{Contents, Stored, another_model};
use crate::peft::names::Part;
use crate::peft::reading::describe;
use crate::peft::{Adapter, Format};

/// The layers of a model that an adapter can change, by the paths that Hugging Face gives them.
#[derive(Debug, Clone, Default)]
pub struct AdaptableLayers {
    /// Those that can carry factors, with their `[out_features, in_features]`.
    pub linears: Vec<(String, [usize; 2])>,
    /// Embedding and head.
    pub whole: Vec<WholeLayer>,
}

/// An embedding or a head.
#[derive(Debug, Clone)]
pub struct WholeLayer {
    /// The path of the module.
    pub path: String,
    /// `[vocab, hidden]`.
    pub shape: [usize; 2],
    /// Whether its weight is that of the one before: the head's of a model with tied embeddings.
    pub shared: bool,
}

impl From<&WholeWeight> for WholeLayer {
    fn from(weight: &WholeWeight) -> Self {
        Self {
            path: weight.path.clone(),
            shape: weight.weight.dims(),
            shared: weight.shared,
        }
    }
}

/// An adapter that fits a model: every tensor of it belongs to a layer and has the layer's shape. Values are read layer by
/// layer, so that an adapter and a model that are larger than memory can be merged.
#[derive(Debug)]
pub struct FittedAdapter<'a> {
    config: LoraConfig,
    linears: HashMap<String, StoredFactors<'a>>,
    whole: HashMap<String, StoredWhole<'a>>,
}

/// The factors of a layer.
#[derive(Debug)]
struct StoredFactors<'a> {
    a: StoredFactor<'a>,
    b: StoredFactor<'a>,
    config: LoraConfig,
}

/// A factor.
#[derive(Debug)]
struct StoredFactor<'a> {
    stored: Stored<'a>,
    /// In peft's orientation.
    rows: usize,
    /// Whether the file has it the other way round.
    transposed: bool,
}

/// What an adapter has of embedding or head: at least one of both.
#[derive(Debug)]
struct StoredWhole<'a> {
    saved: Option<Stored<'a>>,
    factors: Option<StoredFactors<'a>>,
}

impl Adapter {
    /// Holds it against the layers of a model, by names and shapes; no value is read.
    ///
    /// # Errors
    /// [`LoraError::AnotherModel`] when a tensor is missing, left over or of another shape, [`LoraError::Malformed`].
    pub fn fit(&self, layers: &AdaptableLayers) -> Result<FittedAdapter<'_>, LoraError> {
        let file = self.weights.path();
        let linears = layers.linears.iter().map(|(path, _)| path.clone());
        let paths: Vec<String> = linears.collect();
        let beside: Vec<String> = layers
            .whole
            .iter()
            .map(|layer| layer.path.clone())
            .collect();
        let mut contents = self.contents()?;
        contents.find_layers(&[beside.clone(), paths.clone()].concat());
        let config = describe(self, &contents, &paths, |path| {
            beside.iter().any(|known| known == path)
        })?;
        let own = if config.targets == Targets::Names(Vec::new()) {
            vec![None; paths.len()]
        } else {
            let layers = config.of_layers(&paths);
            layers.map_err(|error| another_model(file, error.to_string()))?
        };
        let mut fitting = Fitting {
            contents,
            transposed: matches!(self.format, Format::Mlx(_)),
        };
        let whole = fitting.whole(&self.config, &layers.whole)?;
        let mut linears = HashMap::new();
        for ((path, shape), own) in layers.linears.iter().zip(own) {
            if let Some(own) = own {
                linears.insert(path.clone(), fitting.linear(path, *shape, own)?);
            }
        }
        if let Some(left) = fitting.contents.left() {
            return Err(another_model(file, fits_nothing(left, self)));
        }
        if linears.is_empty() && whole.is_empty() {
            let reason = "it has no tensor for any layer of this one".to_owned();
            return Err(another_model(file, reason));
        }
        Ok(FittedAdapter {
            config,
            linears,
            whole,
        })
    }
}

impl FittedAdapter<'_> {
    /// Returns what describes it on the model. Its `modules_to_save` name what it changes of embedding and head.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// Returns the same, where nothing else of it is needed any more.
    pub(super) fn into_config(self) -> LoraConfig {
        self.config
    }

    /// Reads the factors of the layer `path`, `None` where it has none.
    ///
    /// # Errors
    /// [`LoraError::NotFinite`], [`LoraError::Malformed`], [`LoraError::File`].
    pub fn factors(&self, path: &str) -> Result<Option<Factors>, LoraError> {
        self.linears.get(path).map(StoredFactors::read).transpose()
    }

    /// Returns rank, alpha and rule of scaling of the layer `path`, `None` where it has no factors.
    pub fn config_of(&self, path: &str) -> Option<&LoraConfig> {
        self.linears.get(path).map(|factors| &factors.config)
    }

    /// Returns whether it changes the embedding or the head at `path`.
    pub fn changes_whole(&self, path: &str) -> bool {
        self.whole.contains_key(path)
    }

    /// Returns the embedding or the head at `path` as the adapter has it, `[vocab, hidden]`, row-major, `None` where it changes
    /// none of it. `base` reads the model's own, where that is needed.
    ///
    /// # Errors
    /// Those of [`factors`](Self::factors) and of `base`.
    pub fn whole<E: From<LoraError>>(
        &self,
        path: &str,
        base: impl FnOnce() -> Result<Vec<f32>, E>,
    ) -> Result<Option<Vec<f32>>, E> {
        let Some(whole) = self.whole.get(path) else {
            return Ok(None);
        };
        let mut values = match &whole.saved {
            Some(saved) => saved.read()?,
            None => base()?,
        };
        if let Some(factors) = &whole.factors {
            factors.read()?.add_to(&mut values);
        }
        Ok(Some(values))
    }
}

impl StoredFactors<'_> {
    fn read(&self) -> Result<Factors, LoraError> {
        Ok(Factors {
            a: self.a.read()?,
            b: self.b.read()?,
            config: self.config.clone(),
        })
    }
}

impl StoredFactor<'_> {
    /// Reads it in peft's orientation.
    fn read(&self) -> Result<Vec<f32>, LoraError> {
        let values = self.stored.read()?;
        if !self.transposed {
            return Ok(values);
        }
        let (rows, columns) = (self.rows, values.len() / self.rows);
        let place = |at: usize| at % columns * rows + at / columns;
        Ok((0..values.len()).map(|at| values[place(at)]).collect())
    }
}

/// The tensors of a file, while layers take them.
struct Fitting<'a> {
    contents: Contents<'a>,
    /// Whether factors are `[in, rank]` and `[rank, out]`, as mlx-lm has them, and not `[rank, in]` and `[out, rank]`.
    transposed: bool,
}

impl<'a> Fitting<'a> {
    /// Takes the factors of the layer `path` of `[out_features, in_features]`.
    fn linear(
        &mut self,
        path: &str,
        [out_features, in_features]: [usize; 2],
        config: LoraConfig,
    ) -> Result<StoredFactors<'a>, LoraError> {
        let a = self.contents.need(path, Part::A)?;
        let b = self.contents.need(path, Part::B)?;
        Ok(StoredFactors {
            a: self.factor(a, [("rank", config.rank), ("in_features", in_features)])?,
            b: self.factor(b, [("out_features", out_features), ("rank", config.rank)])?,
            config,
        })
    }

    /// Takes what there is of embedding and head. `config` is what the adapter's own file says.
    fn whole(
        &mut self,
        config: &LoraConfig,
        layers: &[WholeLayer],
    ) -> Result<HashMap<String, StoredWhole<'a>>, LoraError> {
        let mut found = HashMap::new();
        // A weight that stands in the file as the model's own, not as a module of the adapter: in peft it goes to the head as
        // well that shares it.
        let mut of_the_model: Option<Stored<'a>> = None;
        for WholeLayer {
            path,
            shape,
            shared,
        } in layers
        {
            let mut names = config.modules_to_save.iter();
            let saves = names.any(|name| is_named(path, name));
            let saved = if saves {
                Some(self.contents.need(path, Part::Weight)?)
            } else {
                self.contents.take(path, Part::Weight)
            };
            if let Some(saved) = &saved {
                check_whole(saved, *shape)?;
            }
            let inherited = of_the_model.take().filter(|_| *shared);
            if !saves {
                of_the_model = saved;
            }
            let factors = self.factors_of_whole(path, *shape, config)?;
            let saved = saved.or(inherited);
            if saved.is_some() || factors.is_some() {
                found.insert(path.clone(), StoredWhole { saved, factors });
            }
        }
        Ok(found)
    }

    /// Takes the factors of the embedding or the head at `path`, where there are some.
    fn factors_of_whole(
        &mut self,
        path: &str,
        [vocab, hidden]: [usize; 2],
        config: &LoraConfig,
    ) -> Result<Option<StoredFactors<'a>>, LoraError> {
        let own = config.of_layer(path)?;
        let rank = own.rank;
        if let Some(a) = self.contents.take(path, Part::A) {
            let b = self.contents.need(path, Part::B)?;
            return Ok(Some(StoredFactors {
                a: self.factor(a, [("rank", rank), ("in_features", hidden)])?,
                b: self.factor(b, [("out_features", vocab), ("rank", rank)])?,
                config: own,
            }));
        }
        let Some(a) = self.contents.take(path, Part::EmbeddingA) else {
            return Ok(None);
        };
        let b = self.contents.need(path, Part::EmbeddingB)?;
        // What an embedding looks up are rows, so both factors stand the other way round and change places.
        check_shape(&a, [("rank", rank), ("vocab_size", vocab)])?;
        check_shape(&b, [("hidden_size", hidden), ("rank", rank)])?;
        let turned = |stored, rows| StoredFactor {
            stored,
            rows,
            transposed: true,
        };
        Ok(Some(StoredFactors {
            a: turned(b, rank),
            b: turned(a, vocab),
            config: own,
        }))
    }

    /// Checks the shape of a factor, given in peft's orientation with the names of its axes.
    fn factor(
        &self,
        stored: Stored<'a>,
        mut axes: [(&str, usize); 2],
    ) -> Result<StoredFactor<'a>, LoraError> {
        let rows = axes[0].1;
        if self.transposed {
            axes.reverse();
        }
        check_shape(&stored, axes)?;
        Ok(StoredFactor {
            stored,
            rows,
            transposed: self.transposed,
        })
    }
}

/// Checks the shape of a whole embedding or head.
fn check_whole(saved: &Stored<'_>, [vocab, hidden]: [usize; 2]) -> Result<(), LoraError> {
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
    check_shape(saved, [("vocab_size", vocab), ("hidden_size", hidden)])
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
