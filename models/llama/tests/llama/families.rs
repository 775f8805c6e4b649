//! The families beside LLaMA: logits, hidden states, losses and greedy tokens of transformers.

use std::ops::ControlFlow;

use burn::tensor::{Int, Tensor};
use burn_qlora::LoraModel;
use burn_qlora_llama::{
    Checkpoint, Decoder, DecoderError, KvCache, LoadOptions, SamplingConfig, Weights,
    write_bitsandbytes,
};
use nf4::QuantConfig;
use qlora_test_support::{
    FAMILIES, TestDevice, Tolerance, assert_close, fixture, token_losses, values,
};

use crate::fixtures::{Reference, greedy, load, max_error, mean_loss};

/// A recorded model on a device.
struct Case {
    /// What the test says of it.
    what: String,
    /// The folder among the recordings.
    folder: String,
    reference: Reference,
    test: TestDevice,
}

/// Runs `check` for what lies in the folder `part` of every family, on every device.
fn every_family(part: &str, check: impl Fn(&Case, &Decoder)) {
    for test in qlora_test_support::devices!() {
        for family in FAMILIES {
            let folder = format!("families/{family}{part}");
            let case = Case {
                what: format!("{folder} on {}", test.name),
                reference: Reference::of(&folder),
                folder,
                test: test.clone(),
            };
            let model = load(&case.folder, Weights::AsStored, &test.device);
            let layers = model.lora_linears().into_iter();
            let paths: Vec<String> = layers.map(|(path, _)| path).collect();
            assert_eq!(paths, model.config().projection_paths(), "{}", case.what);
            check(&case, &model);
        }
    }
}

impl Case {
    fn ids(&self, name: &str) -> Tensor<2, Int> {
        self.reference.ids(name, &self.test.device)
    }

    /// Of logits, hidden states and the losses of tokens.
    fn tolerance(&self) -> Tolerance {
        if self.test.is_flex() {
            Tolerance::absolute(1e-4, "an f64 recomputation is within 1.2e-5")
        } else {
            Tolerance::absolute(1e-3, "GPUs contract and approximate")
        }
    }

    fn check_logits(&self, model: &Decoder) {
        let logits = model.forward(self.ids("input_ids"));
        let expected = self.reference.floats("logits");
        let error = max_error(logits, &expected, &self.reference.real());
        self.check(&format!("logits, off by {error:e}"), &[error], &[0.0]);
        let logits = model.forward(self.ids("long_input_ids"));
        let expected = self.reference.floats("long_logits");
        self.check("long logits", &values(logits), &expected);
    }

    /// Compares the loss of every target and the mean of each batch.
    fn check_losses(&self, model: &Decoder) {
        for (ids, labels, losses, mean) in [
            ("input_ids", Some("labels"), "per_token_loss", "loss"),
            ("long_input_ids", None, "long_per_token_loss", "long_loss"),
        ] {
            // The labels of the long row are its tokens.
            let targets = self.reference.targets(labels.unwrap_or(ids));
            let found = token_losses(&values(model.forward(self.ids(ids))), &targets.1);
            // None is recorded after the last token.
            let rows = found.chunks(targets.0[1]);
            let found: Vec<f32> = rows
                .flat_map(|row| &row[..row.len() - 1])
                .copied()
                .collect();
            self.check(losses, &found, &self.reference.floats(losses));
            let found = mean_loss(model, self.ids(ids), &targets);
            let limit = if self.test.is_flex() { 1e-5 } else { 1e-4 };
            let tolerance = Tolerance::absolute(limit, "an f64 recomputation is within 1e-6");
            let expected = self.reference.floats(mean);
            assert_close(
                &format!("{}: {mean}", self.what),
                &[found],
                &expected,
                tolerance,
            );
        }
    }

    /// Compares the logits of the last tokens of the long row, which come one by one behind a prompt, where rotations do not depend
    /// on the length.
    fn check_cached_logits(&self, model: &Decoder, expected: &[f32]) {
        let mut rotations = model.config().rotations.iter();
        if rotations.any(|rotation| rotation.scaling.depends_on_length()) {
            return;
        }
        let ids = self.ids("long_input_ids");
        let [batch, seq] = ids.dims();
        let vocab = model.config().vocab_size;
        let tail = expected.len() / vocab;
        let mut cache = KvCache::new(model, batch, seq);
        for (row, expected) in expected.chunks(vocab).enumerate() {
            let end = seq - tail + row + 1;
            let part = ids.clone().slice([0..batch, cache.len()..end]);
            let logits = model.forward_cached(part, &mut cache).expect("fits");
            self.check("cached logits", &values(logits), expected);
        }
    }

    fn check_greedy_tokens(&self, model: &Decoder) {
        let prompt = self.reference.tokens("long_input_ids");
        let expected = self.reference.tokens("greedy_tokens");
        let found = greedy(model, &prompt, expected.len());
        assert_eq!(found, expected, "{}", self.what);
    }

    fn check(&self, name: &str, found: &[f32], expected: &[f32]) {
        let what = format!("{}: {name}", self.what);
        assert_close(&what, found, expected, self.tolerance());
    }
}

#[test]
fn logits_and_hidden_states_match_transformers() {
    every_family("", |case, model| {
        case.check_logits(model);
        let states = model.hidden_states(case.ids("long_input_ids"));
        let last = states.into_iter().flat_map(|state| {
            let [_, seq, width] = state.dims();
            values(state.slice([0..1, seq - 1..seq, 0..width]))
        });
        let expected = case.reference.floats("long_hidden_last");
        case.check("hidden states", &last.collect::<Vec<_>>(), &expected);
    });
}

/// With the config.json that a folder of the hub would have: keys of transformers 4, and what they leave out.
#[test]
fn configurations_of_the_hub_give_the_same_logits() {
    every_family("", |case, _| {
        let folder = tempfile::tempdir().expect("a temporary directory");
        for (from, to) in [
            ("config_wild.json", "config.json"),
            ("model.safetensors", "model.safetensors"),
        ] {
            let from = fixture(&case.folder).join(from);
            std::fs::copy(from, folder.path().join(to)).expect("copies");
        }
        let checkpoint = Checkpoint::open(folder.path())
            .unwrap_or_else(|error| panic!("{}: {error}", case.what));
        let model = Decoder::load(&checkpoint, &LoadOptions::default(), &case.test.device);
        case.check_logits(&model.expect("loads"));
    });
}

#[test]
fn losses_and_greedy_tokens_match_transformers() {
    every_family("", |case, model| {
        case.check_losses(model);
        case.check_greedy_tokens(model);
    });
}

#[test]
fn bitsandbytes_checkpoints_match_transformers() {
    every_family("/nf4", |case, model| {
        let logits = values(model.forward(case.ids("long_input_ids")));
        let expected = case.reference.floats("long_logits_tail");
        let tail = &logits[logits.len() - expected.len()..];
        case.check("tail of the long logits", tail, &expected);
        case.check_cached_logits(model, &expected);
        case.check_losses(model);
        case.check_greedy_tokens(model);
    });
}

/// Where rotations do not depend on the length; those that do are rotated anew only without a cache.
#[test]
fn cached_logits_equal_uncached_ones() {
    every_family("", |case, model| {
        let mut rotations = model.config().rotations.iter();
        if rotations.any(|rotation| rotation.scaling.depends_on_length()) {
            return;
        }
        let ids = case.ids("long_input_ids");
        let [batch, seq] = ids.dims();
        let whole = model.forward(ids.clone());
        let vocab = model.config().vocab_size;
        let mut cache = KvCache::new(model, batch, seq);
        // A prompt beyond the window, then token by token, then several at once.
        let mut start = 0;
        for step in [10, 1, 1, 3, 1, seq - 16] {
            let part = ids.clone().slice([0..batch, start..start + step]);
            start += step;
            let cached = model.forward_cached(part, &mut cache).expect("fits");
            let expected = whole.clone().slice([0..batch, start - 1..start, 0..vocab]);
            let limit = if case.test.is_flex() { 1e-5 } else { 1e-4 };
            let tolerance = Tolerance::absolute(limit, "the same sums in another order");
            let what = format!("{} at {start}", case.what);
            assert_close(&what, &values(cached), &values(expected), tolerance);
        }
    });
}

/// Beyond the context of pretraining all keys rotate by the long factors, those of the prompt too.
#[test]
fn longrope_generates_across_its_context_as_without_a_cache() {
    for test in qlora_test_support::devices!() {
        let folder = "families/phi3_longrope";
        let model = load(folder, Weights::AsStored, &test.device);
        let mut tokens = Reference::of(folder).tokens("long_input_ids");
        tokens.truncate(13);
        let config = SamplingConfig::new()
            .with_max_tokens(7)
            .with_stop_tokens(Some(vec![]));
        let found = model.generate(&tokens, &config, 0, |_| ControlFlow::Continue(()));
        for token in found.expect("generates").tokens {
            let ids = tokens.iter().map(|id| *id as i32).collect::<Vec<_>>();
            let ids = Tensor::<1, Int>::from_ints(ids.as_slice(), &test.device);
            let logits = values(model.forward(ids.unsqueeze()));
            let last = &logits[logits.len() - model.config().vocab_size..];
            let best = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b]));
            assert_eq!(best, Some(token as usize), "{} {}", test.name, tokens.len());
            tokens.push(token);
        }
        assert_eq!(tokens.len(), 20);

        let mut cache = KvCache::new(&model, 1, 20);
        let ids = |len| Tensor::<2, Int>::ones([1, len], &test.device);
        model.forward_cached(ids(16), &mut cache).expect("fits");
        let error = model.forward_cached(ids(1), &mut cache);
        let error = error.expect_err("the cache is of short factors");
        assert!(
            matches!(
                error,
                DecoderError::OutdatedCache {
                    cached: 16,
                    length: 17
                }
            ),
            "{error}"
        );
        cache.clear();
        model
            .forward_cached(ids(17), &mut cache)
            .expect("is long from the start");
        model
            .forward_cached(ids(1), &mut cache)
            .expect("stays long");
    }
}

/// Quantized by bitsandbytes' rules, with a config.json that says the same again.
#[test]
fn what_is_written_for_bitsandbytes_loads_as_it_was_quantized() {
    let device = qlora_test_support::devices!().remove(0).device;
    for family in FAMILIES {
        let folder = format!("families/{family}");
        let source = Checkpoint::open(fixture(&folder)).expect("opens");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let written = directory.path().join("written");
        let config = QuantConfig::default();
        write_bitsandbytes(&source, &written, config, |_, _| {})
            .unwrap_or_else(|error| panic!("{family}: {error}"));
        let written =
            Checkpoint::open(&written).unwrap_or_else(|error| panic!("{family}: {error}"));
        assert_eq!(source.config(), written.config(), "{family}");
        let ids = Reference::of(&folder).ids("long_input_ids", &device);
        let logits = |checkpoint: &Checkpoint, weights| {
            let options = LoadOptions::new(weights);
            let model = Decoder::load(checkpoint, &options, &device).expect("loads");
            values(model.forward(ids.clone()))
        };
        let quantized = logits(&source, Weights::Quantized(config));
        assert!(quantized == logits(&written, Weights::AsStored), "{family}");
    }
}
