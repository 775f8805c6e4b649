//! An adapter held against the layers of a model, its values still on disk.

use std::collections::HashMap;

use crate::config::{LoraConfig, Targets, TokenIndices, is_named};
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
    /// What the file's configuration names so.
    modules_to_save: &'a [String],
    rows: HashMap<String, StoredRows<'a>>,
}

/// The rows of some tokens.
#[derive(Clone, Debug)]
struct StoredRows<'a> {
    ids: Vec<u32>,
    stored: Stored<'a>,
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
        let mut config = describe(self, &contents, &paths, |path| {
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
        let rows = fitting.rows(&config.trainable_token_indices, &layers.whole)?;
        // Rows of a weight that the adapter brings whole are a part of that.
        let tokens = std::mem::take(&mut config.trainable_token_indices);
        config.trainable_token_indices =
            tokens.without(|name| whole.keys().any(|path| is_named(path, name)));
        let mut linears = HashMap::new();
        for ((path, shape), own) in layers.linears.iter().zip(own) {
            if let Some(own) = own {
                linears.insert(path.clone(), fitting.linear(path, *shape, own)?);
            }
        }
        if let Some(left) = fitting.contents.left() {
            return Err(another_model(file, fits_nothing(left, self)));
        }
        if linears.is_empty() && whole.is_empty() && rows.is_empty() {
            let reason = "it has no tensor for any layer of this one".to_owned();
            return Err(another_model(file, reason));
        }
        Ok(FittedAdapter {
            config,
            linears,
            whole,
            modules_to_save: &self.config.modules_to_save,
            rows,
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

    /// Returns whether it changes the embedding or the head at `path` as a whole.
    pub fn changes_whole(&self, path: &str) -> bool {
        self.whole.contains_key(path)
    }

    /// Returns whether the embedding or the head at `path` stays the model's own where the file's is that: `modules_to_save` does
    /// not name it.
    pub(super) fn keeps_whole(&self, path: &str) -> bool {
        !self.modules_to_save.iter().any(|name| is_named(path, name))
    }

    /// Reads the factors of the embedding or the head at `path`, `None` where it has none.
    ///
    /// # Errors
    /// Those of [`factors`](Self::factors).
    pub(super) fn factors_of_whole(&self, path: &str) -> Result<Option<Factors>, LoraError> {
        let whole = self.whole.get(path);
        let factors = whole.and_then(|whole| whole.factors.as_ref());
        factors.map(StoredFactors::read).transpose()
    }

    /// Reads the weight of the embedding or the head at `path` that the file has, `None` where it has none.
    ///
    /// # Errors
    /// Those of [`factors`](Self::factors).
    pub(super) fn saved(&self, path: &str) -> Result<Option<Vec<f32>>, LoraError> {
        let saved = self.whole.get(path).and_then(|whole| whole.saved.as_ref());
        saved.map(Stored::read).transpose()
    }

    /// Returns the tokens whose rows of the embedding or the head at `path` it changes, `None` for none. A head that shares the
    /// embedding's weight has those of the embedding.
    pub fn tokens(&self, path: &str) -> Option<&[u32]> {
        self.rows.get(path).map(|rows| rows.ids.as_slice())
    }

    /// Reads the rows of these tokens, `[tokens, hidden]`, row-major.
    ///
    /// # Errors
    /// Those of [`factors`](Self::factors).
    pub fn rows(&self, path: &str) -> Result<Option<Vec<f32>>, LoraError> {
        let rows = self.rows.get(path);
        rows.map(|rows| rows.stored.read()).transpose()
    }

    /// Returns the embedding or the head at `path` as the adapter has it, `[vocab, hidden]`, row-major, `None` where it changes
    /// none of it, whole or by rows. `base` reads the model's own, where that is needed.
    ///
    /// # Errors
    /// Those of [`factors`](Self::factors) and of `base`.
    pub fn whole<E: From<LoraError>>(
        &self,
        path: &str,
        base: impl FnOnce() -> Result<Vec<f32>, E>,
    ) -> Result<Option<Vec<f32>>, E> {
        let (whole, rows) = (self.whole.get(path), self.rows.get(path));
        if whole.is_none() && rows.is_none() {
            return Ok(None);
        }
        let mut values = match whole.and_then(|whole| whole.saved.as_ref()) {
            Some(saved) => saved.read()?,
            None => base()?,
        };
        if let Some(factors) = whole.and_then(|whole| whole.factors.as_ref()) {
            factors.read()?.add_to(&mut values);
        }
        if let Some(StoredRows { ids, stored }) = rows {
            let own = stored.read()?;
            let width = own.len() / ids.len();
            for (id, row) in ids.iter().zip(own.chunks_exact(width)) {
                values[*id as usize * width..][..width].copy_from_slice(row);
            }
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

    /// Takes the rows of the tokens that `tokens` names. A head that shares the embedding's weight has its rows too.
    fn rows(
        &mut self,
        tokens: &TokenIndices,
        layers: &[WholeLayer],
    ) -> Result<HashMap<String, StoredRows<'a>>, LoraError> {
        let file = self.contents.path();
        let named = |name: &str| layers.iter().any(|layer| is_named(&layer.path, name));
        if let Some((name, _)) = tokens.iter().find(|(name, _)| !named(name)) {
            let reason =
                format!("it has rows of `{name}`, which is no embedding and no head of this one");
            return Err(another_model(file, reason));
        }
        let mut found: HashMap<String, StoredRows<'a>> = HashMap::new();
        let mut before: Option<StoredRows<'a>> = None;
        for layer in layers {
            let shares = before.take().filter(|_| layer.shared);
            // Where peft saves the embedding whole, it writes the rows of a head that shares it a second time.
            if let Some(shares) = &shares
                && let Some(again) = self.contents.take(&layer.path, Part::TokenRows)
            {
                check_shape(
                    &again,
                    [
                        ("tokens", shares.ids.len()),
                        ("hidden_size", layer.shape[1]),
                    ],
                )?;
            }
            let rows = match (tokens.of_layer(&layer.path), shares) {
                (None, shares) => shares,
                (Some(ids), Some(shares)) if ids == shares.ids => Some(shares),
                (Some(_), _) if layer.shared => {
                    let reason = format!(
                        "it has rows of other tokens of `{}` than of the embedding, and here both are one weight",
                        layer.path
                    );
                    return Err(another_model(file, reason));
                }
                (Some(ids), _) => Some(self.rows_of(layer, ids)?),
            };
            before.clone_from(&rows);
            found.extend(rows.map(|rows| (layer.path.clone(), rows)));
        }
        Ok(found)
    }

    /// Takes the rows of the tokens `ids` of a layer.
    fn rows_of(&mut self, layer: &WholeLayer, ids: &[u32]) -> Result<StoredRows<'a>, LoraError> {
        let [vocab, hidden] = layer.shape;
        let stored = self.contents.need(&layer.path, Part::TokenRows)?;
        check_shape(&stored, [("tokens", ids.len()), ("hidden_size", hidden)])?;
        if let Some(token) = ids.iter().find(|id| **id as usize >= vocab) {
            let reason = format!(
                "it has a row of token {token}, and this model's vocabulary has {vocab}; the tokenizer.json that was saved with \
                 it tells the tokens that were added, put it beside the adapter"
            );
            return Err(another_model(&stored.file(), reason));
        }
        Ok(StoredRows {
            ids: ids.to_vec(),
            stored,
        })
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
        Part::TokenRows => format!(
            "its tensor `{name}` has rows of tokens that trainable_token_indices does not name"
        ),
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
