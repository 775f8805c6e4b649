//! Gemma 2: norms around attention and MLP, bounded scores and logits, and a window in every other layer.

use serde_json::{Value, json};

#[cfg(feature = "gguf")]
use super::GgufDefinition;
use super::{Definition, Family, Names, gemma};
#[cfg(feature = "gguf")]
use crate::checkpoint::{GgufFields, GgufKeys};
use crate::config::{DecoderConfig, Defaults, Keys, NormPlacement, whole};
use crate::error::DecoderError;

pub(super) const DEFINITION: Definition = Definition {
    names: Names {
        hf_model_type: "gemma2",
        hf_architectures: &["Gemma2ForCausalLM", "Gemma2Model"],
    },
    defaults: DEFAULTS,
    read_hf,
    write_hf,
    #[cfg(feature = "gguf")]
    gguf: GgufDefinition {
        architecture: "gemma2",
        interleaved: false,
        read: read_gguf,
        write: write_gguf,
    },
};

/// Those of Gemma 3, too.
pub(super) const DEFAULTS: Defaults = Defaults {
    num_attention_heads: Some(8),
    num_key_value_heads: Some(4),
    activation_key: "hidden_activation",
    ..gemma::DEFAULTS
};

fn read_hf(keys: &Keys) -> Result<DecoderConfig, DecoderError> {
    let mut config = read_common(
        keys,
        Family::Gemma2,
        Bounds {
            scores: Some(50.0),
            logits: Some(30.0),
        },
    )?;
    config.rotations = vec![keys.rope(&config)?];
    let window = keys.size_or_none("sliding_window", Some(4096))?;
    let slides = |layer: usize| layer.is_multiple_of(2);
    config.layers = keys.windowed_layers(config.layers.len(), window, slides)?;
    Ok(config)
}

/// The bounds of scores and logits where their keys are absent.
pub(super) struct Bounds {
    pub scores: Option<f64>,
    pub logits: Option<f64>,
}

/// Reads what Gemma 2 and 3 have.
pub(super) fn read_common(
    keys: &Keys,
    family: Family,
    absent: Bounds,
) -> Result<DecoderConfig, DecoderError> {
    let config = gemma::read_common(keys, family)?;
    let scalar = keys.optional_number("query_pre_attn_scalar")?;
    Ok(config
        .with_norm_placement(NormPlacement::Around)
        .with_attention_scale(Some(scalar.unwrap_or(256.0).powf(-0.5)))
        .with_attention_softcap(keys.number_or_none("attn_logit_softcapping", absent.scores)?)
        .with_logits_softcap(keys.number_or_none("final_logit_softcapping", absent.logits)?))
}

pub(super) fn write_hf(config: &DecoderConfig, rotations: &[Value], object: &mut Value) {
    gemma::write_hf(config, rotations, object);
    object["query_pre_attn_scalar"] = query_scalar(config.attention_scale());
    object["attn_logit_softcapping"] = json!(config.attention_softcap);
    object["final_logit_softcapping"] = json!(config.logits_softcap);
    object["sliding_window"] = json!(config.window());
    object["layer_types"] = config.layer_types();
}

/// Returns the number whose reciprocal square root is the factor of the scores: a whole one, which transformers wants, if it
/// is.
fn query_scalar(scale: f64) -> Value {
    let scalar = scale.powi(-2);
    if scalar.round().powf(-0.5) == scale {
        whole(scalar.round())
    } else {
        json!(scalar)
    }
}

/// Layers of the model of 27 billion parameters, whose scores are scaled otherwise.
#[cfg(feature = "gguf")]
const LAYERS_OF_27B: usize = 46;

/// Reads what llama.cpp assumes where a file does not say: bounds of 50 and 30, and a window of 4096.
#[cfg(feature = "gguf")]
fn read_gguf(keys: &GgufKeys) -> Result<DecoderConfig, DecoderError> {
    let mut config = gemma::read_common_gguf(keys, Family::Gemma2)?
        .with_norm_placement(NormPlacement::Around)
        .with_attention_softcap(keys.number("attn_logit_softcapping")?.or(Some(50.0)))
        .with_logits_softcap(keys.number("final_logit_softcapping")?.or(Some(30.0)));
    let rope = keys.rope(config.head_dim)?;
    let local = "rope.freq_base_swa";
    if let Some(theta) = keys.number(local)?
        && theta != rope.theta
    {
        let expected = format!("that of all layers, {}", rope.theta);
        return Err(keys.invalid(local, theta, &expected));
    }
    let window = keys.integer("attention.sliding_window")?.unwrap_or(4096);
    let slides = keys.sliding_layers(config.layers.len(), 2)?;
    for (layer, slides) in config.layers.iter_mut().zip(slides) {
        layer.window = slides.then_some(window);
    }
    let scale = gguf_attention_scale(&config, LAYERS_OF_27B);
    Ok(config
        .with_rotations(vec![rope])
        .with_attention_scale(Some(scale)))
}

/// Returns the factor of the scores, which the metadata cannot say and llama.cpp knows by the number of layers.
#[cfg(feature = "gguf")]
pub(super) fn gguf_attention_scale(config: &DecoderConfig, layers_of_27b: usize) -> f64 {
    let width = if config.layers.len() == layers_of_27b {
        config.hidden_size / config.num_attention_heads.max(1)
    } else {
        config.head_dim
    };
    (width as f64).powf(-0.5)
}

#[cfg(feature = "gguf")]
fn write_gguf(config: &DecoderConfig, fields: &mut GgufFields) {
    GgufFields::plain(config, fields);
    for (key, bound) in [
        ("attn_logit_softcapping", config.attention_softcap),
        ("final_logit_softcapping", config.logits_softcap),
    ] {
        fields.number(key, bound.unwrap_or(0.0));
    }
    fields.size("attention.sliding_window", config.window().unwrap_or(0));
}
