//! Rows side by side, each as if it were alone.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_qlora::{CausalLm, Continuations, TokenBatch};
use burn_qlora_llama::{
    Decoder, DecoderConfig, DecoderError, Finish, Generation, GenerationBatch, GenerationRequest,
    KvCache, SamplingConfig, Start, Weights,
};
use qlora_test_support::{FAMILIES, Tolerance, assert_close, block_on, values};

use crate::fixtures::{Reference, load};

/// Runs `check` for every recorded model on Flex, with a row of twenty tokens, which is longer than any window of theirs.
fn every_model(mut check: impl FnMut(&str, &Decoder, &[u32])) {
    let row = Reference::of("families/mistral").tokens("long_input_ids");
    let families = FAMILIES.iter().map(|family| format!("families/{family}"));
    for name in families.chain(["tiny_llama".into(), "tiny_llama_nf4".into()]) {
        let model = load(&name, Weights::AsStored, &Device::flex());
        check(&name, &model, &row);
    }
}

fn alone(model: &Decoder, request: &GenerationRequest<'_>) -> Generation {
    let GenerationRequest {
        prompt,
        config,
        seed,
    } = *request;
    let mut told = Vec::new();
    let found = model.generate(prompt, config, seed, |token| {
        told.push(token);
        ControlFlow::Continue(())
    });
    let found = found.expect("generates");
    assert_eq!(told, found.tokens);
    // A browser awaits the same tokens.
    let awaited = model.generate_async(prompt, config, seed, |_| ControlFlow::Continue(()));
    assert_eq!(block_on(awaited).expect("generates"), found);
    found
}

/// Prompts of several lengths, of which rows leave at different times; those of a model with LongRoPE go beyond the length at
/// which it rotates otherwise, one of them while another has not come so far.
#[test]
fn a_row_gets_the_tokens_that_it_gets_alone() {
    every_model(|name, model, row| {
        let plain = |max_tokens| {
            SamplingConfig::new()
                .with_max_tokens(max_tokens)
                .with_stop_tokens(Some(vec![]))
        };
        let configs = [plain(12), plain(3), plain(12).with_temperature(0.8)];
        let request = |prompt, config, seed| GenerationRequest {
            prompt,
            config,
            seed,
        };
        let stop = alone(model, &request(&row[..9], &configs[0], 0)).tokens[5];
        let stopping = plain(12).with_stop_tokens(Some(vec![stop]));
        let requests = [
            request(&row[..3], &configs[0], 0),
            request(row, &configs[0], 0),
            request(&row[..9], &stopping, 0),
            request(&row[..12], &configs[1], 0),
            request(&row[..1], &configs[2], 7),
        ];
        let mut told = vec![Vec::new(); requests.len()];
        let found = model.generate_batch(&requests, |place, token| {
            told[place].push(token);
            ControlFlow::Continue(())
        });
        let found = found.expect("generates");
        for (place, request) in requests.iter().enumerate() {
            assert_eq!(found[place], alone(model, request), "{name}, row {place}");
            assert_eq!(found[place].tokens, told[place], "{name}, row {place}");
        }
        assert_eq!(found[2].finish, Finish::Stop, "{name}");
        assert_eq!(found[3].finish, Finish::Length, "{name}");
    });
}

/// A prompt longer than all that runs comes, and shorter ones; two of them go on in two ways each; rows leave in between.
#[test]
fn rows_that_come_and_go_get_the_tokens_that_they_get_alone() {
    every_model(|name, model, row| {
        let config = |max_tokens, temperature| {
            SamplingConfig::new()
                .with_max_tokens(max_tokens)
                .with_temperature(temperature)
                .with_stop_tokens(Some(vec![]))
        };
        let plans = [
            (&row[..3], config(12, 0.0), vec![1]),
            (&row[..1], config(3, 0.0), vec![2]),
            (row, config(8, 0.8), vec![3, 4]),
            (&row[..2], config(1, 0.0), vec![5]),
            (&row[..9], config(12, 0.9), vec![6, 7]),
        ];
        let begin = |plan: &(&[u32], SamplingConfig, Vec<u64>)| {
            let (prompt, config, seeds) = plan;
            let request = GenerationRequest {
                prompt,
                config,
                seed: 0,
            };
            let ways: Vec<(usize, u64)> =
                seeds.iter().map(|seed| (*seed as usize, *seed)).collect();
            GenerationBatch::begin_in_ways(model, &request, &ways).expect("begins")
        };
        let mut told: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        let mut keep = |place, token: Result<u32, DecoderError>| {
            told.entry(place).or_default().push(token.expect("a token"));
            ControlFlow::Continue(())
        };
        let mut batch = begin(&plans[0]);
        batch.step(&mut keep).expect("generates");
        let mut found = Vec::new();
        for plan in &plans[1..] {
            let mut newcomer = begin(plan);
            newcomer.step(&mut keep).expect("generates");
            batch.join(vec![newcomer]);
            batch.step(&mut keep).expect("generates");
            batch.step(&mut keep).expect("generates");
            found.extend(batch.take_finished());
        }
        while batch.step(&mut keep).expect("generates") {}
        found.extend(batch.take_finished());
        let found: BTreeMap<usize, Generation> = found.into_iter().collect();
        assert_eq!(found.len(), 7, "{name}");
        for (prompt, config, seeds) in &plans {
            for seed in seeds {
                let request = GenerationRequest {
                    prompt,
                    config,
                    seed: *seed,
                };
                let place = *seed as usize;
                assert_eq!(found[&place], alone(model, &request), "{name}, row {place}");
                assert_eq!(found[&place].tokens, told[&place], "{name}, row {place}");
            }
        }
    });
}

fn request<'a>(prompt: &'a [u32], config: &'a SamplingConfig) -> GenerationRequest<'a> {
    GenerationRequest {
        prompt,
        config,
        seed: 0,
    }
}

/// Of a text that is being written and of one that is done, in a way of its own each. A model whose tokens rotate by the length of
/// their text has nothing to go on from.
#[test]
fn a_prompt_goes_on_from_what_the_model_has_seen_as_if_it_read_it() {
    let mut gone_on = 0;
    every_model(|name, model, row| {
        let config = SamplingConfig::new()
            .with_max_tokens(6)
            .with_stop_tokens(Some(vec![]));
        let mut go_on = |prompt: &[u32], start: Option<Start<'_>>, seen: usize| {
            let Some(start) = start else { return };
            assert_eq!(start.tokens(), seen, "{name}");
            let request = request(prompt, &config);
            let batch = GenerationBatch::begin_from(model, &request, &[(0, 0)], Some(start));
            let mut batch = batch.expect("begins");
            while batch
                .step(|_, _| ControlFlow::Continue(()))
                .expect("goes on")
            {}
            let (_, found) = batch.take_finished().remove(0);
            assert_eq!(found, alone(model, &request), "{name}, {seen} seen");
            gone_on += 1;
        };
        let first = request(&row[..9], &config);
        let batch = GenerationBatch::begin_in_ways(model, &first, &[(0, 0), (1, 0)]);
        let mut batch = batch.expect("begins");
        batch.keep_texts();
        for _ in 0..2 {
            batch
                .step(|_, _| ControlFlow::Continue(()))
                .expect("goes on");
        }
        go_on(row, batch.start_of(row), 9);
        while batch
            .step(|_, _| ControlFlow::Continue(()))
            .expect("goes on")
        {}
        assert!(batch.start_of(row).is_none());

        for text in batch.take_texts() {
            assert_eq!(text.tokens()[..9], row[..9], "{name}");
            assert_eq!(text.tokens().len(), 9 + 6 - 1, "{name}");
            let further = [text.tokens(), &row[..3]].concat();
            // All but the last nine, of which the model is given more than few rows.
            go_on(&further, text.start_of(&further), 8);
            go_on(text.tokens(), text.start_of(text.tokens()), 5);
            let mut other = further.clone();
            other[4] += 1;
            go_on(&other, text.start_of(&other), 4);
            other[0] += 1;
            assert!(text.start_of(&other).is_none());
        }

        let (mut seen, mut seen_with_lookup) = (None, None);
        let mut chat = row[..5].to_vec();
        for turn in &row[5..8] {
            let found =
                model.generate_on(&chat, &config, 0, &mut seen, |_| ControlFlow::Continue(()));
            let found = found.expect("generates");
            assert_eq!(found, alone(model, &request(&chat, &config)), "{name}");
            let seen = &mut seen_with_lookup;
            let guessed = model
                .generate_with_lookup(&chat, &config, 0, 3, seen, |_| ControlFlow::Continue(()));
            assert_eq!(guessed.expect("generates").0, found, "{name}");
            chat.extend(found.tokens);
            chat.push(*turn);
        }
    });
    assert!(gone_on > 0);
}

/// Greedy rows of these models go round in circles after a while, so that guesses are kept, and drawn ones do not.
#[test]
fn guesses_that_are_checked_change_no_token() {
    let mut kept = [0; 2];
    every_model(|name, model, row| {
        let prompt = [row, &row[..7]].concat();
        for (place, temperature) in [0.0, 0.6].into_iter().enumerate() {
            let config = SamplingConfig::new()
                .with_max_tokens(40)
                .with_temperature(temperature)
                .with_stop_tokens(Some(vec![]));
            let request = GenerationRequest {
                prompt: &prompt,
                config: &config,
                seed: 3,
            };
            let expected = alone(model, &request);
            for most in 1..=Decoder::MOST_GUESSES {
                let mut told = Vec::new();
                let found =
                    model.generate_with_lookup(&prompt, &config, 3, most, &mut None, |token| {
                        told.push(token);
                        ControlFlow::Continue(())
                    });
                let (found, guesses) = found.expect("generates");
                assert_eq!(found, expected, "{name}, {most} guesses");
                assert_eq!(told, found.tokens, "{name}");
                assert!(guesses.kept <= guesses.made && guesses.kept < 40, "{name}");
                kept[place] += guesses.kept;
            }
        }
    });
    assert!(kept[0] > 0, "{kept:?}");
    let model = load("tiny_llama", Weights::AsStored, &Device::flex());
    let config = SamplingConfig::new();
    for most in [0, Decoder::MOST_GUESSES + 1] {
        let refused =
            model.generate_with_lookup(&[1], &config, 0, most, &mut None, |_| unreachable!());
        assert!(matches!(
            refused,
            Err(DecoderError::Sampling { name: "lookup", .. })
        ));
    }
    let mut count = 0;
    let ended = model.generate_with_lookup(&[5, 6, 5, 6, 5], &config, 0, 4, &mut None, |_| {
        count += 1;
        match count {
            3 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    let (ended, _) = ended.expect("generates");
    assert_eq!((ended.tokens.len(), ended.finish), (3, Finish::Callback));
}

/// Casts the parameters of a model.
struct Cast(DType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|value| value.cast(self.0))
    }
}

/// The head is so wide that a greedy choice reads a copy of it in 8 bits, and of itself the rows that may be the likeliest. In bf16
/// many of its logits are alike.
#[test]
fn a_wide_head_gives_the_first_of_its_largest_logits() {
    let text = r#"{"model_type": "llama", "vocab_size": 65536, "hidden_size": 64, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": false}"#;
    let (config, _) = DecoderConfig::from_hf_json(text, Path::new("config.json")).expect("read");
    let (device, count) = (Device::flex(), 40);
    let plain = SamplingConfig::new()
        .with_max_tokens(count)
        .with_stop_tokens(Some(vec![]));
    for dtype in [DType::F32, DType::BF16] {
        device.seed(11);
        let model = config.init(&device).expect("fits").map(&mut Cast(dtype));
        let mut cache = KvCache::new(&model, 1, 64);
        let (prompt, mut expected) = ([3, 70, 5000], Vec::new());
        let mut given = prompt.to_vec();
        while expected.len() < count {
            let ids: Vec<i32> = given.iter().map(|id| *id as i32).collect();
            let ids = TensorData::new(ids, [1, given.len()]);
            let logits = model.forward_cached(Tensor::from_data(ids, &device), &mut cache);
            let logits = values(logits.expect("fits").cast(DType::F32));
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let first = logits.iter().position(|logit| *logit == largest);
            expected.push(first.expect("it is one of them") as u32);
            given = expected[expected.len() - 1..].to_vec();
        }
        let request = GenerationRequest {
            prompt: &prompt,
            config: &plain,
            seed: 0,
        };
        let found = model.generate_batch(&[request; 3], |_, _| ControlFlow::Continue(()));
        for found in found.expect("generates") {
            assert_eq!(found.tokens, expected, "{dtype:?}");
        }
        let found = model.generate_with_lookup(&prompt, &plain, 0, 4, &mut None, |_| {
            ControlFlow::Continue(())
        });
        assert_eq!(found.expect("generates").0.tokens, expected, "{dtype:?}");
    }
}

#[test]
fn a_callback_ends_its_own_row() {
    let model = load("tiny_llama", Weights::AsStored, &Device::flex());
    let config = SamplingConfig::new()
        .with_max_tokens(6)
        .with_stop_tokens(Some(vec![]));
    let request = |prompt| GenerationRequest {
        prompt,
        config: &config,
        seed: 0,
    };
    let mut count = 0;
    let found = model.generate_batch(&[request(&[5, 6, 7]), request(&[8])], |place, _| {
        count += usize::from(place == 0);
        match (place, count) {
            (0, 2) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    let found = found.expect("generates");
    assert_eq!(
        (found[0].tokens.len(), found[0].finish),
        (2, Finish::Callback)
    );
    assert_eq!(found[1], alone(&model, &request(&[8])));
    assert_eq!(
        model.generate_batch(&[], |_, _| unreachable!()).unwrap(),
        []
    );
    let broken = model.generate_batch(&[request(&[8]), request(&[])], |_, _| unreachable!());
    assert!(matches!(broken, Err(DecoderError::EmptyPrompt)));
}

/// A context that is full ends the row that fills it, and not those beside it.
#[test]
fn a_row_ends_where_its_own_context_does() {
    let model = load("families/ministral3", Weights::AsStored, &Device::flex());
    let limit = model.config().context_len();
    let long = vec![5; limit - 2];
    let config = SamplingConfig::new()
        .with_max_tokens(8)
        .with_stop_tokens(Some(vec![]));
    let request = |prompt| GenerationRequest {
        prompt,
        config: &config,
        seed: 0,
    };
    let requests = [request(&long), request(&long[..4])];
    let found = model.generate_batch(&requests, |_, _| ControlFlow::Continue(()));
    let found = found.expect("generates");
    let ended = found.iter().map(|found| (found.tokens.len(), found.finish));
    let expected = [(3, Finish::Context), (8, Finish::Length)];
    assert_eq!(ended.collect::<Vec<_>>(), expected);
}

/// The text of several continuations goes through the model once, beside texts of other lengths.
#[test]
fn continuations_have_the_losses_of_whole_rows() {
    every_model(|name, model, row| {
        let asked = [
            Continuations {
                context: row[..14].to_vec(),
                continuations: vec![row[14..15].to_vec(), row[2..7].to_vec()],
            },
            Continuations {
                context: row[..2].to_vec(),
                continuations: vec![row[2..5].to_vec()],
            },
        ];
        let letters = [Continuations {
            context: row[..6].to_vec(),
            continuations: vec![vec![7], vec![8], vec![9]],
        }];
        for asked in [&asked[..], &letters] {
            let found = sums(&model.continuation_losses(asked).expect("are told apart"));
            let each = asked.iter().flat_map(|asked| {
                let choices = asked.continuations.iter();
                choices.map(|choice| Continuations {
                    context: asked.context.clone(),
                    continuations: vec![choice.clone()],
                })
            });
            let alone = each.flat_map(|one| {
                let batch = TokenBatch::of_continuations(&[one], &Device::flex());
                sums(&model.token_losses(&batch).expect("are told apart"))
            });
            let tolerance = Tolerance::absolute(
                2e-4,
                "five losses of f32, each as near as logits are to transformers'",
            );
            assert_close(name, &found, &alone.collect::<Vec<_>>(), tolerance);
        }
    });
}

fn sums(losses: &burn::tensor::Tensor<2>) -> Vec<f32> {
    values(losses.clone().sum_dim(1))
}
