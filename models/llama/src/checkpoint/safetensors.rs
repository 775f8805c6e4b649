//! Weights in safetensors files, single or sharded.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;

use super::FloatType;
use super::input::InputFile;
use crate::LlamaError;

/// Upper bound of a header, as in the safetensors crate.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes read and converted at a time.
const CHUNK: usize = 1 << 20;

/// All tensors of a directory by name.
#[derive(Debug)]
pub(crate) struct SafeTensorFiles {
    shards: Vec<Shard>,
    /// Which shard holds a tensor.
    index: HashMap<String, usize>,
}

#[derive(Debug)]
struct Shard {
    file: InputFile,
    data_start: u64,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// A tensor as it is stored.
pub(crate) struct RawTensor {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl SafeTensorFiles {
    /// Opens `model.safetensors`, or the shards named by `model.safetensors.index.json`.
    pub(crate) fn open(directory: &Path) -> Result<Self, LlamaError> {
        let single = directory.join("model.safetensors");
        let index = directory.join("model.safetensors.index.json");
        if single.exists() {
            return Self::from_shards(vec![Shard::open(&single)?]);
        }
        if !index.exists() {
            return Err(LlamaError::MissingFile {
                path: single,
                hint: "the weights are read from model.safetensors or from model.safetensors.index.json and its shards",
            });
        }
        let text = std::fs::read(&index).map_err(LlamaError::io(&index))?;
        let parsed: ShardIndex = serde_json::from_slice(&text).map_err(|error| {
            LlamaError::malformed(&index, format!("not a shard index: {error}"))
        })?;
        let mut names: Vec<&String> = parsed.weight_map.values().collect();
        names.sort_unstable();
        names.dedup();
        let mut shards = Vec::with_capacity(names.len());
        for name in names {
            // A downloaded index must not reach outside its own directory.
            if Path::new(name).components().count() != 1 || Path::new(name).file_name().is_none() {
                return Err(LlamaError::malformed(
                    &index,
                    format!("shard `{name}` is not a plain file name"),
                ));
            }
            let path = directory.join(name);
            if !path.exists() {
                return Err(LlamaError::MissingFile {
                    path,
                    hint: "model.safetensors.index.json names it as a shard; fetch it",
                });
            }
            shards.push(Shard::open(&path)?);
        }
        Self::from_shards(shards)
    }

    fn from_shards(shards: Vec<Shard>) -> Result<Self, LlamaError> {
        let mut index = HashMap::new();
        for (number, shard) in shards.iter().enumerate() {
            for name in shard.metadata.offset_keys() {
                if index.contains_key(&name) {
                    return Err(LlamaError::malformed(
                        shard.file.path(),
                        format!("tensor `{name}` is also in another shard"),
                    ));
                }
                index.insert(name, number);
            }
        }
        Ok(Self { shards, index })
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// The file that holds, or would hold, a tensor: for error messages.
    pub(crate) fn path_of(&self, name: &str) -> &Path {
        self.shards[self.index.get(name).copied().unwrap_or(0)]
            .file
            .path()
    }

    /// A tensor as it is stored; `None` when there is none of that name.
    pub(crate) fn read_raw(&self, name: &str) -> Result<Option<RawTensor>, LlamaError> {
        if !self.contains(name) {
            return Ok(None);
        }
        let (shard, info) = self.find(name)?;
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        shard
            .file
            .read_at(shard.data_start + start as u64, &mut bytes)?;
        Ok(Some(RawTensor {
            dtype: info.dtype,
            shape: info.shape.clone(),
            bytes,
        }))
    }

    pub(crate) fn float_type(&self, name: &str) -> Result<FloatType, LlamaError> {
        let (shard, info) = self.find(name)?;
        shard.float_type(name, info)
    }

    pub(crate) fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LlamaError> {
        let (shard, info) = self.find(name)?;
        if info.shape != shape {
            return Err(LlamaError::TensorShape {
                path: shard.file.path().to_path_buf(),
                tensor: name.into(),
                found: info.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        let kind = shard.float_type(name, info)?;
        // The header was checked against the file's length, so both sizes are real.
        let (start, end) = info.data_offsets;
        let mut values = Vec::with_capacity(shape.iter().product());
        let mut buffer = vec![0; CHUNK.min(end - start)];
        let mut position = start;
        while position < end {
            let part = &mut buffer[..CHUNK.min(end - position)];
            shard
                .file
                .read_at(shard.data_start + position as u64, part)?;
            kind.extend(&mut values, part);
            position += part.len();
        }
        Ok(values)
    }

    fn find(&self, name: &str) -> Result<(&Shard, &TensorInfo), LlamaError> {
        self.index
            .get(name)
            .map(|number| &self.shards[*number])
            .and_then(|shard| Some((shard, shard.metadata.info(name)?)))
            .ok_or_else(|| LlamaError::MissingTensor {
                path: self.path_of(name).to_path_buf(),
                tensor: name.into(),
            })
    }
}

impl Shard {
    /// Reads and checks the header: the crate's own checks (offsets without holes, sizes that agree with
    /// shapes, no overflow), and that the data is as long as the file says.
    fn open(path: &Path) -> Result<Self, LlamaError> {
        let file = InputFile::open(path)?;
        let mut length = [0; 8];
        file.read_at(0, &mut length)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER || length > file.len() - 8 {
            return Err(LlamaError::malformed(
                path,
                format!(
                    "the header claims {length} bytes of a file of {}; truncated or not a safetensors file",
                    file.len()
                ),
            ));
        }
        let mut header = vec![0; length as usize];
        file.read_at(8, &mut header)?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| {
            LlamaError::malformed(path, format!("invalid safetensors header: {error}"))
        })?;
        let data_start = 8 + length;
        let expected = data_start + metadata.data_len() as u64;
        if expected != file.len() {
            return Err(LlamaError::malformed(
                path,
                format!(
                    "the header describes {expected} bytes, the file has {}; truncated or damaged, fetch it again",
                    file.len()
                ),
            ));
        }
        Ok(Self {
            file,
            data_start,
            metadata,
        })
    }

    fn float_type(&self, name: &str, info: &TensorInfo) -> Result<FloatType, LlamaError> {
        match info.dtype {
            Dtype::F32 => Ok(FloatType::F32),
            Dtype::F16 => Ok(FloatType::F16),
            Dtype::BF16 => Ok(FloatType::Bf16),
            other => Err(LlamaError::TensorType {
                path: self.file.path().to_path_buf(),
                tensor: name.into(),
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

    /// The values in little-endian bytes of this type.
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

    /// torch's name.
    pub(crate) fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }
}
