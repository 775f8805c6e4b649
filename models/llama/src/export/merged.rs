//! A checkpoint with an adapter folded in, a tensor at a time.

use std::collections::BTreeMap;

use burn_qlora::peft::{AdaptableLayers, Adapter, FittedAdapter, WholeLayer};
use burn_qlora::{QuantConfig, WeightChange};
use tensor_files::Checksum;

use crate::checkpoint::{Checkpoint, FloatType};
#[cfg(feature = "gguf")]
use crate::checkpoint::{Piece, Stored};
use crate::config::DecoderConfig;
use crate::error::DecoderError;
use crate::tensors::{EMBEDDING, HEAD, TensorSpec, module};

/// The weights that an adapter is folded into.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum MergeBase {
    /// The checkpoint's own values; of one that is stored in 4 bits what they decode to.
    #[default]
    Original,
    /// What the projections decode to once they are quantized so: the weights that an adapter was trained on.
    Quantized(QuantConfig),
}

/// A checkpoint as an adapter leaves it: `W + s·B·A` where it has factors, its own embedding and head where it brings them, and
/// everything else as it is stored.
///
/// Tensors go by the names Hugging Face gives them and are made when they are read: one is in memory at a time, in f32.
#[derive(Debug)]
pub struct MergedCheckpoint<'a> {
    checkpoint: &'a Checkpoint,
    base: MergeBase,
    config: DecoderConfig,
    adapter: Option<FittedAdapter<'a>>,
    adapter_fingerprint: Option<u64>,
}

/// A tensor of a merged model.
pub(crate) struct MergedTensor {
    /// In f32, row-major.
    pub values: Vec<f32>,
    /// What factors have changed, where there are some.
    pub change: Option<WeightChange>,
}

impl<'a> MergedCheckpoint<'a> {
    /// Holds an adapter, if there is one, against the checkpoint; no weight is read.
    ///
    /// # Errors
    /// [`DecoderError::Lora`] for an adapter that belongs to another model.
    pub fn new(
        checkpoint: &'a Checkpoint,
        adapter: Option<&'a Adapter>,
        base: MergeBase,
    ) -> Result<Self, DecoderError> {
        let mut config = checkpoint.config().clone();
        let layers = adaptable_layers(&config);
        let fitted = adapter.map(|adapter| adapter.fit(&layers)).transpose()?;
        if let Some(adapter) = &fitted {
            let changes = |name| adapter.changes_whole(module(name));
            config.tie_word_embeddings &= !changes(EMBEDDING) && !changes(HEAD);
        }
        Ok(Self {
            checkpoint,
            base,
            config,
            adapter: fitted,
            adapter_fingerprint: adapter.map(Adapter::fingerprint).transpose()?,
        })
    }

    /// Returns the checkpoint.
    pub fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// Returns the configuration of the merged model: the checkpoint's, but for a head that the adapter has made a weight of its
    /// own.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Returns the adapter, fitted to the model.
    pub fn adapter(&self) -> Option<&FittedAdapter<'a>> {
        self.adapter.as_ref()
    }

    /// Returns the paths of embedding and head where the adapter brings them.
    pub(crate) fn replaced(&self) -> Vec<String> {
        let Some(adapter) = &self.adapter else {
            return Vec::new();
        };
        let paths = [EMBEDDING, HEAD].map(module).into_iter();
        let paths = paths.filter(|path| adapter.changes_whole(path));
        paths.map(str::to_owned).collect()
    }

    /// Returns the number of tokens whose rows the adapter brings, of embedding and head.
    pub(crate) fn replaced_rows(&self) -> BTreeMap<String, usize> {
        let paths = [EMBEDDING, HEAD].map(module).into_iter();
        let tensors = self.config.tensors();
        let is_there = |path: &&str| tensors.iter().any(|spec| module(&spec.name) == *path);
        let tokens = |path: &str| Some(self.adapter.as_ref()?.tokens(path)?.len());
        paths
            .filter(is_there)
            .filter_map(|path| Some((path.to_owned(), tokens(path)?)))
            .collect()
    }

    /// Returns the type that the checkpoint keeps its embedding in, `None` where that is a block format of llama.cpp.
    ///
    /// # Errors
    /// A tensor of another type.
    pub fn stored_type(&self) -> Result<Option<FloatType>, DecoderError> {
        if self.checkpoint.is_gguf() {
            return Ok(None);
        }
        self.checkpoint.float_type(EMBEDDING).map(Some)
    }

    /// Returns a checksum of what decides the values of all tensors.
    pub(crate) fn fingerprint(&self) -> Result<u64, DecoderError> {
        let mut sum = Checksum::default();
        sum.add(&self.checkpoint.fingerprint()?.to_le_bytes());
        sum.add_framed(format!("{:?} {:?}", self.base, self.adapter_fingerprint).as_bytes());
        Ok(sum.value())
    }

    /// Returns all tensors, in the order of the forward pass.
    pub(crate) fn tensors(&self) -> Vec<TensorSpec> {
        self.config.tensors()
    }

    /// Reads a tensor.
    ///
    /// # Errors
    /// Those of [`Checkpoint::read_f32`] and [`Checkpoint::quantize`], and factors that are damaged.
    pub(crate) fn read(&self, spec: &TensorSpec) -> Result<MergedTensor, DecoderError> {
        let Some(adapter) = &self.adapter else {
            return Ok(MergedTensor {
                values: self.read_base(spec)?,
                change: None,
            });
        };
        let path = module(&spec.name);
        if let Some(values) = adapter.whole(path, || self.read_base(spec))? {
            return Ok(MergedTensor {
                values,
                change: None,
            });
        }
        let mut values = self.read_base(spec)?;
        let factors = adapter.factors(path)?;
        let change = factors.map(|factors| factors.add_to(&mut values));
        Ok(MergedTensor { values, change })
    }

    /// Calls `use_piece` with the values of a tensor in their order: in pieces where they are what the checkpoint stores, so that an
    /// embedding need not be in memory. Returns what factors have changed, where there are some.
    ///
    /// # Errors
    /// Those of [`read`](Self::read) and of `use_piece`.
    pub(crate) fn for_each_piece(
        &self,
        spec: &TensorSpec,
        mut use_piece: impl FnMut(&[f32]) -> Result<(), DecoderError>,
    ) -> Result<Option<WeightChange>, DecoderError> {
        if self.changes(spec) {
            let tensor = self.read(spec)?;
            use_piece(&tensor.values)?;
            return Ok(tensor.change);
        }
        let name = self.stored_name(spec);
        self.checkpoint
            .for_each_piece(name, &spec.shape, use_piece)?;
        Ok(None)
    }

    /// Calls `use_piece` with a tensor as the checkpoint's file has it, in its order of rows, where that is a file of llama.cpp, has
    /// it in the type of ggml's number `number` and laid out as `stored`, and nothing changes it. Returns whether it is so.
    ///
    /// # Errors
    /// Those of reading and of `use_piece`.
    #[cfg(feature = "gguf")]
    pub(crate) fn for_each_stored_piece(
        &self,
        spec: &TensorSpec,
        number: u32,
        stored: &Stored,
        use_piece: impl FnMut(Piece<'_>) -> Result<(), DecoderError>,
    ) -> Result<bool, DecoderError> {
        let name = self.stored_name(spec);
        let Some(model) = self.checkpoint.gguf_model().filter(|_| !self.changes(spec)) else {
            return Ok(false);
        };
        let is_same = |(known, held): (u32, Stored)| {
            known == number && (held.rows, held.offset) == (stored.rows, stored.offset)
        };
        if !model.stored_as(name).is_some_and(is_same) {
            return Ok(false);
        }
        model.for_each_stored_piece(name, &spec.shape, use_piece)?;
        Ok(true)
    }

    /// Returns whether a tensor is not what the checkpoint stores.
    fn changes(&self, spec: &TensorSpec) -> bool {
        let path = module(&spec.name);
        let is_adapted = self.adapter.as_ref().is_some_and(|adapter| {
            adapter.changes_whole(path)
                || adapter.tokens(path).is_some()
                || adapter.config_of(path).is_some()
        });
        let name = self.stored_name(spec);
        is_adapted
            || self.checkpoint.stored_rows(name, &spec.shape).is_some()
            || spec.projection && self.base != MergeBase::Original
    }

    /// Returns the name of the tensor that a tensor is made of.
    fn stored_name<'s>(&self, spec: &'s TensorSpec) -> &'s str {
        let shared = spec.name == HEAD && self.checkpoint.config().tie_word_embeddings;
        if shared { EMBEDDING } else { &spec.name }
    }

    fn read_base(&self, spec: &TensorSpec) -> Result<Vec<f32>, DecoderError> {
        let name = self.stored_name(spec);
        match (self.base, spec.shape.as_slice()) {
            (MergeBase::Quantized(config), &[rows, columns]) if spec.projection => {
                let matrix = self.checkpoint.quantize(name, [rows, columns], config)?;
                let mut values = vec![0.0; matrix.layout().elements()];
                qlora_cpu::dequantize(matrix.as_ref(), &mut values);
                Ok(values)
            }
            _ => self.checkpoint.read_f32(name, &spec.shape),
        }
    }
}

/// Returns the layers of a model that an adapter can change.
fn adaptable_layers(config: &DecoderConfig) -> AdaptableLayers {
    let tensors = config.tensors().into_iter();
    let linears = tensors.filter_map(|spec| match spec.shape[..] {
        [rows, columns] if spec.projection => Some((module(&spec.name).into(), [rows, columns])),
        _ => None,
    });
    let whole = |name, shared| WholeLayer {
        path: module(name).into(),
        shape: [config.vocab_size, config.hidden_size],
        shared,
    };
    AdaptableLayers {
        linears: linears.collect(),
        whole: vec![
            whole(EMBEDDING, false),
            whole(HEAD, config.tie_word_embeddings),
        ],
    }
}

/// What merging has changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MergeReport {
    /// The tensors that factors were added to, each with what they change.
    pub changes: BTreeMap<String, WeightChange>,
    /// The paths of embedding and head where the adapter brought one.
    pub replaced: Vec<String>,
    /// The number of tokens whose rows the adapter brought, of embedding and head.
    pub rows: BTreeMap<String, usize>,
}

impl MergeReport {
    /// Returns what is changed in each block: those of its weights that have factors, as one.
    pub fn by_block(&self) -> BTreeMap<usize, WeightChange> {
        let mut blocks: BTreeMap<usize, WeightChange> = BTreeMap::new();
        for (name, change) in &self.changes {
            let number = name.split('.').find_map(|part| part.parse().ok());
            if let Some(number) = number {
                *blocks.entry(number).or_default() += *change;
            }
        }
        blocks
    }

    /// Returns what is changed in all weights that have factors, as one.
    pub fn total(&self) -> WeightChange {
        let mut total = WeightChange::default();
        self.changes.values().for_each(|change| total += *change);
        total
    }
}
