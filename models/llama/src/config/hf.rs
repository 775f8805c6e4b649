//! `config.json` of Hugging Face transformers: the keys of version 5 and the older ones.
//!
//! - `keys`: typed access, which remembers what was asked for.
//! - `unread`: what the other keys mean.
//! - `multimodal`: a decoder's configuration inside another one's.
//! - `layers`: which layers have a window.
//! - `rope`: rotary positions.
//! - `write`: the way back.

mod keys;
mod layers;
mod multimodal;
mod rope;
mod unread;
mod write;

pub(crate) use keys::Keys;
pub(crate) use layers::{FULL, SLIDING};
pub(crate) use rope::RopeKeys;
pub(crate) use write::{reciprocal_of, whole};

use std::path::Path;

use burn_fused::Activation;
use serde_json::{Map, Value, json};

use super::{DecoderConfig, LayerConfig, MOST_LAYERS};
use crate::error::DecoderError;
use crate::family::Family;

/// What a config.json says.
#[derive(Debug)]
pub(crate) struct HfConfig {
    /// The decoder.
    pub decoder: DecoderConfig,
    /// What the user should hear: what was left out and what is not known.
    pub warnings: Vec<String>,
    /// Whether the model has more than the decoder, which is not read.
    pub multimodal: bool,
    /// Whether nothing is said about biases of attention where the family can have them.
    pub silent_about_biases: bool,
}

/// What the class of a family in transformers takes for keys that are absent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    /// `None` where every file says it.
    pub vocab_size: Option<usize>,
    /// `None` where every file says it.
    pub num_attention_heads: Option<usize>,
    /// `None` for as many as query heads, which is also what `null` means.
    pub num_key_value_heads: Option<usize>,
    /// `None` for the hidden size over the heads.
    pub head_dim: Option<usize>,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub tie_word_embeddings: bool,
    /// The key of the activation.
    pub activation_key: &'static str,
    pub activation: Activation,
    /// What the name gelu means; `None` for the form with the error function, which is not built.
    pub gelu: Option<Activation>,
}

impl Defaults {
    /// Those of `LlamaConfig`.
    pub(crate) const LLAMA: Self = Self {
        vocab_size: None,
        num_attention_heads: None,
        num_key_value_heads: None,
        head_dim: None,
        max_position_embeddings: 2048,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        tie_word_embeddings: false,
        activation_key: "hidden_act",
        activation: Activation::Silu,
        gelu: None,
    };
}

impl HfConfig {
    /// Reads the text of a `config.json`; `path` is where it came from, for the errors.
    ///
    /// # Errors
    /// Those of [`DecoderConfig::from_hf_json`].
    pub(crate) fn read(text: &str, path: &Path) -> Result<Self, DecoderError> {
        let value: Value = serde_json::from_str(text)
            .map_err(|error| DecoderError::malformed(path, format!("not valid JSON: {error}")))?;
        let Value::Object(object) = value else {
            return Err(DecoderError::malformed(path, "expected a JSON object"));
        };
        let keys = Keys::new(&object, path);
        let text = keys.text_model()?;
        let decoder_keys = text.as_ref().unwrap_or(&keys);
        let family = match &text {
            Some(text) => Family::of_text_model(text, &keys)?,
            None => Family::of_hf(&keys)?,
        };
        let mut decoder = (family.definition().read_hf)(decoder_keys)?;
        decoder_keys.judge_the_rest()?;
        let silent_about_biases = !decoder_keys.states("attention_bias");
        if text.is_some() {
            keys.read_around_text_model(&mut decoder)?;
        }
        decoder.validate(path)?;
        Ok(Self {
            decoder,
            warnings: keys.take_warnings(),
            multimodal: text.is_some(),
            silent_about_biases,
        })
    }
}

impl DecoderConfig {
    /// Reads the text of a `config.json`; `path` is where it came from, for the errors. Beside the configuration, returns what
    /// the user should hear: keys that are not known, dropout that is not applied, images that are left out.
    ///
    /// Both spellings are read: transformers 5 (`rope_parameters`) and before (`rope_theta`, `rope_scaling`). Keys that are
    /// absent have the defaults of transformers' classes.
    ///
    /// # Errors
    /// [`DecoderError::Malformed`] when it is not a JSON object, [`DecoderError::Unsupported`] for another
    /// architecture, activation or rope type, or a setting that the family does not have,
    /// [`DecoderError::MissingKey`] and [`DecoderError::InvalidValue`] naming the key.
    pub fn from_hf_json(text: &str, path: &Path) -> Result<(Self, Vec<String>), DecoderError> {
        let read = HfConfig::read(text, path)?;
        Ok((read.decoder, read.warnings))
    }
}

impl Keys<'_> {
    /// Reads what every family's config.json says in the same words.
    pub(crate) fn decoder(&self, family: Family) -> Result<DecoderConfig, DecoderError> {
        let defaults = family.defaults();
        let size_or = |key: &str, absent: Option<usize>| match self.optional_size(key)? {
            Some(size) => Ok(size),
            None => absent.ok_or_else(|| self.missing(key)),
        };
        let hidden_size = self.size("hidden_size")?;
        let heads = size_or("num_attention_heads", defaults.num_attention_heads)?;
        let divided = (heads > 0 && hidden_size.is_multiple_of(heads)).then(|| hidden_size / heads);
        let config = DecoderConfig::new(
            size_or("vocab_size", defaults.vocab_size)?,
            hidden_size,
            self.size("intermediate_size")?,
            heads,
            self.size_or_none("num_key_value_heads", defaults.num_key_value_heads)?
                .unwrap_or(heads),
            size_or("head_dim", defaults.head_dim.or(divided))?,
            vec![LayerConfig::default(); self.layers()?],
        );
        Ok(config
            .with_family(family)
            .with_max_position_embeddings(
                self.optional_size("max_position_embeddings")?
                    .unwrap_or(defaults.max_position_embeddings),
            )
            .with_rms_norm_eps(
                self.optional_number("rms_norm_eps")?
                    .unwrap_or(defaults.rms_norm_eps),
            )
            .with_activation(
                self.activation(defaults.activation_key, &defaults)?
                    .unwrap_or(defaults.activation),
            )
            .with_tie_word_embeddings(
                self.optional_flag("tie_word_embeddings")?
                    .unwrap_or(defaults.tie_word_embeddings),
            )
            .with_bos_token_id(self.tokens("bos_token_id")?.first().copied())
            .with_eos_token_ids(self.tokens("eos_token_id")?))
    }

    /// Reads the number of layers, which must be one that a list can be made of.
    fn layers(&self) -> Result<usize, DecoderError> {
        let layers = self.size("num_hidden_layers")?;
        if layers > MOST_LAYERS {
            return Err(self.invalid("num_hidden_layers", &json!(layers), "at most 2048"));
        }
        Ok(layers)
    }
}

/// Returns the end-of-text tokens of a `generation_config.json`, which for chat models name more than
/// config.json does.
pub(crate) fn generation_eos(text: &str, path: &Path) -> Result<Vec<u32>, DecoderError> {
    let object: Map<String, Value> = serde_json::from_str(text)
        .map_err(|error| DecoderError::malformed(path, format!("not a JSON object: {error}")))?;
    Keys::new(&object, path).tokens("eos_token_id")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rope::{RopeConfig, RopeScaling};

    const MINIMAL: &str = r#"{"model_type":"llama","vocab_size":32,"hidden_size":16,"intermediate_size":24,
        "num_hidden_layers":1,"num_attention_heads":4,"max_position_embeddings":64,"rms_norm_eps":1e-6}"#;

    fn parse(text: &str) -> Result<DecoderConfig, DecoderError> {
        DecoderConfig::from_hf_json(text, Path::new("config.json")).map(|(config, _)| config)
    }

    #[test]
    fn absent_keys_take_the_defaults_of_transformers() {
        let config = parse(MINIMAL).unwrap();
        assert_eq!(config.num_key_value_heads, 4);
        assert_eq!(config.head_dim, 4);
        assert_eq!(config.rotations, [RopeConfig::new()]);
        assert!(config.eos_token_ids.is_empty() && !config.tie_word_embeddings);
    }

    #[test]
    fn what_is_written_reads_back_equal() {
        let mut config = parse(MINIMAL).unwrap();
        config.eos_token_ids = vec![7, 9];
        config.rotations[0].scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 32.0,
        };
        let json = config
            .to_hf_json("float32", Path::new("config.json"))
            .unwrap();
        assert_eq!(parse(&json.to_string()).unwrap(), config);
    }

    #[test]
    fn every_needed_key_is_named_when_it_is_missing() {
        for key in [
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "model_type",
        ] {
            let mut object: Map<String, Value> = serde_json::from_str(MINIMAL).unwrap();
            object.remove(key);
            let error = parse(&Value::Object(object).to_string())
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("config.json") && error.contains(key),
                "{error}"
            );
        }
    }

    #[test]
    fn another_architecture_is_refused_by_name() {
        let text = MINIMAL.replace("\"llama\"", "\"falcon\"");
        assert!(parse(&text).unwrap_err().to_string().contains("falcon"));
    }

    #[test]
    fn heads_that_do_not_divide_are_refused() {
        let text = MINIMAL.replace("\"rms", "\"num_key_value_heads\":3,\"rms");
        assert!(
            parse(&text)
                .unwrap_err()
                .to_string()
                .contains("num_key_value_heads")
        );
    }
}
