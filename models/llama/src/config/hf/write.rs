//! A config.json as transformers 5 writes it.

use std::path::Path;

use burn_fused::Activation;
use serde_json::{Value, json};

use crate::config::DecoderConfig;
use crate::error::DecoderError;
use crate::rope::{RopeConfig, RopeScaling};

impl DecoderConfig {
    /// Returns the `config.json` of this model, in the keys of transformers 5; `dtype` is torch's name of the
    /// element type the unquantized tensors are stored in.
    ///
    /// # Errors
    /// [`DecoderError::Unsupported`] when the rope factors come from a GGUF tensor, which config.json cannot express.
    pub fn to_hf_json(&self, dtype: &str, path: &Path) -> Result<Value, DecoderError> {
        let definition = self.family.definition();
        let eos = match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            many => json!(many),
        };
        let rotations = self
            .rotations
            .iter()
            .map(|rope| rope.to_hf(self.head_dim, path));
        let mut rotations = rotations.collect::<Result<Vec<_>, _>>()?;
        if rotations.is_empty() {
            // Layers that never rotate have no need of one; the file has it all the same.
            rotations.push(RopeConfig::new().to_hf(self.head_dim, path)?);
        }
        let mut object = json!({
            "architectures": [definition.names.hf_architectures[0]],
            "model_type": definition.names.hf_model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers.len(),
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_parameters": rotations[0],
            "tie_word_embeddings": self.tie_word_embeddings,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos,
            "dtype": dtype,
        });
        object[definition.defaults.activation_key] = json!(match self.activation {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
        });
        (definition.write_hf)(self, &rotations, &mut object);
        Ok(object)
    }
}

impl RopeConfig {
    /// Returns the rotation of heads of `head_dim` in the words of transformers 5.
    fn to_hf(&self, head_dim: usize, path: &Path) -> Result<Value, DecoderError> {
        let mut rope = match &self.scaling {
            RopeScaling::Default => json!({ "rope_type": "default" }),
            RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            RopeScaling::Dynamic { factor, .. } => {
                json!({ "rope_type": "dynamic", "factor": factor })
            }
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                truncate,
                attention_factor,
            } => json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": whole(*original_max_position_embeddings),
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
                "truncate": truncate,
                "attention_factor": attention_factor,
            }),
            RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings,
                attention_factor,
            } => json!({
                "rope_type": "longrope",
                "short_factor": short_factor,
                "long_factor": long_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
                "attention_factor": attention_factor,
            }),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": whole(*original_max_position_embeddings),
            }),
            RopeScaling::Factors(_) => {
                return Err(DecoderError::Unsupported {
                    path: path.to_path_buf(),
                    what: "rope scaling",
                    found: "rope_freqs.weight".into(),
                    expected: "config.json cannot express a tensor of factors; start from the Hugging Face checkpoint".into(),
                });
            }
        };
        rope["rope_theta"] = json!(self.theta);
        if let Some(rotary_dim) = self.rotary_dim {
            rope["partial_rotary_factor"] = json!(share(rotary_dim, head_dim));
        }
        if let Some(scaling) = self.query_scaling {
            rope["llama_4_scaling_beta"] = json!(scaling.beta);
            rope["original_max_position_embeddings"] =
                whole(scaling.original_max_position_embeddings);
        }
        Ok(rope)
    }
}

/// Returns the number as JSON writes whole numbers, if it is one.
pub(crate) fn whole(number: f64) -> Value {
    let rounded = number.round();
    if rounded == number && (0.0..1e15).contains(&number) {
        json!(rounded as u64)
    } else {
        json!(number)
    }
}

/// Returns the factor of `all` that reads back as `part`, by which readers multiply and then round down.
fn share(part: usize, all: usize) -> f64 {
    let factor = part as f64 / all as f64;
    if (all as f64 * factor) as usize == part {
        factor
    } else {
        factor.next_up()
    }
}

/// Returns a short number whose reciprocal is `reciprocal`, so that what was read as `1 / number` is written as it was.
pub(crate) fn reciprocal_of(reciprocal: f64) -> f64 {
    let number = 1.0 / reciprocal;
    let short = format!("{number:.6e}").parse().unwrap_or(number);
    if 1.0 / short == reciprocal {
        short
    } else {
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_are_read_back() {
        for scaling in [2.5, 49.0, 8.0, 13.0, 0.3] {
            assert_eq!(reciprocal_of(1.0 / scaling), scaling);
        }
        for all in (2..=256).step_by(2) {
            for part in (2..=all).step_by(2) {
                assert_eq!((all as f64 * share(part, all)) as usize, part);
            }
        }
        assert_eq!(whole(16.0).to_string(), "16");
        assert_eq!(whole(16.5).to_string(), "16.5");
    }
}
