//! Radians a token, in the f32 arithmetic of transformers (`modeling_rope_utils.py`).

use std::f64::consts::TAU;

use super::{RopeConfig, RopeScaling};

impl RopeConfig {
    /// Returns the frequencies in radians a token, `[rotary_dim / 2]`, of a batch whose longest sequence has `length` tokens.
    pub fn inverse_frequencies(&self, head_dim: usize, length: usize) -> Vec<f32> {
        let dim = self.rotary_dim_of(head_dim);
        let theta = self.theta_at(dim, length);
        let turns_of = |index: usize| {
            let exponent = (2 * index) as f32 / dim as f32;
            theta.powf(f64::from(exponent)) as f32
        };
        let wavelengths = (0..dim / 2).map(turns_of);
        match &self.scaling {
            RopeScaling::Default | RopeScaling::Dynamic { .. } => {
                wavelengths.map(|period| 1.0 / period).collect()
            }
            RopeScaling::Linear { factor } => wavelengths
                .map(|period| (1.0 / period) / *factor as f32)
                .collect(),
            RopeScaling::Factors(factors) => wavelengths
                .zip(factors)
                .map(|(period, factor)| (1.0 / period) / factor)
                .collect(),
            RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings,
                ..
            } => {
                let long = length > *original_max_position_embeddings;
                wavelengths
                    .zip(if long { long_factor } else { short_factor })
                    .map(|(period, factor)| 1.0 / (*factor as f32 * period))
                    .collect()
            }
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                truncate,
                ..
            } => {
                let turns = [*beta_fast, *beta_slow];
                let dimension = |turns: f64| {
                    dim as f64 * (original_max_position_embeddings / (turns * TAU)).ln()
                        / (2.0 * self.theta.ln())
                };
                let [low, high] = turns.map(dimension);
                let (low, high) = if *truncate {
                    (low.floor(), high.ceil())
                } else {
                    (low, high)
                };
                let ramp = Ramp::new(low.max(0.0), high.min(dim as f64 - 1.0));
                wavelengths
                    .enumerate()
                    .map(|(index, period)| {
                        let kept = 1.0 - ramp.at(index);
                        let divided = 1.0 / (*factor as f32 * period);
                        divided * (1.0 - kept) + (1.0 / period) * kept
                    })
                    .collect()
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let [factor, low, high, original] = [
                    *factor,
                    *low_freq_factor,
                    *high_freq_factor,
                    *original_max_position_embeddings,
                ]
                .map(|value| value as f32);
                let scaled = |period: f32| {
                    let frequency = 1.0 / period;
                    let wavelength = (TAU as f32) / frequency;
                    if wavelength < original / high {
                        frequency
                    } else if wavelength > original / low {
                        frequency / factor
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                };
                wavelengths.map(scaled).collect()
            }
        }
    }

    /// Returns the base of the frequencies of a batch whose longest sequence has `length` tokens.
    fn theta_at(&self, dim: usize, length: usize) -> f64 {
        match self.scaling {
            RopeScaling::Dynamic {
                factor,
                max_position_embeddings,
            } => {
                let length = (length as f64).max(max_position_embeddings);
                let growth = factor * length / max_position_embeddings - (factor - 1.0);
                self.theta * growth.powf(dim as f64 / (dim as f64 - 2.0))
            }
            _ => self.theta,
        }
    }

    /// Returns the factor of the rotated queries and keys.
    pub(super) fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn {
                attention_factor, ..
            }
            | RopeScaling::LongRope {
                attention_factor, ..
            } => attention_factor as f32,
            _ => 1.0,
        }
    }

    /// Returns the factor of a query at `position`, beside that of all.
    pub(super) fn query_factor(&self, position: usize) -> f32 {
        match self.query_scaling {
            Some(scaling) => {
                let lengths = (position as f64 / scaling.original_max_position_embeddings).floor();
                (1.0 + scaling.beta * lengths.ln_1p()) as f32
            }
            None => 1.0,
        }
    }
}

/// YaRN's ramp over the dimensions: 0 up to `low`, 1 from `high` on.
struct Ramp {
    low: f32,
    high: f32,
}

impl Ramp {
    fn new(low: f64, high: f64) -> Self {
        let high = if low == high { high + 0.001 } else { high };
        Self {
            low: low as f32,
            high: high as f32,
        }
    }

    fn at(&self, dimension: usize) -> f32 {
        ((dimension as f32 - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn frequencies_fall_from_one_by_powers_of_theta() {
        let frequencies = RopeConfig::new().inverse_frequencies(4, 1);
        assert_eq!(frequencies, [1.0, 0.01]);
    }

    #[test]
    fn a_part_of_a_head_has_the_frequencies_of_a_narrower_head() {
        let part = RopeConfig::new().with_rotary_dim(Some(4));
        assert_eq!(part.inverse_frequencies(8, 1), [1.0, 0.01]);
    }

    fn llama3(high_freq_factor: f64) -> RopeConfig {
        RopeConfig::new().with_scaling(RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor,
            original_max_position_embeddings: 64.0,
        })
    }

    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let plain = RopeConfig::new().inverse_frequencies(32, 1);
        let scaled = llama3(4.0).inverse_frequencies(32, 1);
        assert_eq!(scaled[0], plain[0]);
        assert_eq!(scaled[15], plain[15] / 8.0);
        assert!(scaled.windows(2).all(|pair| pair[0] > pair[1]));
    }

    #[test]
    fn a_ramp_of_no_width_is_refused() {
        let error = llama3(1.0)
            .validate(32, Path::new("config.json"))
            .unwrap_err();
        assert!(error.to_string().contains("high_freq_factor"));
    }

    #[test]
    fn the_length_of_a_batch_chooses_the_factors_of_longrope() {
        let config = RopeConfig::new().with_scaling(RopeScaling::LongRope {
            short_factor: vec![1.0, 2.0],
            long_factor: vec![4.0, 8.0],
            original_max_position_embeddings: 16,
            attention_factor: 1.0,
        });
        let plain = RopeConfig::new().inverse_frequencies(4, 1);
        let divided = |by: [f32; 2]| [plain[0] / by[0], plain[1] / by[1]];
        assert_eq!(config.inverse_frequencies(4, 16), divided([1.0, 2.0]));
        assert_eq!(config.inverse_frequencies(4, 17), divided([4.0, 8.0]));
        assert!(config.scaling.outdates(16, 17) && !config.scaling.outdates(17, 18));
    }

    #[test]
    fn dynamic_scaling_begins_beyond_the_context() {
        let config = RopeConfig::new().with_scaling(RopeScaling::Dynamic {
            factor: 4.0,
            max_position_embeddings: 16.0,
        });
        let plain = RopeConfig::new().inverse_frequencies(16, 1);
        assert_eq!(config.inverse_frequencies(16, 16), plain);
        assert!(config.inverse_frequencies(16, 20)[7] < plain[7]);
        assert_eq!(config.scaling.stretched_context(), Some(64));
    }
}
