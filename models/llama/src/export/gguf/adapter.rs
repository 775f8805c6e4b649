//! An adapter as `llama-cli --lora` reads it.

use std::path::Path;

use burn_qlora::peft::FittedAdapter;
use burn_qlora::{Factors, LoraConfig};
use candle_core::quantized::gguf_file::Value;
use tensor_files::AtomicFile;

use super::file::{Declared, GgufWriter};
use super::{GgufType, in_order, metadata, refuse_taken};
use crate::checkpoint::{FloatType, Layout, Stored};
use crate::error::DecoderError;
use crate::export::merged::MergedCheckpoint;
use crate::tensors::{EMBEDDING, HEAD, module};

/// A layer with factors.
struct Layer<'a> {
    path: String,
    stored: Stored,
    config: &'a LoraConfig,
    /// `[out_features, in_features]`.
    shape: Vec<usize>,
}

/// Writes the adapter of `model` as a GGUF file in f32, for the files that llama.cpp has of the model without it.
///
/// llama.cpp multiplies by `alpha / rank` with one alpha for all layers: it is that of the first, rsLoRA folded in, and other
/// layers have what differs folded into their `lora_b`, whose rows stand in the order of the weight's. One layer's factors are in
/// memory at a time. The file appears when it is complete.
///
/// # Errors
/// [`DecoderError::NoAdapter`] without an adapter; [`DecoderError::NotInGguf`] for one that changes embedding or head;
/// [`DecoderError::OutputExists`]; [`DecoderError::Lora`] for factors that are damaged; a file system that fails or is full.
pub fn write_gguf_adapter(
    model: &MergedCheckpoint<'_>,
    output: impl AsRef<Path>,
    mut on_layer: impl FnMut(usize, usize),
) -> Result<(), DecoderError> {
    let output = output.as_ref();
    refuse_taken(output)?;
    let (checkpoint, config) = (model.checkpoint(), model.config());
    let path = || checkpoint.path().to_path_buf();
    let adapter = model
        .adapter()
        .ok_or_else(|| DecoderError::NoAdapter { path: path() })?;
    for name in [EMBEDDING, HEAD] {
        let path_of = module(name);
        if adapter.changes_whole(path_of) || adapter.tokens(path_of).is_some() {
            return Err(DecoderError::NotInGguf {
                path: path(),
                key: "an adapter's own".into(),
                value: module(name).into(),
                said: "the model's".into(),
            });
        }
    }
    let definition = checkpoint.gguf_definition()?;
    let layout = Layout::of(config, definition.interleaved);
    let projections = model.tensors().into_iter().filter(|spec| spec.projection);
    let layers: Vec<Layer> = projections
        .filter_map(|spec| {
            let path = module(&spec.name);
            Some(Layer {
                path: path.into(),
                stored: layout.stored(&spec.name),
                config: adapter.config_of(path)?,
                shape: spec.shape,
            })
        })
        .collect();

    let mut declared = Vec::new();
    let mut alpha = None;
    for layer in &layers {
        let rank = layer.config.rank;
        alpha.get_or_insert(layer.config.scale() * rank as f64);
        let [out_features, in_features] = [0, 1].map(|axis| layer.shape[axis]);
        for (part, rows, columns) in [
            ("lora_a", rank, in_features),
            ("lora_b", out_features, rank),
        ] {
            declared.push(Declared {
                name: format!("{}.{part}", layer.stored.name),
                shape: vec![rows, columns],
                kind: GgufType::F32,
            });
        }
    }
    let alpha = alpha.unwrap_or(1.0) as f32;
    let text = |text: &str| Value::String(text.into());
    let metadata = [
        ("general.architecture", text(definition.architecture)),
        ("general.type", text("adapter")),
        ("general.base_model.count", Value::U32(1)),
        (
            "general.base_model.0.name",
            text(&metadata::name_of(checkpoint)),
        ),
        ("general.file_type", Value::U32(GgufType::F32.file_type())),
        ("adapter.type", text("lora")),
        ("adapter.lora.alpha", Value::F32(alpha)),
    ]
    .map(|(key, value)| (key.to_owned(), value));
    let mut writer = GgufWriter::begin(AtomicFile::create(output)?, &metadata, declared)?;
    for (index, layer) in layers.iter().enumerate() {
        let mut factors = factors(adapter, layer)?;
        let rank = factors.config.rank;
        let said = f64::from(alpha) / rank as f64;
        let rest = (factors.config.scale() / said) as f32;
        if rest != 1.0 {
            factors.b.iter_mut().for_each(|value| *value *= rest);
        }
        let b = in_order(&layer.stored, &[factors.b.len() / rank, rank], &factors.b);
        for (part, values) in [("lora_a", &factors.a), ("lora_b", &b)] {
            let name = format!("{}.{part}", layer.stored.name);
            writer.write(&name, &FloatType::F32.encode(values))?;
        }
        on_layer(index + 1, layers.len());
    }
    Ok(writer.finish()?.commit()?)
}

fn factors(adapter: &FittedAdapter<'_>, layer: &Layer<'_>) -> Result<Factors, DecoderError> {
    let factors = adapter.factors(&layer.path)?;
    factors.ok_or_else(|| DecoderError::MissingTensor {
        path: layer.path.clone().into(),
        tensor: layer.stored.name.clone(),
    })
}
