//! OLMo 2: norms of what comes out of attention and MLP, and of all queries and keys at once.

use serde_json::{Value, json};

#[cfg(feature = "gguf")]
use super::GgufDefinition;
use super::{Definition, Family, Names};
#[cfg(feature = "gguf")]
use crate::checkpoint::{GgufFields, GgufKeys};
use crate::config::{Biases, DecoderConfig, Defaults, Keys, NormPlacement, QueryKeyNorm};
use crate::error::DecoderError;

pub(super) const DEFINITION: Definition = Definition {
    names: Names {
        hf_model_type: "olmo2",
        hf_architectures: &["Olmo2ForCausalLM", "Olmo2Model"],
    },
    defaults: Defaults {
        rms_norm_eps: 1e-5,
        ..Defaults::LLAMA
    },
    read_hf,
    write_hf,
    #[cfg(feature = "gguf")]
    gguf: GgufDefinition {
        architecture: "olmo2",
        interleaved: false,
        read: read_gguf,
        write: GgufFields::plain,
    },
};

fn read_hf(keys: &Keys) -> Result<DecoderConfig, DecoderError> {
    let mut config = keys.decoder(Family::Olmo2)?;
    config.rotations = vec![keys.rope(&config)?];
    config.norm_placement = NormPlacement::After;
    config.query_key_norm = Some(QueryKeyNorm::Width);
    config.biases = Biases::of_attention(keys.flag("attention_bias")?);
    Ok(config)
}

fn write_hf(config: &DecoderConfig, _rotations: &[Value], object: &mut Value) {
    object["attention_bias"] = json!(config.biases.query_key_value);
    object["pad_token_id"] = Value::Null;
}

/// Reads metadata without a window; with one they are those of OLMo 3.
#[cfg(feature = "gguf")]
fn read_gguf(keys: &GgufKeys) -> Result<DecoderConfig, DecoderError> {
    let config = keys.decoder(Family::Olmo2)?;
    let window = "attention.sliding_window";
    if let Some(width) = keys.positive_integer(window)? {
        return Err(keys.invalid(window, width, "none, for OLMo 2; OLMo 3 is not built"));
    }
    let rope = keys.rope(config.head_dim)?;
    Ok(config
        .with_rotations(vec![rope])
        .with_norm_placement(NormPlacement::After)
        .with_query_key_norm(Some(QueryKeyNorm::Width)))
}
