//! `adapter_config.json` of peft.

use crate::config::{Blocks, LoraConfig, Overrides, Targets, TokenIndices};
use crate::error::LoraError;
use crate::peft::keys::{Verdict, judge};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json};
use std::path::Path;

/// What a configuration file says.
pub(super) struct Description {
    /// The adapter. Its targets are those that `targets` says, if it does.
    pub config: LoraConfig,
    /// Whether the targets are those of the file's tensors, as none are named.
    pub targets_of_the_tensors: bool,
    /// What a user should know.
    pub warnings: Vec<String>,
}

/// The keys this crate acts on.
#[derive(Deserialize)]
struct Understood {
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: Option<f64>,
    #[serde(default)]
    use_rslora: Option<bool>,
    target_modules: Option<Targets>,
    exclude_modules: Option<Targets>,
    layers_to_transform: Option<OneOrMany<usize>>,
    layers_pattern: Option<OneOrMany<String>>,
    rank_pattern: Option<Overrides<usize>>,
    alpha_pattern: Option<Overrides<f64>>,
    modules_to_save: Option<Vec<String>>,
    trainable_token_indices: Option<TokenIndices>,
}

/// A value where peft takes a list as well.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(value) => vec![value],
            Self::Many(values) => values,
        }
    }
}

/// Takes the configuration `text` of the file at `path`, whose keys are `keys`.
///
/// # Errors
/// [`LoraError::Malformed`] when it is no LoRA configuration, [`LoraError::UnsupportedAdapter`] when it asks for what this crate
/// cannot compute.
pub(super) fn read(
    text: &[u8],
    keys: &Map<String, Value>,
    path: &Path,
) -> Result<Description, LoraError> {
    let malformed = |reason: String| LoraError::Malformed {
        path: path.to_owned(),
        expected: "peft adapter configuration",
        reason,
    };
    let unsupported = |key: &str, value: &Value, way_out| LoraError::UnsupportedAdapter {
        path: path.to_owned(),
        key: key.to_owned(),
        value: value.to_string(),
        way_out,
    };
    // The kind comes first: other methods have keys of their own.
    if let Some(kind) = keys.get("peft_type").filter(|kind| !kind.is_null())
        && kind != "LORA"
    {
        let way_out = "read are adapters of peft_type \"LORA\"; train one";
        return Err(unsupported("peft_type", kind, way_out));
    }
    let mut warnings = Vec::new();
    for (key, value) in keys {
        match judge(key, value) {
            Verdict::Harmless => {}
            Verdict::Refused(way_out) => return Err(unsupported(key, value, way_out)),
            Verdict::Doubtful(words) => warnings.push(format!("{}: {words}", path.display())),
        }
    }
    let understood: Understood =
        serde_json::from_slice(text).map_err(|error| malformed(error.to_string()))?;
    let blocks = understood.layers_to_transform.map(OneOrMany::into_vec);
    let blocks = blocks.filter(|numbers| !numbers.is_empty());
    let names = understood.layers_pattern.map(OneOrMany::into_vec);
    let names = names.unwrap_or_default();
    let is_list = matches!(understood.target_modules, None | Some(Targets::Names(_)));
    if blocks.is_some() && !is_list {
        let reason = "`layers_to_transform` goes with a list of `target_modules` only";
        return Err(malformed(reason.into()));
    }
    // Names that are not there leave nothing out.
    let exclude = understood.exclude_modules.filter(|exclude| match exclude {
        Targets::Names(names) => !names.is_empty(),
        Targets::Regex(pattern) => !pattern.is_empty(),
        Targets::AllLinear => false,
    });
    let targets_of_the_tensors = understood.target_modules.is_none();
    let config = LoraConfig {
        dropout: understood.lora_dropout.unwrap_or(0.0),
        rslora: understood.use_rslora.unwrap_or(false),
        targets: understood.target_modules.unwrap_or_default(),
        exclude,
        blocks: blocks.map(|numbers| Blocks {
            numbers,
            names: names.into_iter().filter(|name| !name.is_empty()).collect(),
        }),
        rank_pattern: understood.rank_pattern.unwrap_or_default(),
        alpha_pattern: understood.alpha_pattern.unwrap_or_default(),
        modules_to_save: understood.modules_to_save.unwrap_or_default(),
        trainable_token_indices: understood.trainable_token_indices.unwrap_or_default(),
        ..LoraConfig::new(understood.r, understood.lora_alpha)
    };
    config
        .validate()
        .map_err(|error| malformed(error.to_string()))?;
    Ok(Description {
        config,
        targets_of_the_tensors,
        warnings,
    })
}

/// Returns the text that describes adapters of `config` on `base_model`, with every key that peft 0.21 writes, so that a
/// newer peft finds what it looks for.
pub(super) fn to_json(config: &LoraConfig, base_model: &str) -> String {
    let blocks = config.blocks.as_ref();
    let modules_to_save = &config.modules_to_save;
    let tokens = &config.trainable_token_indices;
    let plain = json!({
        "alora_invocation_tokens": null,
        "arrow_config": null,
        "auto_mapping": null,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "corda_config": null,
        "ensure_weight_tying": false,
        "eva_config": null,
        "exclude_modules": config.exclude,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "kasa_config": null,
        "layer_replication": null,
        "layers_pattern": blocks.map(|blocks| &blocks.names).filter(|names| !names.is_empty()),
        "layers_to_transform": blocks.map(|blocks| &blocks.numbers),
        "loftq_config": {},
        "lora_alpha": whole(config.alpha),
        "lora_bias": false,
        "lora_dropout": config.dropout,
        "lora_ga_config": null,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": (!modules_to_save.is_empty()).then_some(modules_to_save),
        "monteclora_config": null,
        "peft_type": "LORA",
        "peft_version": PEFT_VERSION,
        "qalora_group_size": 16,
        "r": config.rank,
        "revision": null,
        "target_modules": config.targets,
        "target_parameters": null,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": (!tokens.is_empty()).then_some(tokens),
        "use_bdlora": null,
        "use_dora": false,
        "use_qalora": false,
        "use_rslora": config.rslora,
        "velora_config": null
    });
    let ranks = config.rank_pattern.iter();
    let alphas = config.alpha_pattern.iter();
    let patterns = [
        (
            "alpha_pattern",
            in_order(alphas.map(|(name, alpha)| (name, whole(alpha)))),
        ),
        (
            "rank_pattern",
            in_order(ranks.map(|(name, rank)| (name, json!(rank)))),
        ),
    ];
    let patterns = patterns.map(|(key, patterns)| (key.to_owned(), Entry::Patterns(patterns)));
    let Value::Object(plain) = plain else {
        unreachable!("braces make an object");
    };
    let plain = plain
        .into_iter()
        .map(|(key, value)| (key, Entry::Plain(value)));
    let mut entries: Vec<(String, Entry)> = plain.chain(patterns).collect();
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    let text = serde_json::to_string_pretty(&Entries(entries));
    format!("{}\n", text.expect("maps with string keys should be JSON"))
}

/// The release whose format is written.
const PEFT_VERSION: &str = "0.21.2";

/// A value of the file. The order of patterns is part of their meaning, which a [`Value`] does not keep.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry {
    Plain(Value),
    Patterns(Overrides<Value>),
}

/// Keys and values in this order.
struct Entries(Vec<(String, Entry)>);

impl Serialize for Entries {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

fn in_order<'a>(entries: impl Iterator<Item = (&'a str, Value)>) -> Overrides<Value> {
    entries
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// Returns `16.0` as `16`: older readers, llama.cpp's among them, want an integer where there is one.
fn whole(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        json!(value as i64)
    } else {
        json!(value)
    }
}
