//! LLaMA 3.1's scaling, recognized in the factors that llama.cpp makes of it.

use super::{RopeConfig, RopeScaling};

/// How far two frequencies may be apart that stand for one, of the greater. Converters that compute in f32 and in f64 differ
/// by 3e-7; a context of 8191 for 8192 moves a frequency by 2e-4.
const TOLERANCE: f32 = 1e-5;

impl RopeScaling {
    /// Returns the scaling that every published LLaMA 3.1, 3.2 and 3.3 has, by `factor`.
    fn of_llama31(factor: f64) -> Self {
        Self::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        }
    }
}

impl RopeConfig {
    /// Returns the rotation with LLaMA 3.1's scaling in place of factors that give the same frequencies; `None` where it does not
    /// have such factors.
    pub(crate) fn with_llama3_for_factors(&self) -> Option<Self> {
        let RopeScaling::Factors(factors) = &self.scaling else {
            return None;
        };
        // The largest is that of the low frequencies, which are divided by no more and no less than it.
        let factor = factors.iter().copied().fold(1.0, f32::max);
        let scaling = RopeScaling::of_llama31(f64::from(factor));
        let named = self.clone().with_scaling(scaling);
        let head_dim = 2 * factors.len();
        let [given, found] = [self, &named].map(|rope| rope.inverse_frequencies(head_dim, 1));
        let same = given
            .iter()
            .zip(&found)
            .all(|(given, found)| (given - found).abs() <= TOLERANCE * given);
        same.then_some(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The factors as llama.cpp's converter computes them.
    fn converted(original: f32, low: f32, high: f32, factor: f32) -> RopeConfig {
        let rope = RopeConfig::new().with_theta(500_000.0);
        let factors = rope
            .inverse_frequencies(64, 1)
            .into_iter()
            .map(|frequency| {
                let wavelength = std::f32::consts::TAU / frequency;
                if wavelength < original / high {
                    1.0
                } else if wavelength > original / low {
                    factor
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    1.0 / ((1.0 - smooth) / factor + smooth)
                }
            });
        let factors = factors.collect();
        rope.with_scaling(RopeScaling::Factors(factors))
    }

    #[test]
    fn the_factors_of_llama_31_and_32_are_recognized() {
        for factor in [8.0, 32.0] {
            let rope = converted(8192.0, 1.0, 4.0, factor);
            let named = rope.with_llama3_for_factors().unwrap();
            assert_eq!(named.scaling, RopeScaling::of_llama31(f64::from(factor)));
            assert_eq!(named.theta, rope.theta);
        }
    }

    #[test]
    fn other_factors_are_not_taken_for_those() {
        for rope in [
            converted(8000.0, 1.0, 4.0, 8.0),
            converted(8192.0, 1.0, 3.9, 8.0),
            converted(8192.0, 1.1, 4.0, 8.0),
            RopeConfig::new().with_scaling(RopeScaling::Factors(vec![2.0; 32])),
            RopeConfig::new(),
        ] {
            assert_eq!(rope.with_llama3_for_factors(), None);
        }
        let mut rope = converted(8192.0, 1.0, 4.0, 8.0);
        if let RopeScaling::Factors(factors) = &mut rope.scaling {
            factors[20] *= 1.001;
        }
        assert_eq!(rope.with_llama3_for_factors(), None);
    }
}
