//! Adapters in llama.cpp's form, as `llama-cli --lora` takes them (llama-adapter.cpp).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn_qlora::peft::Adapter;
use burn_qlora::{LoraConfig, LoraError, Overrides};
use tensor_files::{AtomicFile, Dtype, TensorFile, TensorWriter};

use super::layout::{Layout, Stored};
use super::{GgufDefinition, GgufFile};
use crate::checkpoint::FloatType;
use crate::config::DecoderConfig;
use crate::error::DecoderError;
use crate::tensors::module;

/// The ends of the names of factors, and peft's of the same.
const FACTORS: [(&str, &str); 2] = [(".lora_a", "lora_A"), (".lora_b", "lora_B")];

/// Reads the adapter at `path` for the model that `config` describes, whose files are as `definition` says. Names, shapes and
/// values come out as peft has them, in a file without a name.
///
/// # Errors
/// [`DecoderError::Lora`] for what is no adapter, of another kind or for another model; a file that is damaged.
pub(crate) fn read(
    path: &Path,
    config: &DecoderConfig,
    definition: &GgufDefinition,
) -> Result<Adapter, DecoderError> {
    let file = GgufFile::open(path)?;
    let alpha = check_kind(&file, definition)?;
    let layers = layers(&file, &Layout::of(config, definition.interleaved), config)?;

    let ranks: BTreeMap<&str, usize> = layers
        .iter()
        .filter(|tensor| tensor.part == FACTORS[0].1)
        .map(|tensor| (tensor.path.as_str(), tensor.shape[0]))
        .collect();
    let rank = ranks.values().next().copied().unwrap_or(1);
    // Without an alpha the product is taken as it is.
    let alpha_of = |rank: usize| if alpha == 0.0 { rank as f64 } else { alpha };
    let others = || ranks.iter().filter(|(_, own)| **own != rank);
    let lora = LoraConfig::new(rank, alpha_of(rank))
        .with_rank_pattern(others().map(|(path, own)| (escaped(path), *own)).collect())
        .with_alpha_pattern(match alpha {
            0.0 => others()
                .map(|(path, own)| (escaped(path), *own as f64))
                .collect(),
            _ => Overrides::default(),
        });

    let scratch = AtomicFile::create(std::env::temp_dir().join("adapter.safetensors"))?;
    let declared = layers.iter();
    let declared = declared.map(|tensor| (tensor.name(), Dtype::F32, tensor.shape.clone()));
    let mut writer = TensorWriter::begin(scratch, None, declared.collect::<Vec<_>>())?;
    for tensor in &layers {
        let values = file.read_f32(&tensor.stored, &tensor.shape)?;
        writer.write(&tensor.name(), &FloatType::F32.encode(&values))?;
    }
    let input = writer.finish()?.into_scratch(path)?;
    Ok(Adapter::of_tensors(lora, TensorFile::of(input)?)?)
}

/// A factor of a layer.
struct Factor {
    /// The path of the layer.
    path: String,
    /// peft's name of the factor.
    part: &'static str,
    stored: Stored,
    shape: Vec<usize>,
}

impl Factor {
    fn name(&self) -> String {
        format!("{}.{}.weight", self.path, self.part)
    }
}

/// Returns the alpha of an adapter that can be read.
fn check_kind(file: &GgufFile, definition: &GgufDefinition) -> Result<f64, DecoderError> {
    let keys = file.metadata();
    let path = file.path().to_path_buf();
    let no_adapter = |reason: String| {
        DecoderError::Lora(LoraError::NoAdapter {
            path: path.clone(),
            reason,
        })
    };
    match keys.text("general.type")? {
        Some("adapter") => {}
        found => {
            let found = found.unwrap_or("model");
            return Err(no_adapter(format!(
                "its general.type is {found}; give a file that was made for llama.cpp's --lora"
            )));
        }
    }
    let unsupported = |key: &str, value: &str, way_out| {
        DecoderError::Lora(LoraError::UnsupportedAdapter {
            path: path.clone(),
            key: key.into(),
            value: value.into(),
            way_out,
        })
    };
    match keys.text("adapter.type")? {
        Some("lora") => {}
        found => {
            let found = found.unwrap_or("nothing");
            return Err(unsupported(
                "adapter.type",
                found,
                "read are those of type lora",
            ));
        }
    }
    if keys
        .array("adapter.alora.invocation_tokens")?
        .is_some_and(|tokens| !tokens.is_empty())
    {
        let key = "adapter.alora.invocation_tokens";
        return Err(unsupported(
            key,
            "a list",
            "read are adapters that are always on",
        ));
    }
    match keys.text("general.architecture")? {
        Some(found) if found == definition.architecture => {}
        found => {
            return Err(DecoderError::Lora(LoraError::AnotherModel {
                path: path.clone(),
                reason: format!(
                    "it is for the architecture {}, but the model is {}",
                    found.unwrap_or("of no name"),
                    definition.architecture
                ),
            }));
        }
    }
    Ok(keys.number("adapter.lora.alpha")?.unwrap_or(0.0))
}

/// Returns the factors, in the order of their names.
fn layers(
    file: &GgufFile,
    layout: &Layout,
    config: &DecoderConfig,
) -> Result<Vec<Factor>, DecoderError> {
    let another = |reason: String| {
        DecoderError::Lora(LoraError::AnotherModel {
            path: file.path().to_path_buf(),
            reason,
        })
    };
    let known: HashMap<String, (String, Stored)> = config
        .tensors()
        .into_iter()
        .filter(|spec| spec.projection)
        .map(|spec| {
            let stored = layout.stored(&spec.name);
            (stored.name.clone(), (module(&spec.name).to_owned(), stored))
        })
        .collect();
    let mut factors = Vec::new();
    for (name, info) in file.tensors() {
        let found = FACTORS.iter().find_map(|(end, part)| {
            let (path, weight) = known.get(name.strip_suffix(end)?)?;
            Some((path, weight, *part))
        });
        let Some((path, weight, part)) = found else {
            return Err(another(format!(
                "its tensor `{name}` is no factor of a linear layer of this one; of adapters for llama.cpp these are read"
            )));
        };
        let shape = info.shape.clone();
        if shape.len() != 2 || shape.contains(&0) {
            return Err(another(format!(
                "its tensor `{name}` has shape {shape:?}, but a factor has two axes"
            )));
        }
        let is_b = part == FACTORS[1].1;
        let rows = if is_b {
            weight.rows
        } else {
            super::RowOrder::AsUsed
        };
        if !rows.divides(shape[0]) {
            return Err(another(format!(
                "its tensor `{name}` has shape {shape:?}, whose rows are not those of the heads of this one"
            )));
        }
        factors.push(Factor {
            path: path.clone(),
            part,
            stored: Stored {
                name: name.to_owned(),
                rows,
                offset: 0.0,
            },
            shape,
        });
    }
    factors.sort_by(|a, b| a.stored.name.cmp(&b.stored.name));
    if factors.is_empty() {
        return Err(another("it has no tensor for any layer of this one".into()));
    }
    Ok(factors)
}

/// Returns a pattern that a path alone fits.
fn escaped(path: &str) -> String {
    path.replace('.', r"\.")
}
