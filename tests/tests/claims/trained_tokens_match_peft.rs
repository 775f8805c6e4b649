//! Rows of tokens, added ones among them, are trained as peft's `trainable_token_indices` trains them.

use std::fs;

use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_finetune::TrainerBuilder;
use burn_qlora::{BackwardPass, CausalLm, Checkpointing, LoraModel, freeze_base, peft};
use burn_qlora_llama::{Checkpoint, Decoder, LoadOptions, Weights};
use qlora_test_support::{
    Recording, TestDevice, Tolerance, assert_close, fixture, read_fixture, values,
};
use qlora_tests::{Curve, devices, loss_tolerance};
use serde_json::json;
use tempfile::TempDir;
use tokenizers::AddedToken;

/// The recorded models: their files, the folder of their run, and the modules with trained rows.
const CASES: [(&str, &str, &[&str]); 2] = [
    ("tiny_llama_tied", "tied", &["model.embed_tokens"]),
    ("tiny_llama", "untied", &["model.embed_tokens", "lm_head"]),
];
const ADDED: [&str; 3] = ["<a>", "<b>", "<c>"];

/// A recorded model whose tokenizer has a token for each of its rows, and three that were added.
struct Extended {
    checkpoint: Checkpoint,
    _folder: TempDir,
}

impl Extended {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            let bytes = read_fixture(format!("{name}/{file}"));
            fs::write(folder.path().join(file), bytes).unwrap();
        }
        let vocab: serde_json::Map<_, _> =
            (0..512).map(|id| (format!("w{id}"), json!(id))).collect();
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "w0" },
        });
        fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let mut checkpoint = Checkpoint::open(folder.path()).unwrap();
        let tokens = ADDED.map(|token| AddedToken::from(token, true));
        assert_eq!(checkpoint.add_tokens(&tokens).unwrap(), [512, 513, 514]);
        Self {
            checkpoint,
            _folder: folder,
        }
    }

    fn model(&self, device: &Device) -> Decoder {
        let options = LoadOptions::new(Weights::Dense);
        Decoder::load(&self.checkpoint, &options, device).unwrap()
    }

    fn adapted(&self, adapter: &str, device: &Device) -> Decoder {
        let mut model = self.model(device);
        peft::load(&mut model, fixture(adapter)).unwrap();
        model
    }
}

fn tolerance(device: &TestDevice) -> Tolerance {
    let part = if device.is_flex() { 1e-4 } else { 1e-3 };
    Tolerance::of_largest(part, "as of the gradients of adapters")
}

/// The gradients of rows and factors in the first step, whatever is kept for the backward pass.
#[test]
fn gradients() {
    for (name, run, tables) in CASES {
        let extended = Extended::new(name);
        let curve = Curve::of_tokens(run);
        let recording = Recording::open(&format!("trainable_tokens/{run}/grads_step0.safetensors"));
        for test in devices() {
            let device = test.device.clone().autodiff();
            let adapter = format!("trainable_tokens/{run}/init_adapter");
            let model = freeze_base(extended.adapted(&adapter, &device));
            let batch = curve.batches().whole(0, &device);
            let found = [Checkpointing::None, Checkpointing::Layer].map(|checkpointing| {
                let pass = BackwardPass {
                    scale: 1.0 / batch.target_tokens as f64,
                    seed: 0,
                    noise: 0.0,
                    checkpointing,
                };
                let found = model.loss_and_gradients(&batch.tensors, &pass);
                let gradients = found.gradients.into_iter();
                let gradients = gradients.map(|gradient| values(gradient.expect("a gradient")));
                gradients.collect::<Vec<_>>()
            });
            if test.is_flex() {
                assert!(found[0] == found[1], "{run}: other bits block by block");
            }
            let linears = model.lora_linears().into_iter();
            let adapted = linears.filter(|(_, linear)| linear.adapter.is_some());
            let factors = adapted.flat_map(|(path, _)| {
                ["A", "B"].map(|factor| format!("{path}.lora_{factor}.default.weight"))
            });
            let rows = model.token_rows().into_iter();
            let rows: Vec<String> = rows.map(|(path, _)| path).collect();
            assert_eq!(rows, tables);
            let rows = rows
                .into_iter()
                .map(|path| format!("{path}.token_adapter.trainable_tokens_delta.default"));
            let names: Vec<String> = factors.chain(rows).collect();
            assert_eq!(names.len(), recording.names().len(), "{run}");
            for gradients in &found {
                assert_eq!(names.len(), gradients.len(), "{run}");
                for (name, gradient) in names.iter().zip(gradients) {
                    let name = format!("base_model.model.{name}");
                    // Burn's factors stand the other way round.
                    let mut expected = recording.f32(&name);
                    if name.contains(".lora_") {
                        let shape = recording.shape(&name);
                        let (rows, columns) = (shape[0], shape[1]);
                        let of = |at: usize| at % rows * columns + at / rows;
                        expected = (0..expected.len()).map(|at| expected[of(at)]).collect();
                    }
                    let what = format!("{run} on {}: {name}", test.name);
                    assert_close(&what, gradient, &expected, tolerance(&test));
                }
            }
        }
    }
}

/// Five steps of AdamW; then the rows of the other tokens are what they were, bit for bit, and the logits are peft's.
#[test]
fn every_step_and_no_other_row() {
    for (name, run, tables) in CASES {
        let extended = Extended::new(name);
        let curve = Curve::of_tokens(run);
        let recorded = curve.recorded();
        let tokens = recorded["tokens"].as_array().unwrap().iter();
        let tokens: Vec<usize> = tokens.map(|id| id.as_u64().unwrap() as usize).collect();
        for test in devices() {
            let device = test.device.clone().autodiff();
            let before = extended.model(&test.device);
            let model = extended.adapted(&format!("trainable_tokens/{run}/init_adapter"), &device);
            let builder = TrainerBuilder::new(model, curve.config()).unwrap();
            let mut trainer = builder.build().unwrap();
            let batches = curve.batches();
            for step in 0..trainer.config().steps {
                let report = trainer.step(&[batches.whole(step, &device)]).unwrap();
                let expected = recorded["per_step"]["loss"][step].as_f64().unwrap();
                let error = (report.loss / expected - 1.0).abs();
                assert!(
                    error <= loss_tolerance(&test),
                    "{run} on {}, step {step}: loss off by {error:e}",
                    test.name
                );
            }
            let after = trainer.into_model();
            let width = after.config().hidden_size;
            let pairs = [
                (
                    before.embed_tokens.weight.val(),
                    after.embed_tokens.weight.val(),
                ),
                (before.head(), after.head()),
            ];
            for (table, (old, new)) in tables.iter().zip(pairs) {
                let (old, new) = (values(old), values(new));
                for id in 0..after.config().vocab_size {
                    let row = id * width..(id + 1) * width;
                    let same = old[row.clone()] == new[row];
                    assert_eq!(same, !tokens.contains(&id), "{run}: token {id} of {table}");
                }
            }
            check_logits(&format!("{run}, trained"), run, &after, &test, 1e-3);
        }
    }
}

/// What peft saves of a model that was resized: the embedding whole, and the rows beside it.
#[test]
fn what_peft_saves_of_a_resized_model() {
    for (name, run, _) in CASES {
        let extended = Extended::new(name);
        for test in devices() {
            let model = extended.adapted(&format!("trainable_tokens/{run}/trained"), &test.device);
            check_logits(&format!("{run}, loaded"), run, &model, &test, 1e-4);
        }
    }
}

/// Holds the logits of the recorded row against those that peft gave with its own adapter.
fn check_logits(what: &str, run: &str, model: &Decoder, test: &TestDevice, part: f64) {
    let recording = Recording::open(&format!("trainable_tokens/{run}/logits.safetensors"));
    let shape = recording.shape("input_ids");
    let ids = TensorData::new(recording.i64("input_ids"), [shape[0], shape[1]]);
    let ids = Tensor::<2, Int>::from_data(ids, &test.device);
    let part = if test.is_flex() { part } else { 10.0 * part };
    let reason = "five steps at a rate of 1e-2 add to what one forward pass rounds, 1e-5";
    assert_close(
        &format!("{what} on {}", test.name),
        &values(model.forward(ids)),
        &recording.f32("logits"),
        Tolerance::of_largest(part, reason),
    );
}
