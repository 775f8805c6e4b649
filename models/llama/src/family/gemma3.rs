//! Gemma 3: as Gemma 2 without bounds, with norms of each head's queries and keys, and with a rotation of their own in the
//! layers that have a window.

use serde_json::{Value, json};

#[cfg(feature = "gguf")]
use super::GgufDefinition;
#[cfg(feature = "gguf")]
use super::gemma;
use super::gemma2::{self, Bounds};
use super::{Definition, Family, Names};
#[cfg(feature = "gguf")]
use crate::checkpoint::{GgufFields, GgufKeys};
#[cfg(feature = "gguf")]
use crate::config::NormPlacement;
use crate::config::{DecoderConfig, Defaults, FULL, Keys, QueryKeyNorm, RopeKeys, SLIDING};
use crate::error::DecoderError;
use crate::rope::RopeConfig;

pub(super) const DEFINITION: Definition = Definition {
    names: Names {
        hf_model_type: "gemma3_text",
        hf_architectures: &["Gemma3ForCausalLM", "Gemma3TextModel"],
    },
    defaults: Defaults {
        // Published multimodal files leave out even this.
        vocab_size: Some(262_208),
        max_position_embeddings: 131_072,
        rope_theta: 1_000_000.0,
        ..gemma2::DEFAULTS
    },
    read_hf,
    write_hf,
    #[cfg(feature = "gguf")]
    gguf: GgufDefinition {
        architecture: "gemma3",
        interleaved: false,
        read: read_gguf,
        write: write_gguf,
    },
};

/// The number of each rotation in the configuration.
const GLOBAL: usize = 0;
const LOCAL: usize = 1;

const LOCAL_THETA: f64 = 10_000.0;

fn read_hf(keys: &Keys) -> Result<DecoderConfig, DecoderError> {
    let none = Bounds {
        scores: None,
        logits: None,
    };
    let mut config = gemma2::read_common(keys, Family::Gemma3, none)?;
    config.query_key_norm = Some(QueryKeyNorm::Head);
    let window = keys.size_or_none("sliding_window", Some(4096))?;
    let pattern = keys.optional_size("sliding_window_pattern")?.unwrap_or(6);
    if pattern == 0 {
        return Err(keys.invalid("sliding_window_pattern", &json!(0), "at least 1"));
    }
    let slides = |layer: usize| !(layer + 1).is_multiple_of(pattern);
    config.layers = keys.windowed_layers(config.layers.len(), window, slides)?;
    for layer in &mut config.layers {
        layer.rotation = Some(if layer.window.is_some() {
            LOCAL
        } else {
            GLOBAL
        });
    }
    config.rotations = rotations(keys, &config)?;
    Ok(config)
}

/// Reads the rotations of full and of sliding layers.
///
/// transformers 5 has them by the type of layer in `rope_parameters`; before, there were two keys of theta, and
/// `rope_scaling` was about full layers.
fn rotations(keys: &Keys, config: &DecoderConfig) -> Result<Vec<RopeConfig>, DecoderError> {
    let by_type = keys.object("rope_parameters")?;
    let of_type = |kind: &str| match &by_type {
        Some(by_type) => by_type.object(kind),
        None => Ok(None),
    };
    let scaling = keys.object("rope_scaling")?.filter(|keys| !keys.is_empty());
    if let (Some(_), Some(_), Some(value)) = (&by_type, &scaling, keys.get("rope_scaling")) {
        return Err(keys.invalid("rope_scaling", value, "none beside `rope_parameters`"));
    }
    let rope = |own: Option<_>| RopeKeys {
        top: keys,
        own: own.unwrap_or_else(|| keys.empty("rope_parameters")),
    };
    let global = rope(scaling.or(of_type(FULL)?));
    let local = rope(of_type(SLIDING)?);
    let rotations = vec![
        global.read(config, "rope_theta", DEFINITION.defaults.rope_theta)?,
        local.read(config, "rope_local_base_freq", LOCAL_THETA)?,
    ];
    if let Some(by_type) = by_type {
        by_type.refuse_the_rest()?;
    }
    Ok(rotations)
}

fn write_hf(config: &DecoderConfig, rotations: &[Value], object: &mut Value) {
    gemma2::write_hf(config, rotations, object);
    let local = rotations.get(LOCAL).unwrap_or(&rotations[GLOBAL]);
    object["rope_parameters"] = json!({ FULL: rotations[GLOBAL], SLIDING: local });
}

/// Every sixth layer sees all keys where a file does not say.
#[cfg(feature = "gguf")]
const PERIOD: usize = 6;

/// Layers of the model of 27 billion parameters, whose scores are scaled otherwise.
#[cfg(feature = "gguf")]
const LAYERS_OF_27B: usize = 62;

/// Reads what llama.cpp assumes where a file does not say: every sixth layer sees all keys, the others rotate by 10000.
#[cfg(feature = "gguf")]
fn read_gguf(keys: &GgufKeys) -> Result<DecoderConfig, DecoderError> {
    let mut config = gemma::read_common_gguf(keys, Family::Gemma3)?
        .with_norm_placement(NormPlacement::Around)
        .with_query_key_norm(Some(QueryKeyNorm::Head))
        .with_logits_softcap(keys.nonzero("final_logit_softcapping")?);
    let mut rotations = vec![keys.rope(config.head_dim)?];
    let local = keys.number("rope.freq_base_swa")?.unwrap_or(LOCAL_THETA);
    let slides = keys.sliding_layers(config.layers.len(), PERIOD)?;
    if let Some(window) = keys.positive_integer("attention.sliding_window")? {
        rotations.push(RopeConfig::new().with_theta(local));
        for (layer, slides) in config.layers.iter_mut().zip(slides) {
            layer.window = slides.then_some(window);
            layer.rotation = Some(if slides { LOCAL } else { GLOBAL });
        }
    }
    let scale = gemma2::gguf_attention_scale(&config, LAYERS_OF_27B);
    Ok(config
        .with_rotations(rotations)
        .with_attention_scale(Some(scale)))
}

#[cfg(feature = "gguf")]
fn write_gguf(config: &DecoderConfig, fields: &mut GgufFields) {
    GgufFields::plain(config, fields);
    if let Some(bound) = config.logits_softcap {
        fields.number("final_logit_softcapping", bound);
    }
    let Some(window) = config.window() else {
        return;
    };
    fields.size("attention.sliding_window", window);
    let slides = |layer: usize| config.layers[layer].window.is_some();
    let layers = 0..config.layers.len();
    if layers
        .clone()
        .any(|layer| slides(layer) == (layer + 1).is_multiple_of(PERIOD))
    {
        fields.flags("attention.sliding_window_pattern", layers.map(slides));
    }
    if let Some(local) = config.rotations.get(LOCAL)
        && local.theta != LOCAL_THETA
    {
        fields.number("rope.freq_base_swa", local.theta);
    }
}
