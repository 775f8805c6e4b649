//! Weights in safetensors files, single or sharded.
//!
//! - `prefix`: the names of their tensors.
//! - `checksums`: what an index says of their bytes.

mod checksums;
mod prefix;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use half::{bf16, f16};
use serde::Deserialize;
use serde_json::Value;
use tensor_files::{Checksum, Dtype, StoredTensor, TensorFile};

#[cfg(feature = "qlora")]
pub(crate) use self::checksums::CHECKSUMS;
use self::checksums::{Check, Checksums};
use self::prefix::Prefix;
use super::names::{INDEX, Part, SINGLE};
use super::{absent, files};
use crate::error::DecoderError;

/// All tensors of a directory by the names of a `…ForCausalLM`, whatever prefix theirs have.
#[derive(Debug)]
pub(crate) struct SafeTensorFiles {
    /// One or more.
    shards: Vec<TensorFile>,
    index: HashMap<String, Place>,
    checksums: Checksums,
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
    #[serde(default)]
    metadata: Value,
}

/// The element type that an unquantized tensor of a file has, or is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum FloatType {
    /// 32 bits.
    F32,
    /// 16 bits, 11 of them significant, up to 65504.
    F16,
    /// 16 bits, 8 of them significant, with the range of f32.
    Bf16,
}

impl SafeTensorFiles {
    /// Opens `model.safetensors`, or the shards named by `model.safetensors.index.json`, or shards without an index if all
    /// are there.
    pub(crate) fn open(directory: &Path) -> Result<Self, DecoderError> {
        let single = directory.join(SINGLE);
        let index = directory.join(INDEX);
        if files::is_there(&single)? {
            return Self::from_shards(vec![TensorFile::open(&single)?]);
        }
        if files::is_there(&index)? {
            return Self::indexed(directory, &index);
        }
        let shards = unindexed(directory)?;
        if shards.is_empty() {
            return Err(absent::weights(directory, &single));
        }
        Self::from_shards(shards)
    }

    fn indexed(directory: &Path, index: &Path) -> Result<Self, DecoderError> {
        let text = files::read(index)?;
        let parsed: ShardIndex = serde_json::from_slice(&text).map_err(|error| {
            DecoderError::malformed(index, format!("not a shard index: {error}"))
        })?;
        let mut names: Vec<&String> = parsed.weight_map.values().collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return Err(DecoderError::malformed(
                index,
                "it names no shard; fetch it again",
            ));
        }
        let mut shards = Vec::with_capacity(names.len());
        for name in names {
            // A downloaded index must not reach outside its own directory.
            if Path::new(name).components().count() != 1 || Path::new(name).file_name().is_none() {
                return Err(DecoderError::malformed(
                    index,
                    format!("shard `{name}` is not a plain file name"),
                ));
            }
            let path = directory.join(name);
            if !files::is_there(&path)? {
                return Err(DecoderError::MissingFile {
                    path,
                    hint: format!("{INDEX} names it as a shard; fetch it"),
                });
            }
            shards.push(TensorFile::open(&path)?);
        }
        Ok(Self {
            checksums: Checksums::of(index, &parsed.metadata)?,
            ..Self::from_shards(shards)?
        })
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
        Ok(Self {
            shards,
            index,
            checksums: Checksums::default(),
        })
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// Returns all names, in no order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// Returns the files.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(TensorFile::path)
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

    /// Returns what holds the bytes of a weight to the checksum that the index has of it; `None` where it has none.
    pub(crate) fn check(&self, name: &str) -> Option<Check> {
        self.checksums.begin(name)
    }

    /// Returns whether no tensor has a type that stands for a quantization.
    pub(crate) fn all_are_floats(&self) -> bool {
        self.shards.iter().all(|shard| {
            let mut tensors = shard.names().filter_map(|name| shard.tensor(name));
            let floats = [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64];
            tensors.all(|tensor| floats.contains(&tensor.dtype()))
        })
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
        let mut values = Vec::new();
        self.for_each_piece(name, shape, |piece| {
            if values.is_empty() {
                // The file was found to have this many elements when it was opened, so the size is real.
                values.reserve_exact(shape.iter().product());
            }
            values.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(values)
    }

    /// Calls `use_piece` with the values in f32, 1 MiB of the file at a time.
    pub(crate) fn for_each_piece(
        &self,
        name: &str,
        shape: &[usize],
        mut use_piece: impl FnMut(&[f32]) -> Result<(), DecoderError>,
    ) -> Result<(), DecoderError> {
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
        let mut values = Vec::new();
        let mut check = self.check(name);
        stored.for_each_chunk(|bytes| {
            if let Some(check) = &mut check {
                check.add(bytes);
            }
            values.clear();
            if stored.dtype() == Dtype::F64 {
                narrow(&mut values, bytes);
            } else {
                kind.extend(&mut values, bytes);
            }
            use_piece(&values)
        })?;
        check.map_or(Ok(()), |check| check.end(self.path_of(name), name))
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
            // Rounded as it is read.
            Dtype::F32 | Dtype::F64 => Ok(FloatType::F32),
            Dtype::F16 => Ok(FloatType::F16),
            Dtype::BF16 => Ok(FloatType::Bf16),
            other => Err(DecoderError::TensorType {
                path: self.path_of(name).to_path_buf(),
                tensor: stored.name().into(),
                found: other.to_string(),
                expected: "F32, F16, BF16 or F64",
            }),
        }
    }
}

/// Appends the little-endian values of 64 bits in `bytes`, each rounded to the nearest f32.
fn narrow(values: &mut Vec<f32>, bytes: &[u8]) {
    let (all, _) = bytes.as_chunks();
    values.extend(all.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32));
}

/// Opens the shards in a directory that has no index for them.
fn unindexed(directory: &Path) -> Result<Vec<TensorFile>, DecoderError> {
    let names = files::names(directory)?;
    let there: Vec<Part> = names
        .iter()
        .filter_map(|name| Part::of_shard(name))
        .collect();
    let Some(&Part { count, .. }) = there.first() else {
        return Ok(Vec::new());
    };
    if there.iter().any(|part| part.count != count) {
        let reason = format!("shards of different models lie beside each other; fetch {INDEX}");
        return Err(DecoderError::not_a_model(directory, reason));
    }
    // Before the missing are listed: one name can claim any number.
    if there.len() < count {
        let has = |number: &usize| there.iter().any(|part| part.number == *number);
        let number = (1..=count).find(|number| !has(number)).unwrap_or(count);
        return Err(DecoderError::MissingFile {
            path: directory.join(Part { number, count }.shard()),
            hint: format!("there are {} of {count} shards; fetch it", there.len()),
        });
    }
    let open = |part: &Part| Ok(TensorFile::open(&directory.join(part.shard()))?);
    there.iter().map(open).collect()
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

    /// Returns whether `value`, rounded to this type, is finite.
    #[cfg(feature = "qlora")]
    pub(crate) fn holds(self, value: f32) -> bool {
        match self {
            Self::F32 => value.is_finite(),
            Self::F16 => f16::from_f32(value).is_finite(),
            Self::Bf16 => bf16::from_f32(value).is_finite(),
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
