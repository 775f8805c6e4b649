//! Gemma 2: norms around attention and MLP, bounded scores and logits, and a window in every other layer.

use serde_json::{Value, json};

use super::{Definition, Family, Names, gemma};
use crate::config::{DecoderConfig, Defaults, Keys, NormPlacement, whole};
use crate::error::DecoderError;

pub(super) const DEFINITION: Definition = Definition {
    names: Names {
        hf_model_type: "gemma2",
        hf_architectures: &["Gemma2ForCausalLM", "Gemma2Model"],
        #[cfg(feature = "gguf")]
        gguf_architecture: None,
    },
    defaults: DEFAULTS,
    read_hf,
    write_hf,
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
