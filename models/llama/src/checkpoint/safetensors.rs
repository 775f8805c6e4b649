//! Weights in safetensors files, single or sharded.
//!
//! - `prefix`: the names of their tensors.

mod prefix;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use half::{bf16, f16};
use serde::Deserialize;
use tensor_files::{Checksum, Dtype, StoredTensor, TensorFile};

use self::prefix::Prefix;
use crate::error::DecoderError;

/// All tensors of a directory by the names of a `…ForCausalLM`, whatever prefix theirs have.
#[derive(Debug)]
pub(crate) struct SafeTensorFiles {
    /// One or more.
    shards: Vec<TensorFile>,
    index: HashMap<String, Place>,
}

/// Where a tensor is.
#[derive(Debug)]
struct Place {
    shard: usize,
    /// Its name in the file.
    stored: String,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// The element type of an unquantized tensor in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatType {
    F32,
    F16,
    Bf16,
}

impl SafeTensorFiles {
    /// Opens `model.safetensors`, or the shards named by `model.safetensors.index.json`.
    pub(crate) fn open(directory: &Path) -> Result<Self, DecoderError> {
        let single = directory.join("model.safetensors");
        let index = directory.join("model.safetensors.index.json");
        if single.exists() {
            return Self::from_shards(vec![TensorFile::open(&single)?]);
        }
        if !index.exists() {
            return Err(DecoderError::MissingFile {
                path: single,
                hint: "the weights are read from model.safetensors or from model.safetensors.index.json and its shards",
            });
        }
        let text = std::fs::read(&index).map_err(DecoderError::io(&index))?;
        let parsed: ShardIndex = serde_json::from_slice(&text).map_err(|error| {
            DecoderError::malformed(&index, format!("not a shard index: {error}"))
        })?;
        let mut names: Vec<&String> = parsed.weight_map.values().collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return Err(DecoderError::malformed(
                &index,
                "it names no shard; fetch it again",
            ));
        }
        let mut shards = Vec::with_capacity(names.len());
        for name in names {
            // A downloaded index must not reach outside its own directory.
            if Path::new(name).components().count() != 1 || Path::new(name).file_name().is_none() {
                return Err(DecoderError::malformed(
                    &index,
                    format!("shard `{name}` is not a plain file name"),
                ));
            }
            let path = directory.join(name);
            if !path.exists() {
                return Err(DecoderError::MissingFile {
                    path,
                    hint: "model.safetensors.index.json names it as a shard; fetch it",
                });
            }
            shards.push(TensorFile::open(&path)?);
        }
        Self::from_shards(shards)
    }

    fn from_shards(shards: Vec<TensorFile>) -> Result<Self, DecoderError> {
        let prefix = Prefix::of(&shards);
        let mut index = HashMap::new();
        for (shard, file) in shards.iter().enumerate() {
            for stored in file.names() {
                let place = Place {
                    shard,
                    stored: stored.to_owned(),
                };
                if index.insert(prefix.usual_name(stored), place).is_some() {
                    return Err(DecoderError::malformed(
                        file.path(),
                        format!("tensor `{stored}` is also in another shard"),
                    ));
                }
            }
        }
        Ok(Self { shards, index })
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// Returns all names, in no order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// Returns the file that holds, or would hold, a tensor: for error messages.
    pub(crate) fn path_of(&self, name: &str) -> &Path {
        self.shards[self.index.get(name).map_or(0, |place| place.shard)].path()
    }

    /// Returns a tensor, not read yet; `None` when there is none of that name.
    pub(crate) fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let place = self.index.get(name)?;
        self.shards[place.shard].tensor(&place.stored)
    }

    /// Adds a sample of every tensor to `sum`, by their names.
    pub(crate) fn sample(&self, sum: &mut Checksum) -> Result<(), DecoderError> {
        let mut names: Vec<&str> = self.names().collect();
        names.sort_unstable();
        for name in names {
            self.find(name)?.sample(sum)?;
        }
        Ok(())
    }

    pub(crate) fn float_type(&self, name: &str) -> Result<FloatType, DecoderError> {
        self.stored_as(name, &self.find(name)?)
    }

    pub(crate) fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, DecoderError> {
        let stored = self.find(name)?;
        if stored.shape() != shape {
            return Err(DecoderError::TensorShape {
                path: self.path_of(name).to_path_buf(),
                tensor: stored.name().into(),
                found: stored.shape().to_vec(),
                expected: shape.to_vec(),
            });
        }
        let kind = self.stored_as(name, &stored)?;
        // The file was found to have this many elements when it was opened, so the size is real.
        let mut values = Vec::with_capacity(shape.iter().product());
        stored.for_each_chunk(|bytes| {
            kind.extend(&mut values, bytes);
            Ok::<_, DecoderError>(())
        })?;
        Ok(values)
    }

    fn find(&self, name: &str) -> Result<StoredTensor<'_>, DecoderError> {
        self.tensor(name)
            .ok_or_else(|| DecoderError::MissingTensor {
                path: self.path_of(name).to_path_buf(),
                tensor: name.into(),
            })
    }

    fn stored_as(&self, name: &str, stored: &StoredTensor<'_>) -> Result<FloatType, DecoderError> {
        match stored.dtype() {
            Dtype::F32 => Ok(FloatType::F32),
            Dtype::F16 => Ok(FloatType::F16),
            Dtype::BF16 => Ok(FloatType::Bf16),
            other => Err(DecoderError::TensorType {
                path: self.path_of(name).to_path_buf(),
                tensor: stored.name().into(),
                found: other.to_string(),
                expected: "F32, F16 or BF16",
            }),
        }
    }
}

impl FloatType {
    /// Appends the little-endian values in `bytes`, widened.
    fn extend(self, values: &mut Vec<f32>, bytes: &[u8]) {
        let halves = bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
        match self {
            Self::F32 => values.extend(
                bytes
                    .chunks_exact(4)
                    .map(|quad| f32::from_le_bytes([quad[0], quad[1], quad[2], quad[3]])),
            ),
            Self::F16 => values.extend(halves.map(|pair| f16::from_le_bytes(pair).to_f32())),
            Self::Bf16 => values.extend(halves.map(|pair| bf16::from_le_bytes(pair).to_f32())),
        }
    }

    /// Returns `values` in little-endian bytes of this type.
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            Self::F16 => values
                .iter()
                .flat_map(|value| f16::from_f32(*value).to_le_bytes())
                .collect(),
            Self::Bf16 => values
                .iter()
                .flat_map(|value| bf16::from_f32(*value).to_le_bytes())
                .collect(),
        }
    }

    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
        }
    }

    /// Returns torch's name.
    pub(crate) fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }
}
