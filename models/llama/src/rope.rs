//! Rotary position embedding: frequencies, their scaling to longer contexts, and the tables of angles.

use std::path::Path;

use burn::config::Config;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::error::LlamaError;

/// The base of the angles that positions become, and their scaling.
#[derive(Config, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric row of frequencies.
    #[config(default = 10000.0)]
    pub theta: f64,
    /// Change of the frequencies for contexts longer than those of pretraining.
    #[config(default = "RopeScaling::Default")]
    pub scaling: RopeScaling,
}

/// A change of the rotary frequencies, by the names transformers gives them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RopeScaling {
    /// None.
    Default,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// LLaMA 3.1: low frequencies divided by `factor`, high ones kept, a ramp in between.
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
    /// One divisor a frequency, `[head_dim / 2]`: the tensor `rope_freqs.weight` of a GGUF file.
    Factors(Vec<f32>),
}

impl RopeConfig {
    pub(crate) fn validate(&self, head_dim: usize, path: &Path) -> Result<(), LlamaError> {
        let positive = |key: &str, value: f64| {
            if value.is_finite() && value > 0.0 {
                Ok(())
            } else {
                Err(LlamaError::InvalidValue {
                    path: path.to_path_buf(),
                    key: key.into(),
                    found: value.to_string(),
                    expected: "a positive number".into(),
                })
            }
        };
        positive("rope_theta", self.theta)?;
        match &self.scaling {
            RopeScaling::Default => Ok(()),
            RopeScaling::Linear { factor } => positive("factor", *factor),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                positive("factor", *factor)?;
                positive("low_freq_factor", *low_freq_factor)?;
                positive(
                    "original_max_position_embeddings",
                    *original_max_position_embeddings,
                )?;
                // The ramp divides by the difference.
                positive(
                    "high_freq_factor - low_freq_factor",
                    high_freq_factor - low_freq_factor,
                )
            }
            RopeScaling::Factors(factors) => {
                if factors.len() != head_dim / 2 {
                    return Err(LlamaError::TensorShape {
                        path: path.to_path_buf(),
                        tensor: "rope_freqs.weight".into(),
                        found: vec![factors.len()],
                        expected: vec![head_dim / 2],
                    });
                }
                factors
                    .iter()
                    .try_for_each(|factor| positive("rope_freqs.weight", f64::from(*factor)))
            }
        }
    }

    /// Returns the frequencies in radians a token, `[head_dim / 2]`, in the f32 arithmetic of transformers.
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        (0..head_dim / 2)
            .map(|i| {
                let exponent = (2 * i) as f32 / head_dim as f32;
                let frequency = 1.0 / self.theta.powf(f64::from(exponent)) as f32;
                self.scaling.apply(frequency, i)
            })
            .collect()
    }
}

impl RopeScaling {
    fn apply(&self, frequency: f32, index: usize) -> f32 {
        match self {
            Self::Default => frequency,
            Self::Linear { factor } => frequency / *factor as f32,
            Self::Factors(factors) => frequency / factors[index],
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let (factor, low, high) = (
                    *factor as f32,
                    *low_freq_factor as f32,
                    *high_freq_factor as f32,
                );
                let original = *original_max_position_embeddings as f32;
                let wavelength = (std::f64::consts::TAU as f32) / frequency;
                if wavelength < original / high {
                    frequency
                } else if wavelength > original / low {
                    frequency / factor
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}

/// The rotary embedding of one model: frequencies from which tables of angles are made on demand.
///
/// The tables of one forward pass are computed on the host and shared by all layers. They are cheap (two
/// functions a position and frequency), so nothing of them is kept in the module, saved or moved.
#[derive(Clone, Debug)]
pub struct Rope {
    frequencies: Vec<f32>,
}

/// The positions of a batch's tokens: their angles, and the first place of each one's sequence.
///
/// The tables are `[seq, head_dim / 2]`, or `[batch · seq, head_dim / 2]` where rows hold several sequences; f32.
#[derive(Clone, Debug)]
pub struct Positions {
    /// Cosines of the angles.
    pub cos: Tensor<2>,
    /// Sines of the angles.
    pub sin: Tensor<2>,
    /// The place in its row of the first token of each token's sequence, `[batch, seq]`; `None` where every
    /// row is one sequence.
    pub starts: Option<Tensor<2, Int>>,
}

impl Rope {
    /// Returns the rotary embedding of heads of width `head_dim`.
    pub fn new(config: &RopeConfig, head_dim: usize) -> Self {
        Self {
            frequencies: config.inverse_frequencies(head_dim),
        }
    }

    /// Returns the positions `start..start + seq`, in every row.
    pub fn positions(&self, start: usize, seq: usize, device: &Device) -> Positions {
        let shape = [seq, self.frequencies.len()];
        let mut cos = Vec::with_capacity(seq * self.frequencies.len());
        let mut sin = Vec::with_capacity(seq * self.frequencies.len());
        for position in start..start + seq {
            for frequency in &self.frequencies {
                // The product is rounded to f32 as the peers round it; at positions in the thousands that
                // shifts the angle by more than the rounding of its sine.
                let angle = f64::from(position as f32 * frequency);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        Positions {
            cos: Tensor::from_data(TensorData::new(cos, shape), (device, DType::F32)),
            sin: Tensor::from_data(TensorData::new(sin, shape), (device, DType::F32)),
            starts: None,
        }
    }

    /// Returns the positions in rows of several sequences, each from 0 on; `starts: [batch, seq]` as in [`Positions`].
    pub fn packed_positions(&self, starts: Tensor<2, Int>) -> Positions {
        let [batch, seq] = starts.dims();
        let Positions { cos, sin, .. } = self.positions(0, seq, &starts.device());
        let places = Tensor::<1, Int>::arange(0..seq as i64, &starts.device());
        let positions = places.unsqueeze::<2>().expand([batch, seq]) - starts.clone();
        let positions = positions.clamp_min(0).reshape([batch * seq]);
        Positions {
            cos: cos.select(0, positions.clone()),
            sin: sin.select(0, positions),
            starts: Some(starts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_fall_from_one_by_powers_of_theta() {
        let frequencies = RopeConfig::new().inverse_frequencies(4);
        assert_eq!(frequencies, [1.0, 0.01]);
    }

    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let config = RopeConfig::new().with_scaling(RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64.0,
        });
        let plain = RopeConfig::new().inverse_frequencies(32);
        let scaled = config.inverse_frequencies(32);
        assert_eq!(scaled[0], plain[0]);
        assert_eq!(scaled[15], plain[15] / 8.0);
        assert!(scaled.windows(2).all(|pair| pair[0] > pair[1]));
    }

    #[test]
    fn a_ramp_of_no_width_is_refused() {
        let config = RopeConfig::new().with_scaling(RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 4.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64.0,
        });
        let error = config.validate(32, Path::new("config.json")).unwrap_err();
        assert!(error.to_string().contains("high_freq_factor"));
    }
}
