//! OLMo 2: norms of what comes out of attention and MLP, and of all queries and keys at once.

use serde_json::{Value, json};

use super::{Definition, Family, Names};
use crate::config::{Biases, DecoderConfig, Defaults, Keys, NormPlacement, QueryKeyNorm};
use crate::error::DecoderError;

pub(super) const DEFINITION: Definition = Definition {
    names: Names {
        hf_model_type: "olmo2",
        hf_architectures: &["Olmo2ForCausalLM", "Olmo2Model"],
        #[cfg(feature = "gguf")]
        gguf_architecture: None,
    },
    defaults: Defaults {
        rms_norm_eps: 1e-5,
        ..Defaults::LLAMA
    },
    read_hf,
    write_hf,
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
