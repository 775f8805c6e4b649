//! Changes of the rotary frequencies for contexts longer than those of pretraining.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::positive;
use crate::error::DecoderError;

/// A change of the rotary frequencies, by the names transformers gives them (`modeling_rope_utils.py`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RopeScaling {
    /// None.
    Default,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// A larger base for batches longer than the context, by their length: NTK scaling.
    Dynamic {
        /// Growth of the base with the length.
        factor: f64,
        /// Longest length at which the base is unchanged.
        max_position_embeddings: f64,
    },
    /// YaRN (Peng et al. 2023): low frequencies divided by `factor`, high ones kept, a ramp over the dimensions in
    /// between.
    Yarn {
        /// The divisor of the low frequencies.
        factor: f64,
        /// Context length of pretraining.
        original_max_position_embeddings: f64,
        /// Turns over that length from which on a frequency is kept.
        beta_fast: f64,
        /// Turns over that length up to which a frequency is divided.
        beta_slow: f64,
        /// Whether the ends of the ramp are whole dimensions.
        truncate: bool,
        /// Factor of the rotated queries and keys.
        attention_factor: f64,
    },
    /// LongRoPE (Ding et al. 2024): a divisor for each frequency, of one list up to the context length of pretraining and of
    /// another for batches that are longer.
    LongRope {
        /// Divisors of short batches, `[rotary_dim / 2]`.
        short_factor: Vec<f64>,
        /// Divisors of long batches, `[rotary_dim / 2]`.
        long_factor: Vec<f64>,
        /// Context length of pretraining.
        original_max_position_embeddings: usize,
        /// Factor of the rotated queries and keys, at any length.
        attention_factor: f64,
    },
    /// LLaMA 3.1: low frequencies divided by `factor`, high ones kept, a ramp over the wavelengths in between.
    Llama3 {
        /// The divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above the original context over this are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below the original context over this are high frequencies.
        high_freq_factor: f64,
        /// Context length of pretraining.
        original_max_position_embeddings: f64,
    },
    /// One divisor a frequency, `[rotary_dim / 2]`: the tensor `rope_freqs.weight` of a GGUF file.
    Factors(Vec<f32>),
}

impl RopeScaling {
    /// Returns whether batches of different lengths rotate differently.
    pub fn depends_on_length(&self) -> bool {
        matches!(self, Self::Dynamic { .. } | Self::LongRope { .. })
    }

    /// Returns the length in tokens that it stretches the context to, where a configuration need not count that in its
    /// `max_position_embeddings`: dynamic scaling begins there, and YaRN is put on models as they are.
    pub fn stretched_context(&self) -> Option<usize> {
        match *self {
            Self::Dynamic {
                factor,
                max_position_embeddings: context,
            }
            | Self::Yarn {
                factor,
                original_max_position_embeddings: context,
                ..
            } => Some((factor * context) as usize),
            _ => None,
        }
    }

    /// Returns whether keys that were rotated in a batch of `before` tokens are rotated otherwise in one of `after`, so that a
    /// cache of them is worth nothing. Dynamic scaling keeps its old keys, as transformers does.
    pub fn outdates(&self, before: usize, after: usize) -> bool {
        match *self {
            Self::LongRope {
                original_max_position_embeddings: limit,
                ..
            } => (1..=limit).contains(&before) && limit < after,
            _ => false,
        }
    }

    pub(super) fn validate(&self, rotary_dim: usize, path: &Path) -> Result<(), DecoderError> {
        let positive = |key: &str, value: f64| positive(path, key, value);
        let original = "original_max_position_embeddings";
        match self {
            Self::Default => Ok(()),
            Self::Linear { factor } => positive("factor", *factor),
            Self::Dynamic {
                factor,
                max_position_embeddings,
            } => {
                // The exponent of the base is dim / (dim - 2).
                positive("head_dim - 2", rotary_dim as f64 - 2.0)?;
                positive("factor", *factor)?;
                positive("max_position_embeddings", *max_position_embeddings)
            }
            Self::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                truncate: _,
                attention_factor,
            } => {
                positive("factor", *factor)?;
                positive(original, *original_max_position_embeddings)?;
                positive("beta_fast", *beta_fast)?;
                positive("beta_slow", *beta_slow)?;
                positive("attention_factor", *attention_factor)
            }
            Self::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings,
                attention_factor,
            } => {
                positive(original, *original_max_position_embeddings as f64)?;
                positive("attention_factor", *attention_factor)?;
                for (key, factors) in [("short_factor", short_factor), ("long_factor", long_factor)]
                {
                    if factors.len() != rotary_dim / 2 {
                        return Err(DecoderError::InvalidValue {
                            path: path.to_path_buf(),
                            key: key.into(),
                            found: format!("a list of {} numbers", factors.len()),
                            expected: format!("{}, one a frequency", rotary_dim / 2),
                        });
                    }
                    factors.iter().try_for_each(|&value| positive(key, value))?;
                }
                Ok(())
            }
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                positive("factor", *factor)?;
                positive("low_freq_factor", *low_freq_factor)?;
                positive(original, *original_max_position_embeddings)?;
                // The ramp divides by the difference.
                positive(
                    "high_freq_factor - low_freq_factor",
                    high_freq_factor - low_freq_factor,
                )
            }
            Self::Factors(factors) => {
                if factors.len() != rotary_dim / 2 {
                    return Err(DecoderError::TensorShape {
                        path: path.to_path_buf(),
                        tensor: "rope_freqs.weight".into(),
                        found: vec![factors.len()],
                        expected: vec![rotary_dim / 2],
                    });
                }
                factors
                    .iter()
                    .try_for_each(|factor| positive("rope_freqs.weight", f64::from(*factor)))
            }
        }
    }
}
