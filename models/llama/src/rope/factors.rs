//! LLaMA 3.1's scaling, recognized in the factors that llama.cpp makes of it.

use std::f64::consts::TAU;

use super::{RopeConfig, RopeScaling};

/// How far two frequencies may be apart that stand for one, of the greater. Converters that compute in f32 and in f64 differ
/// by 3e-7; a context of 8191 for 8192 moves a frequency by 2e-4.
const TOLERANCE: f32 = 1e-5;

/// Factors that are closer to 1 or to the largest, of it, differ by rounding alone.
const MARGIN: f64 = 1e-4;

/// The ends of the ramp, as wavelengths over the context of pretraining.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ramp {
    original: f64,
    /// Only the context over each of the two matters, so the lower is 1.
    high: f64,
}

/// What every published LLaMA 3.1, 3.2 and 3.3 has.
const LLAMA_31: Ramp = Ramp {
    original: 8192.0,
    high: 4.0,
};

impl Ramp {
    fn scaling(self, factor: f64) -> RopeScaling {
        RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: self.high,
            original_max_position_embeddings: self.original,
        }
    }

    /// Returns the ramp of factors that rise to `factor`; where too few lie on it to tell its ends, the higher is four times
    /// the lower, as published.
    ///
    /// On it `1 / f = (1 - s) / factor + s` with `s = (original / wavelength - 1) / (high - 1)`, a line in the reciprocal of
    /// the wavelength.
    fn through(frequencies: &[f32], factors: &[f32], factor: f64) -> Option<Self> {
        let turns = frequencies.iter().map(|&radians| f64::from(radians) / TAU);
        let points: Vec<(f64, f64)> = turns.zip(factors.iter().copied().map(f64::from)).collect();
        let high = LLAMA_31.high;
        let height = |f: f64| (1.0 / f - 1.0 / factor) / (1.0 - 1.0 / factor);
        let between = (1.0 + MARGIN)..factor * (1.0 - MARGIN);
        if points.first().is_none_or(|(_, f)| *f >= between.start) {
            // Of no published model the highest frequency changes.
            return None;
        }
        let mut on_ramp = points.iter().filter(|(_, f)| between.contains(f));
        match (on_ramp.next(), on_ramp.next_back()) {
            (Some(first), Some(last)) => {
                let slope = (height(first.1) - height(last.1)) / (first.0 - last.0);
                let below = slope * last.0 - height(last.1);
                (slope > 0.0 && below > 0.0).then(|| Self {
                    original: slope / below,
                    high: (1.0 + below) / below,
                })
            }
            (Some((turns, f)), None) => Some(Self {
                original: (height(*f) * (high - 1.0) + 1.0) / turns,
                high,
            }),
            (None, _) => {
                let first = points.iter().position(|(_, f)| *f >= between.end)?;
                let [kept, divided] = [first.checked_sub(1)?, first].map(|at| 1.0 / points[at].0);
                let original = divided.floor();
                let halfway = 2.0 * original / (original + kept);
                Some(Self {
                    original,
                    high: if original > high * kept {
                        high
                    } else {
                        halfway
                    },
                })
            }
        }
    }

    /// Returns it with the numbers that a person would have written.
    fn rounded(self) -> Self {
        Self {
            original: self.original.round(),
            high: (self.high * 1e3).round() / 1e3,
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
        let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
        let head_dim = 2 * factors.len();
        let unscaled = self.clone().with_scaling(RopeScaling::Default);
        let frequencies = unscaled.inverse_frequencies(head_dim, 1);
        let given = self.inverse_frequencies(head_dim, 1);
        let fitted = Ramp::through(&frequencies, factors, factor).map(Ramp::rounded);
        [Some(LLAMA_31), fitted]
            .into_iter()
            .flatten()
            .filter(|ramp| ramp.high > 1.0)
            .map(|ramp| self.clone().with_scaling(ramp.scaling(factor)))
            .find(|named| {
                let found = named.inverse_frequencies(head_dim, 1);
                let mut pairs = given.iter().zip(&found);
                pairs.all(|(given, found)| (given - found).abs() <= TOLERANCE * given)
            })
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
            assert_eq!(named.scaling, LLAMA_31.scaling(f64::from(factor)));
            assert_eq!(named.theta, rope.theta);
        }
    }

    #[test]
    fn factors_of_other_contexts_and_ramps_are_recognized() {
        for (original, low, high, factor, expected) in [
            (8000.0, 1.0, 4.0, 8.0, (8000.0, 4.0)),
            (8192.0, 1.0, 3.9, 8.0, (8192.0, 3.9)),
            (4096.0, 1.0, 16.0, 2.5, (4096.0, 16.0)),
            // The same ramp in other words.
            (16384.0, 2.0, 8.0, 8.0, (8192.0, 4.0)),
        ] {
            let rope = converted(original, low, high, factor);
            let named = rope.with_llama3_for_factors().expect("is recognized");
            let (original, high) = expected;
            let ramp = Ramp { original, high };
            assert_eq!(named.scaling, ramp.scaling(f64::from(factor)));
        }
    }

    #[test]
    fn few_factors_are_recognized_by_what_they_give() {
        let published = [32.0, 40.0, 1000.0].map(|original| (original, 4.0));
        for width in [8, 16, 24, 32] {
            // A narrow ramp, on which no frequency of heads of 8 and 16 is.
            let narrow = (width < 24).then_some((4096.0, 2.0));
            for (original, high) in published.into_iter().chain(narrow) {
                let rope = RopeConfig::new();
                let ramp = Ramp { original, high };
                let scaled = rope.clone().with_scaling(ramp.scaling(8.0));
                let frequencies = [&rope, &scaled].map(|rope| rope.inverse_frequencies(width, 1));
                let factors = frequencies[0].iter().zip(&frequencies[1]);
                let factors = factors.map(|(plain, scaled)| plain / scaled).collect();
                let rope = rope.with_scaling(RopeScaling::Factors(factors));
                assert!(
                    rope.with_llama3_for_factors().is_some(),
                    "{width}, {original}"
                );
            }
        }
    }

    #[test]
    fn other_factors_are_not_taken_for_those() {
        for rope in [
            RopeConfig::new().with_scaling(RopeScaling::Factors(vec![2.0; 32])),
            RopeConfig::new()
                .with_scaling(RopeScaling::Factors((1..=32).map(|f| f as f32).collect())),
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
