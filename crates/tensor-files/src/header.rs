//! The header of a safetensors file, checked alike whether it was read or is to be written.

use std::collections::HashMap;
use std::fmt;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::value::StrDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::Malformation;

/// Bytes of the number before the header, which is the header's length.
pub(crate) const LENGTH_BYTES: u64 = 8;
/// Where values of every type lie aligned.
pub(crate) const ALIGNMENT: usize = 8;
/// Longest header that is read, as in the safetensors crate.
pub(crate) const MAX_HEADER: u64 = 100_000_000;
/// Key of what is said about the file as a whole.
const METADATA: &str = "__metadata__";

/// The tensors of a file, in the order of their bytes, without holes between them.
#[derive(Debug)]
pub(crate) struct Header {
    metadata: Option<HashMap<String, String>>,
    tensors: Vec<(String, TensorInfo)>,
    index: HashMap<String, usize>,
}

impl Header {
    /// Reads the JSON of a header.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Malformation> {
        let raw: RawHeader =
            serde_json::from_slice(text).map_err(|error| Malformation::HeaderJson {
                reason: error.to_string(),
            })?;
        let mut tensors = raw
            .tensors
            .into_iter()
            .map(|(name, raw)| {
                let dtype = parse_dtype(&raw.dtype).ok_or_else(|| Malformation::UnknownDtype {
                    tensor: name.clone(),
                    dtype: raw.dtype,
                })?;
                let info = TensorInfo {
                    dtype,
                    shape: raw.shape,
                    data_offsets: raw.data_offsets,
                };
                Ok((name, info))
            })
            .collect::<Result<Vec<_>, _>>()?;
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        Self::check(raw.metadata, tensors)
    }

    /// Describes tensors that lie one behind the other.
    pub(crate) fn describe(
        metadata: Option<HashMap<String, String>>,
        tensors: impl IntoIterator<Item = (String, Dtype, Vec<usize>)>,
    ) -> Result<Self, Malformation> {
        let mut end = 0usize;
        let tensors = tensors
            .into_iter()
            .map(|(name, dtype, shape)| {
                let begin = end;
                end = begin
                    .checked_add(byte_size(&name, dtype, &shape)?)
                    .ok_or_else(|| overflow(&name, &shape))?;
                let info = TensorInfo {
                    dtype,
                    shape,
                    data_offsets: (begin, end),
                };
                Ok((name, info))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Self::check(metadata, tensors)
    }

    fn check(
        metadata: Option<HashMap<String, String>>,
        tensors: Vec<(String, TensorInfo)>,
    ) -> Result<Self, Malformation> {
        let mut index = HashMap::with_capacity(tensors.len());
        let mut previous_end = 0;
        for (number, (name, info)) in tensors.iter().enumerate() {
            if index.insert(name.clone(), number).is_some() {
                return Err(Malformation::DuplicateTensor {
                    tensor: name.clone(),
                });
            }
            check_place(name, info, previous_end)?;
            previous_end = info.data_offsets.1;
        }
        Ok(Self {
            metadata,
            tensors,
            index,
        })
    }

    /// Returns what stands before the values in the file: the header's length and the header, filled up with spaces
    /// so that the values begin at a multiple of `alignment` bytes.
    pub(crate) fn encode(&self, alignment: usize) -> Result<Vec<u8>, Malformation> {
        let invalid = |reason: String| Malformation::HeaderJson { reason };
        let metadata = Metadata::new(self.metadata.clone(), self.tensors.clone())
            .map_err(|error| invalid(error.to_string()))?;
        let json = serde_json::to_vec(&metadata).map_err(|error| invalid(error.to_string()))?;
        let before = LENGTH_BYTES as usize;
        let begin = (before + json.len()).next_multiple_of(alignment);
        let mut bytes = ((begin - before) as u64).to_le_bytes().to_vec();
        bytes.extend(json);
        bytes.resize(begin, b' ');
        Ok(bytes)
    }

    pub(crate) fn metadata(&self) -> Option<&HashMap<String, String>> {
        self.metadata.as_ref()
    }

    pub(crate) fn tensors(&self) -> &[(String, TensorInfo)] {
        &self.tensors
    }

    pub(crate) fn find(&self, name: &str) -> Option<&(String, TensorInfo)> {
        self.tensors.get(*self.index.get(name)?)
    }

    /// Returns how many bytes all tensors take.
    pub(crate) fn data_len(&self) -> usize {
        self.tensors
            .last()
            .map_or(0, |(_, info)| info.data_offsets.1)
    }
}

/// Checks that a tensor begins where the one before it ends, and is as long as its shape takes.
fn check_place(name: &str, info: &TensorInfo, previous_end: usize) -> Result<(), Malformation> {
    let tensor = || name.to_owned();
    let (begin, end) = info.data_offsets;
    if end < begin {
        return Err(Malformation::ReversedOffsets {
            tensor: tensor(),
            begin,
            end,
        });
    }
    if begin < previous_end {
        return Err(Malformation::Overlap {
            tensor: tensor(),
            begin,
            previous_end,
        });
    }
    if begin > previous_end {
        return Err(Malformation::Gap {
            tensor: tensor(),
            begin,
            previous_end,
        });
    }
    let expected = byte_size(name, info.dtype, &info.shape)?;
    if end - begin != expected {
        return Err(Malformation::TensorSize {
            tensor: tensor(),
            dtype: info.dtype,
            shape: info.shape.clone(),
            begin,
            expected,
            found: end - begin,
        });
    }
    Ok(())
}

fn byte_size(name: &str, dtype: Dtype, shape: &[usize]) -> Result<usize, Malformation> {
    let bits = shape
        .iter()
        .try_fold(dtype.bitsize(), |bits, extent| bits.checked_mul(*extent))
        .ok_or_else(|| overflow(name, shape))?;
    if !bits.is_multiple_of(8) {
        return Err(Malformation::PartialByte {
            tensor: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
        });
    }
    Ok(bits / 8)
}

fn overflow(name: &str, shape: &[usize]) -> Malformation {
    Malformation::ShapeOverflow {
        tensor: name.to_owned(),
        shape: shape.to_vec(),
    }
}

fn parse_dtype(name: &str) -> Option<Dtype> {
    Dtype::deserialize(StrDeserializer::<serde::de::value::Error>::new(name)).ok()
}

/// A header as it stands in the file. The safetensors crate's own type is a map, which forgets the first of two
/// tensors of one name.
struct RawHeader {
    metadata: Option<HashMap<String, String>>,
    tensors: Vec<(String, RawTensor)>,
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut metadata = None;
                let mut tensors = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    if key != METADATA {
                        tensors.push((key, map.next_value()?));
                    } else if metadata.replace(map.next_value()?).is_some() {
                        return Err(A::Error::duplicate_field(METADATA));
                    }
                }
                Ok(RawHeader {
                    metadata: metadata.flatten(),
                    tensors,
                })
            }
        }

        deserializer.deserialize_map(Entries)
    }
}
