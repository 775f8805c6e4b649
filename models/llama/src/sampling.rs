//! Choosing the next token from its logits.

use burn::config::Config;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::error::DecoderError;

/// The settings of sampling: the choice of tokens, and when to stop.
#[derive(Config, Debug, PartialEq)]
pub struct SamplingConfig {
    /// The most tokens to generate.
    #[config(default = 256)]
    pub max_tokens: usize,
    /// Divides the logits; 0 always takes the likeliest token.
    #[config(default = 0.0)]
    pub temperature: f32,
    /// Keep only this many of the likeliest tokens.
    pub top_k: Option<usize>,
    /// Keep only the likeliest tokens that together reach this probability, in (0, 1].
    pub top_p: Option<f32>,
    /// Tokens that end the generation; `None` stands for the model's own.
    pub stop_tokens: Option<Vec<u32>>,
}

impl SamplingConfig {
    pub(crate) fn validate(&self) -> Result<(), DecoderError> {
        let invalid = |name, value: String, expected| DecoderError::Sampling {
            name,
            value,
            expected,
        };
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(invalid(
                "temperature",
                self.temperature.to_string(),
                "0 or a positive number",
            ));
        }
        if self.top_k == Some(0) {
            return Err(invalid("top-k", "0".into(), "at least 1"));
        }
        match self.top_p {
            Some(p) if !(p > 0.0 && p <= 1.0) => Err(invalid(
                "top-p",
                p.to_string(),
                "a number above 0, at most 1",
            )),
            _ => Ok(()),
        }
    }
}

/// Draws tokens by a [`SamplingConfig`]; the same seed draws the same tokens from the same logits.
#[derive(Debug)]
pub(crate) struct Sampler<'a> {
    config: &'a SamplingConfig,
    rng: ChaCha8Rng,
}

impl<'a> Sampler<'a> {
    pub(crate) fn new(config: &'a SamplingConfig, seed: u64) -> Self {
        Self {
            config,
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// Draws the next token. `logits: [vocab]`, not empty.
    pub(crate) fn next(&mut self, logits: &[f32]) -> u32 {
        if self.config.temperature == 0.0 {
            return likeliest(logits);
        }
        let mut candidates: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
        // Descending, ties by token, so that the order does not depend on the sort.
        let descending = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if let Some(k) = self.config.top_k
            && k < candidates.len()
        {
            candidates.select_nth_unstable_by(k, descending);
            candidates.truncate(k);
        }
        candidates.sort_unstable_by(descending);
        let top = candidates[0].1;
        for (_, value) in &mut candidates {
            *value = ((*value - top) / self.config.temperature).exp();
        }
        let mut total: f32 = candidates.iter().map(|(_, weight)| weight).sum();
        if let Some(p) = self.config.top_p {
            let mut kept = 0.0;
            let enough = |(_, weight): &(u32, f32)| {
                kept += weight;
                kept >= p * total
            };
            let count = candidates
                .iter()
                .position(enough)
                .map_or(candidates.len(), |last| last + 1);
            candidates.truncate(count);
            total = candidates.iter().map(|(_, weight)| weight).sum();
        }
        let mut point = self.unit() * total;
        for (token, weight) in &candidates {
            point -= weight;
            if point < 0.0 {
                return *token;
            }
        }
        // Rounding may leave the point at the very end.
        candidates[candidates.len() - 1].0
    }

    /// Draws a number in `[0, 1)` from the upper 24 bits of a word: spelled out so that no release of a library
    /// changes what a seed means.
    fn unit(&mut self) -> f32 {
        (self.rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32
    }
}

/// Returns the index of the largest logit; the lower one on a tie.
fn likeliest(logits: &[f32]) -> u32 {
    let best = (0u32..)
        .zip(logits)
        .fold((0, f32::NEG_INFINITY), |best, (token, logit)| {
            if *logit > best.1 {
                (token, *logit)
            } else {
                best
            }
        });
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(config: &SamplingConfig, logits: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(config, 7);
        (0..count).map(|_| sampler.next(logits)).collect()
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_largest() {
        assert_eq!(draw(&SamplingConfig::new(), &[0.0, 3.0, 3.0, -1.0], 1), [1]);
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits = [0.0, 1.0, 2.0, 3.0, 4.0];
        let config = SamplingConfig::new()
            .with_temperature(10.0)
            .with_top_k(Some(2));
        assert!(draw(&config, &logits, 200).iter().all(|token| *token >= 3));
        let config = SamplingConfig::new()
            .with_temperature(1.0)
            .with_top_p(Some(0.5));
        assert!(draw(&config, &logits, 200).iter().all(|token| *token == 4));
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let config = SamplingConfig::new().with_temperature(1.0);
        let ones = draw(&config, &[0.0, 1.0], 20_000)
            .iter()
            .filter(|token| **token == 1)
            .count();
        // p = 0.7311; 5 standard deviations of the count are 314.
        assert!((14_308..14_936).contains(&ones), "{ones}");
    }

    #[test]
    fn the_same_seed_draws_the_same_tokens() {
        let config = SamplingConfig::new().with_temperature(1.0);
        let logits = [0.1, 0.2, 0.3, 0.4];
        assert_eq!(draw(&config, &logits, 50), draw(&config, &logits, 50));
    }
}
