//! A Hugging Face directory in 16 or 32 bits, as transformers' `save_pretrained` writes it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use burn_qlora::WeightChange;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tensor_files::{AtomicFile, Checksum, StagedDir, TensorFile, TensorFileError, TensorWriter};

use super::companions::{padding, pretty, write_companions};
use super::encoding::{CHUNK, check_held};
use super::merged::{MergeReport, MergedCheckpoint};
use super::shards::{self, Shard};
use crate::checkpoint::FloatType;
use crate::error::DecoderError;

/// Options of [`write_hf`].
#[derive(Clone, Debug, PartialEq)]
pub struct HfOptions {
    /// The type of all tensors.
    pub dtype: FloatType,
    /// The most bytes of tensors in a file.
    pub shard_bytes: u64,
    /// A chat template in place of the checkpoint's.
    pub chat_template: Option<String>,
}

/// What a config.json says that decides nothing here, and that is passed on.
const PASSED_ON: [&str; 4] = [
    "pad_token_id",
    "attention_dropout",
    "initializer_range",
    "use_cache",
];

/// Writes `model` to the new directory `output`: weights in shards with an index, config.json, generation_config.json, the
/// tokenizer's files and the chat template.
///
/// One tensor is in memory at a time, in f32, and of those that are stored as they are used not even that; `on_tensor` is called after each with how many of how many are done. The directory
/// appears when it is complete. Where the process ends before that, or the file system fails or is full, shards that are complete
/// stay in a hidden directory beside `output`, and the same call goes on from there once their bytes are found to be what was
/// written.
///
/// # Errors
/// [`DecoderError::OutputExists`] when `output` is not a new or empty directory; [`DecoderError::NotRepresentable`] for a value
/// that the type cannot hold; what reading refuses; a file system that fails or is full.
pub fn write_hf(
    model: &MergedCheckpoint<'_>,
    output: impl AsRef<Path>,
    options: &HfOptions,
    mut on_tensor: impl FnMut(usize, usize),
) -> Result<MergeReport, DecoderError> {
    let config = config_json(model, options.dtype)?;
    let shards = shards::spread(model.tensors(), options.dtype, options.shard_bytes);
    let staging = StagedDir::resumable(output.as_ref(), key(model, options)?)?;
    match fill(model, &staging, &shards, options, &mut on_tensor) {
        Ok(report) => {
            staging.write("config.json", pretty(&config).as_bytes())?;
            for shard in &shards {
                staging.remove(&record_name(shard))?;
            }
            staging.publish()?;
            Ok(report)
        }
        // With room, or the file system back, it can go on.
        Err(error @ DecoderError::Io { .. }) => Err(error),
        Err(error) => {
            staging.discard();
            Err(error)
        }
    }
}

/// Writes all files but config.json.
fn fill(
    model: &MergedCheckpoint<'_>,
    staging: &StagedDir,
    shards: &[Shard],
    options: &HfOptions,
    on_tensor: &mut impl FnMut(usize, usize),
) -> Result<MergeReport, DecoderError> {
    let total = shards.iter().map(|shard| shard.tensors.len()).sum();
    let mut report = MergeReport {
        changes: BTreeMap::new(),
        replaced: model.replaced(),
        rows: model.replaced_rows(),
    };
    let mut done = 0;
    for shard in shards {
        let record = match complete(staging, shard, options.dtype) {
            Some(record) => record,
            None => write_shard(model, staging, shard, options.dtype, |written| {
                on_tensor(done + written, total);
            })?,
        };
        report.changes.extend(record.changes);
        done += shard.tensors.len();
        on_tensor(done, total);
    }
    if let Some((name, index)) = shards::index(shards, options.dtype) {
        staging.write(name, pretty(&index).as_bytes())?;
    }
    let template = options.chat_template.as_deref();
    write_companions(model.checkpoint(), template, staging)?;
    Ok(report)
}

/// Returns the hidden directory that holds what an interrupted [`write_hf`] or [`write_native`](super::write_native) to `output` has
/// done, if there is one.
pub fn unfinished_export(output: impl AsRef<Path>) -> Option<PathBuf> {
    StagedDir::unfinished(output.as_ref())
}

/// Returns a number that stands for everything that decides the bytes of the shards.
fn key(model: &MergedCheckpoint<'_>, options: &HfOptions) -> Result<u64, DecoderError> {
    let mut sum = Checksum::default();
    sum.add(&model.fingerprint()?.to_le_bytes());
    let version = env!("CARGO_PKG_VERSION");
    let options = (options.dtype, options.shard_bytes);
    sum.add_framed(format!("hf {version} {options:?}").as_bytes());
    Ok(sum.value())
}

/// Returns the config.json, which says nothing of how the checkpoint was quantized.
fn config_json(model: &MergedCheckpoint<'_>, dtype: FloatType) -> Result<Value, DecoderError> {
    let checkpoint = model.checkpoint();
    let mut config = model
        .config()
        .to_hf_json(dtype.torch_name(), checkpoint.path())?;
    for key in PASSED_ON {
        if let Some(value) = checkpoint.config_value(key)? {
            config[key] = value;
        }
    }
    if let Some(pad) = padding(checkpoint)? {
        config["pad_token_id"] = json!(pad);
    }
    Ok(config)
}

/// What is kept of a shard until all are there.
#[derive(Deserialize, Serialize)]
struct Record {
    /// Of the bytes of its tensors.
    checksum: u64,
    /// By the names of the tensors.
    changes: BTreeMap<String, WeightChange>,
}

fn record_name(shard: &Shard) -> String {
    format!("{}.json", shard.name)
}

/// Returns the record of a shard that an earlier call has written, `None` where there is none or its bytes are other ones.
fn complete(staging: &StagedDir, shard: &Shard, dtype: FloatType) -> Option<Record> {
    let text = staging.read(&record_name(shard)).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    let file = TensorFile::open(&staging.path().join(&shard.name)).ok()?;
    let mut sum = Checksum::default();
    for spec in &shard.tensors {
        let tensor = file.tensor(&spec.name)?;
        if (tensor.dtype(), tensor.shape()) != (dtype.dtype(), spec.shape.as_slice()) {
            return None;
        }
        let add = |bytes: &[u8]| {
            sum.add(bytes);
            Ok::<_, TensorFileError>(())
        };
        tensor.for_each_chunk(add).ok()?;
    }
    (file.len() == shard.tensors.len() && sum.value() == record.checksum).then_some(record)
}

fn write_shard(
    model: &MergedCheckpoint<'_>,
    staging: &StagedDir,
    shard: &Shard,
    dtype: FloatType,
    mut on_tensor: impl FnMut(usize),
) -> Result<Record, DecoderError> {
    let file = AtomicFile::create(staging.path().join(&shard.name))?;
    let metadata = HashMap::from([("format".into(), "pt".into())]);
    let described = shard.tensors.iter();
    let described = described.map(|spec| (spec.name.clone(), dtype.dtype(), spec.shape.clone()));
    let mut writer = TensorWriter::begin(file, Some(metadata), described)?;
    let mut sum = Checksum::default();
    let mut changes = BTreeMap::new();
    for (index, spec) in shard.tensors.iter().enumerate() {
        let change = model.for_each_piece(spec, |piece| {
            for values in piece.chunks(CHUNK) {
                let holds = |value| dtype.holds(value);
                let path = model.checkpoint().path();
                check_held(values, holds, dtype.torch_name(), spec, path)?;
                let bytes = dtype.encode(values);
                sum.add(&bytes);
                writer.write(&spec.name, &bytes)?;
            }
            Ok(())
        })?;
        if let Some(change) = change {
            changes.insert(spec.name.clone(), change);
        }
        on_tensor(index + 1);
    }
    writer.finish()?.commit()?;
    let record = Record {
        checksum: sum.value(),
        changes,
    };
    staging.write(&record_name(shard), pretty(&json!(record)).as_bytes())?;
    Ok(record)
}
