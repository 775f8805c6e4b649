//! Choosing the next token from its logits.

use std::collections::BTreeSet;

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
    /// Keep only tokens that are at least this share as likely as the likeliest, in \[0, 1\].
    pub min_p: Option<f32>,
    /// Divides the positive logits of tokens that the prompt or the text so far has, and multiplies the negative ones:
    /// above 1 they become less likely, at 1 nothing changes. Greedy choice heeds it too.
    #[config(default = 1.0)]
    pub repetition_penalty: f32,
    /// Tokens that end the generation; `None` stands for the model's own.
    pub stop_tokens: Option<Vec<u32>>,
}

impl SamplingConfig {
    /// Returns whether the likeliest token is taken always.
    pub(crate) fn is_greedy(&self) -> bool {
        self.temperature == 0.0 && self.repetition_penalty == 1.0
    }

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
        if let Some(p) = self.top_p
            && !(p > 0.0 && p <= 1.0)
        {
            return Err(invalid(
                "top-p",
                p.to_string(),
                "a number above 0, at most 1",
            ));
        }
        if let Some(p) = self.min_p
            && !(0.0..=1.0).contains(&p)
        {
            return Err(invalid("min-p", p.to_string(), "a number from 0 to 1"));
        }
        if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0) {
            return Err(invalid(
                "repetition-penalty",
                self.repetition_penalty.to_string(),
                "a number above 0",
            ));
        }
        Ok(())
    }
}

/// Draws tokens by a [`SamplingConfig`]; the same seed draws the same tokens from the same logits.
///
/// The settings apply in the order in which transformers applies them: repetition penalty, temperature, top-k, top-p,
/// min-p.
#[derive(Debug)]
pub(crate) struct Sampler {
    config: SamplingConfig,
    rng: ChaCha8Rng,
    /// The tokens of the prompt and the text so far, where a penalty asks for them.
    seen: BTreeSet<u32>,
}

impl Sampler {
    pub(crate) fn new(config: &SamplingConfig, seed: u64, prompt: &[u32]) -> Self {
        let mut sampler = Self {
            config: config.clone(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            seen: BTreeSet::new(),
        };
        prompt.iter().for_each(|token| sampler.see(*token));
        sampler
    }

    /// Draws the next token. `logits: [vocab]`, not empty.
    ///
    /// # Errors
    /// What is wrong with logits among which there is no likeliest one.
    pub(crate) fn next(&mut self, mut logits: Vec<f32>) -> Result<u32, String> {
        self.penalize(&mut logits);
        check(&logits)?;
        let token = if self.config.temperature == 0.0 {
            likeliest(&logits)
        } else {
            self.draw(&logits)
        };
        self.see(token);
        Ok(token)
    }

    fn see(&mut self, token: u32) {
        if self.config.repetition_penalty != 1.0 {
            self.seen.insert(token);
        }
    }

    /// `RepetitionPenaltyLogitsProcessor` of transformers.
    fn penalize(&self, logits: &mut [f32]) {
        let penalty = self.config.repetition_penalty;
        for token in &self.seen {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit = if *logit < 0.0 {
                    *logit * penalty
                } else {
                    *logit / penalty
                };
            }
        }
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        let candidates = self.candidates(logits);
        let total: f32 = candidates.iter().map(|(_, weight)| weight).sum();
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

    /// Returns the tokens that can be drawn, the likeliest first, with their weights relative to its.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f32)> {
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
        if let Some(p) = self.config.top_p {
            let total: f32 = candidates.iter().map(|(_, weight)| weight).sum();
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
        }
        if let Some(p) = self.config.min_p {
            // The likeliest weighs 1, so the weights are the shares.
            candidates.retain(|(_, weight)| *weight >= p);
        }
        candidates
    }

    /// Draws a number in `[0, 1)` from the upper 24 bits of a word: spelled out so that no release of a library
    /// changes what a seed means.
    fn unit(&mut self) -> f32 {
        (self.rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32
    }
}

/// Refuses logits among which there is no likeliest one. Single ones of negative infinity only rule their tokens out.
fn check(logits: &[f32]) -> Result<(), String> {
    let bad = logits
        .iter()
        .filter(|logit| logit.is_nan() || **logit == f32::INFINITY);
    match bad.count() {
        0 if logits.iter().any(|logit| logit.is_finite()) => Ok(()),
        0 => Err("no logit that is finite".to_owned()),
        bad => Err(format!(
            "{bad} of {} logits that are infinite or no numbers",
            logits.len()
        )),
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
        let mut sampler = Sampler::new(config, 7, &[]);
        let draw = |_| sampler.next(logits.to_vec()).unwrap();
        (0..count).map(draw).collect()
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

    /// Rounding of f32 in another order of operations.
    const ROUNDING: f32 = 1e-6;

    #[test]
    fn the_settings_do_what_those_of_transformers_do() {
        let recorded = qlora_test_support::json("sampling.json");
        let numbers = |list: &serde_json::Value| -> Vec<f32> {
            let list = list.as_array().unwrap().iter();
            list.map(|number| number.as_f64().unwrap() as f32).collect()
        };
        let prompt: Vec<u32> = serde_json::from_value(recorded["prompt"].clone()).unwrap();
        let cases = recorded["cases"].as_array().unwrap();
        assert!(cases.len() > 5);
        for case in cases {
            let setting = &case["setting"];
            let number = |name: &str| setting[name].as_f64().map(|number| number as f32);
            let config = SamplingConfig::new()
                .with_temperature(number("temperature").unwrap_or(1.0))
                .with_top_k(setting["top_k"].as_u64().map(|k| k as usize))
                .with_top_p(number("top_p"))
                .with_min_p(number("min_p"))
                .with_repetition_penalty(number("repetition_penalty").unwrap_or(1.0));
            config.validate().unwrap();
            let mut logits = numbers(&case["logits"]);
            Sampler::new(&config, 0, &prompt).penalize(&mut logits);
            assert_eq!(Some(u64::from(likeliest(&logits))), case["greedy"].as_u64());
            let candidates = Sampler::new(&config, 0, &prompt).candidates(&logits);
            let total: f32 = candidates.iter().map(|(_, weight)| weight).sum();
            let mut found = vec![0.0; logits.len()];
            for (token, weight) in candidates {
                found[token as usize] = weight / total;
            }
            for (found, expected) in found.iter().zip(numbers(&case["probabilities"])) {
                assert_eq!(*found == 0.0, expected == 0.0, "{setting}");
                assert!((found - expected).abs() < ROUNDING, "{setting}");
            }
        }
    }

    #[test]
    fn a_penalty_counts_what_was_written_too() {
        let greedy = |penalty: f32| {
            let config = SamplingConfig::new().with_repetition_penalty(penalty);
            draw(&config, &[2.0, 1.5, -0.1], 4)
        };
        assert_eq!(greedy(1.0), [0, 0, 0, 0]);
        assert_eq!(greedy(1.5), [0, 1, 0, 0]);
    }

    #[test]
    fn logits_that_are_no_numbers_are_refused() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        for temperature in [0.0, 1.0] {
            let config = SamplingConfig::new().with_temperature(temperature);
            let next = |logits: &[f32]| Sampler::new(&config, 0, &[]).next(logits.to_vec());
            for (logits, expected) in [
                ([1.0, nan], "1 of 2"),
                ([inf, inf], "2 of 2"),
                ([-inf, -inf], "no logit that is finite"),
            ] {
                let error = next(&logits).unwrap_err();
                assert!(error.contains(expected), "{error}");
            }
            assert_eq!(next(&[-inf, 0.0]), Ok(1));
        }
    }
}
