//! A 4-bit checkpoint to read weights from while they are used.
//!
//! It is one that transformers and bitsandbytes load. What they do not need: the tensors of a weight lie together, in the order in
//! which a forward pass uses the weights, and each weight begins on a page; the index has a checksum of each.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use nf4::{Codebook, Layout, NESTED_MAP, QuantConfig, bitsandbytes};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tensor_files::{
    AtomicFile, Checksum, Dtype, StagedDir, TensorFile, TensorFileError, TensorWriter,
};

use super::bitsandbytes::{model_config, refused};
use super::companions::{pretty, write_companions};
use super::encoding::CHUNK;
use super::shards::files_of;
use crate::checkpoint::{CHECKSUMS, Checkpoint, FloatType, INDEX, Part};
use crate::error::DecoderError;
use crate::tensors::{EMBEDDING, HEAD, TensorSpec};

/// Bytes of a page, at a multiple of which disks and systems read.
const PAGE: usize = 4096;

/// Room for the JSON that describes a weight, of which some 200 bytes are used.
const STATE: usize = 512;

/// Options of [`write_native`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NativeOptions {
    /// The format of projections that are not in 4 bits yet.
    pub format: QuantConfig,
    /// The most bytes of tensors in a file, but for a weight that is larger alone.
    pub shard_bytes: u64,
}

/// A weight of the model.
struct Weight {
    spec: TensorSpec,
    form: Form,
    /// Its tensors in the order in which they lie in the file: their names, types and shapes.
    tensors: Vec<(String, Dtype, Vec<usize>)>,
}

#[derive(Clone, Copy)]
enum Form {
    Packed(Layout),
    Float(FloatType),
}

struct Shard {
    name: String,
    /// In the order in which they lie in the file.
    weights: Vec<Weight>,
}

/// What is kept of a shard until all are there: checksums by the names of its weights.
#[derive(Deserialize, Serialize)]
struct Record(BTreeMap<String, String>);

/// Writes `checkpoint` with its projections in 4 bits to the new directory `output`, to be read from while it is used; transformers
/// and bitsandbytes load it too. What is in 4 bits already keeps its bits; the other tensors keep the type that they are stored in.
///
/// One tensor is in memory at a time; `on_tensor` is called after each with how many of how many are done. The directory appears
/// when it is complete. Where the process ends before that, or the file system fails or is full, files that are complete stay in a
/// hidden directory beside `output`, and the same call goes on from there once their bytes are found to be what was written.
///
/// # Errors
/// Those of [`write_bitsandbytes`](super::write_bitsandbytes).
pub fn write_native(
    checkpoint: &Checkpoint,
    output: impl AsRef<Path>,
    options: &NativeOptions,
    mut on_tensor: impl FnMut(usize, usize),
) -> Result<(), DecoderError> {
    let float = checkpoint.float_type(EMBEDDING)?;
    let config = model_config(checkpoint, float, options.format)?;
    let shards = shards(checkpoint, options)?;
    let staging = StagedDir::resumable(output.as_ref(), key(checkpoint, options)?)?;
    let filled = fill(
        checkpoint,
        &staging,
        &shards,
        (options.format, float),
        &mut on_tensor,
    );
    match filled {
        Ok(()) => {
            staging.write("config.json", pretty(&config).as_bytes())?;
            for shard in &shards {
                staging.remove(&record_name(shard))?;
            }
            Ok(staging.publish()?)
        }
        // With room, or the file system back, it can go on.
        Err(error @ DecoderError::Io { .. }) => Err(error),
        Err(error) => {
            staging.discard();
            Err(error)
        }
    }
}

/// Returns a number that stands for everything that decides the bytes of the files.
fn key(checkpoint: &Checkpoint, options: &NativeOptions) -> Result<u64, DecoderError> {
    let mut sum = Checksum::default();
    sum.add(&checkpoint.fingerprint()?.to_le_bytes());
    let version = env!("CARGO_PKG_VERSION");
    sum.add_framed(format!("native {version} {options:?}").as_bytes());
    Ok(sum.value())
}

/// Writes all files but config.json.
fn fill(
    checkpoint: &Checkpoint,
    staging: &StagedDir,
    shards: &[Shard],
    (format, float): (QuantConfig, FloatType),
    on_tensor: &mut impl FnMut(usize, usize),
) -> Result<(), DecoderError> {
    let total = shards.iter().map(|shard| shard.weights.len()).sum();
    let (mut checksums, mut places) = (BTreeMap::new(), BTreeMap::new());
    let (mut done, mut bytes) = (0, 0);
    for shard in shards {
        let record = match complete(staging, shard) {
            Some(record) => record,
            None => {
                let on_written = |written| on_tensor(done + written, total);
                write_shard(checkpoint, staging, shard, (format, float), on_written)?
            }
        };
        checksums.extend(record.0);
        for (name, dtype, shape) in shard.tensors() {
            bytes += byte_len(*dtype, shape);
            places.insert(name, &shard.name);
        }
        done += shard.weights.len();
        on_tensor(done, total);
    }
    let index = json!({
        "metadata": { "total_size": bytes, CHECKSUMS: checksums },
        "weight_map": places,
    });
    staging.write(INDEX, pretty(&index).as_bytes())?;
    write_companions(checkpoint, None, staging)
}

/// Spreads the weights in the order of the forward pass over files. In each, those in 4 bits come first, which begin and end with
/// pages, and then the others, the widest first, so that all values lie aligned.
fn shards(checkpoint: &Checkpoint, options: &NativeOptions) -> Result<Vec<Shard>, DecoderError> {
    let specs = checkpoint.config().tensors().into_iter();
    let weights = specs.map(|spec| Weight::of(checkpoint, spec, options.format));
    let weights = weights.collect::<Result<Vec<Weight>, DecoderError>>()?;
    let files = files_of(weights, Weight::bytes, options.shard_bytes);
    let count = files.len();
    let shard = |(index, mut weights): (usize, Vec<Weight>)| {
        weights.sort_by_key(|weight| match weight.form {
            Form::Packed(_) => 0,
            Form::Float(FloatType::F32) => 1,
            Form::Float(_) => 2,
        });
        let number = index + 1;
        Shard {
            name: Part { number, count }.shard(),
            weights,
        }
    };
    Ok(files.into_iter().enumerate().map(shard).collect())
}

impl Weight {
    /// Returns the weight as it is going to be written.
    fn of(
        checkpoint: &Checkpoint,
        spec: TensorSpec,
        format: QuantConfig,
    ) -> Result<Self, DecoderError> {
        let layout = match spec.shape[..] {
            [rows, columns] if spec.projection || spec.name == HEAD => {
                let stored = match checkpoint.is_bitsandbytes() {
                    true => checkpoint.stored_layout(&spec.name, [rows, columns])?,
                    false => None,
                };
                match stored {
                    None if spec.projection => Some(
                        Layout::new([rows, columns], format)
                            .map_err(refused(checkpoint, &spec.name))?,
                    ),
                    stored => stored,
                }
            }
            _ => None,
        };
        let (form, tensors) = match layout {
            Some(layout) => (Form::Packed(layout), packed_tensors(&spec.name, layout)),
            None => {
                let kind = checkpoint.float_type(&spec.name)?;
                let tensor = (spec.name.clone(), kind.dtype(), spec.shape.clone());
                (Form::Float(kind), vec![tensor])
            }
        };
        Ok(Self {
            spec,
            form,
            tensors,
        })
    }

    fn bytes(&self) -> u64 {
        let tensors = self.tensors.iter();
        tensors
            .map(|(_, dtype, shape)| byte_len(*dtype, shape))
            .sum()
    }

    /// Returns the names of its tensors in the order of its checksum.
    fn summed(&self) -> impl Iterator<Item = &str> {
        let name = &self.spec.name;
        let companions = bitsandbytes::companion_names(name);
        let order = std::iter::once(name.clone()).chain(companions);
        order.filter_map(|name| {
            let mut tensors = self.tensors.iter().map(|(tensor, ..)| tensor.as_str());
            tensors.find(|tensor| *tensor == name)
        })
    }
}

impl Shard {
    fn tensors(&self) -> impl Iterator<Item = &(String, Dtype, Vec<usize>)> {
        self.weights.iter().flat_map(|weight| &weight.tensors)
    }
}

/// Returns the tensors of a matrix in 4 bits, wide values first. The last one, JSON, is as long as it takes for all of them to fill
/// pages: behind JSON spaces are allowed.
fn packed_tensors(name: &str, layout: Layout) -> Vec<(String, Dtype, Vec<usize>)> {
    let [nf4, fp4, absmax, map, nested_absmax, nested_map] = bitsandbytes::companion_names(name);
    let config = layout.config().unwrap_or_default();
    let state = match config.codebook {
        Codebook::Fp4 => fp4,
        Codebook::Nf4 | Codebook::Int4 => nf4,
    };
    let blocks = vec![layout.blocks()];
    let codes = (
        name.to_owned(),
        Dtype::U8,
        vec![layout.elements().div_ceil(2), 1],
    );
    let map = (map, Dtype::F32, vec![config.codebook.values().len()]);
    let mut tensors = if config.double_quant {
        vec![
            (nested_absmax, Dtype::F32, vec![layout.nested_blocks()]),
            (nested_map, Dtype::F32, vec![NESTED_MAP]),
            map,
            codes,
            (absmax, Dtype::U8, blocks),
        ]
    } else {
        vec![(absmax, Dtype::F32, blocks), map, codes]
    };
    let taken = tensors
        .iter()
        .map(|(_, dtype, shape)| byte_len(*dtype, shape) as usize);
    let taken: usize = taken.sum();
    let state_len = (taken + STATE).next_multiple_of(PAGE) - taken;
    tensors.push((state, Dtype::U8, vec![state_len]));
    tensors
}

fn byte_len(dtype: Dtype, shape: &[usize]) -> u64 {
    let elements: u64 = shape.iter().map(|extent| *extent as u64).product();
    elements * dtype.bitsize() as u64 / 8
}

fn record_name(shard: &Shard) -> String {
    format!("{}.json", shard.name)
}

/// Returns the record of a shard that an earlier call has written, `None` where there is none or its bytes are other ones.
fn complete(staging: &StagedDir, shard: &Shard) -> Option<Record> {
    let text = staging.read(&record_name(shard)).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    let file = TensorFile::open(&staging.path().join(&shard.name)).ok()?;
    if !file
        .names()
        .eq(shard.tensors().map(|(name, ..)| name.as_str()))
    {
        return None;
    }
    for weight in &shard.weights {
        let mut sum = Checksum::default();
        for name in weight.summed() {
            let add = |bytes: &[u8]| {
                sum.add(bytes);
                Ok::<_, TensorFileError>(())
            };
            file.tensor(name)?.for_each_chunk(add).ok()?;
        }
        if record.0.get(&weight.spec.name) != Some(&digits(&sum)) {
            return None;
        }
    }
    (record.0.len() == shard.weights.len()).then_some(record)
}

fn digits(sum: &Checksum) -> String {
    format!("{:016x}", sum.value())
}

fn write_shard(
    checkpoint: &Checkpoint,
    staging: &StagedDir,
    shard: &Shard,
    (format, float): (QuantConfig, FloatType),
    mut on_weight: impl FnMut(usize),
) -> Result<Record, DecoderError> {
    let file = AtomicFile::create(staging.path().join(&shard.name))?;
    let metadata = HashMap::from([("format".into(), "pt".into())]);
    let declared = shard.tensors().cloned();
    let mut writer = TensorWriter::begin_aligned(file, Some(metadata), declared, PAGE)?;
    let mut checksums = BTreeMap::new();
    for (index, weight) in shard.weights.iter().enumerate() {
        let name = &weight.spec.name;
        let mut sum = Checksum::default();
        match weight.form {
            Form::Packed(layout) => {
                // A head stays in whatever format it has.
                let stored = match weight.spec.projection {
                    true => None,
                    false => checkpoint.read_quantized(name, layout.shape())?,
                };
                let matrix = match stored {
                    Some(matrix) => matrix,
                    None => checkpoint.quantize(name, layout.shape(), format)?,
                };
                let entries = bitsandbytes::write(name, &matrix, float.torch_name())
                    .map_err(refused(checkpoint, name))?;
                let mut bytes: HashMap<String, Vec<u8>> = entries
                    .into_iter()
                    .map(|(name, entry)| (name, entry.data.into_owned()))
                    .collect();
                if let Some((state, _, shape)) = weight.tensors.last()
                    && let Some(json) = bytes.get_mut(state)
                {
                    json.resize(json.len().max(shape[0]), b' ');
                }
                let of = |tensor: &str| bytes.get(tensor).map_or(&[][..], Vec::as_slice);
                for (tensor, ..) in &weight.tensors {
                    writer.write(tensor, of(tensor))?;
                }
                weight.summed().for_each(|tensor| sum.add(of(tensor)));
            }
            Form::Float(kind) => {
                checkpoint.for_each_piece(name, &weight.spec.shape, |piece| {
                    for values in piece.chunks(CHUNK) {
                        let bytes = kind.encode(values);
                        sum.add(&bytes);
                        writer.write(name, &bytes)?;
                    }
                    Ok(())
                })?;
            }
        }
        checksums.insert(name.clone(), digits(&sum));
        on_weight(index + 1);
    }
    writer.finish()?.commit()?;
    let record = Record(checksums);
    staging.write(&record_name(shard), pretty(&json!(record)).as_bytes())?;
    Ok(record)
}
