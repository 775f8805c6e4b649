//! Adapters on the head are trained, read, written and merged as peft does it.

use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_qlora::{
    BackwardPass, CausalLm, Checkpointing, LoraModel, Targets, detach_adapters, freeze_base, peft,
};
use burn_qlora_llama::{ComputeDtype, Decoder};
use qlora_test_support::{Recording, TestDevice, Tolerance, assert_close, fixture, json, values};
use qlora_tests::{Curve, adapted, adapter_bits, devices, model};

const RUNS: [&str; 3] = ["untied", "tied", "capped"];

fn tolerance(device: &TestDevice) -> Tolerance {
    let part = if device.is_flex() { 1e-4 } else { 1e-3 };
    Tolerance::of_largest(part, "as of the gradients of other adapters")
}

/// The gradients of all factors in the first step, whatever is kept for the backward pass, and by the losses of tokens as
/// preferences weigh them.
#[test]
fn gradients() {
    for run in RUNS {
        let curve = Curve::of_head(run);
        let recording = Recording::open(&format!("head_adapters/{run}/grads_step0.safetensors"));
        for test in devices() {
            let device = test.device.clone().autodiff();
            let model = freeze_base(curve.model(ComputeDtype::F32, &device));
            let batch = curve.batches().whole(0, &device);
            let scale = 1.0 / batch.target_tokens as f64;
            let pass = |checkpointing, scale| BackwardPass {
                scale,
                seed: 0,
                noise: 0.0,
                checkpointing,
            };
            let read = |gradients: Vec<Option<Tensor<2>>>| -> Vec<Vec<f32>> {
                let gradients = gradients.into_iter();
                gradients
                    .map(|gradient| values(gradient.expect("a gradient")))
                    .collect()
            };
            let [all, layer] = [Checkpointing::None, Checkpointing::Layer].map(|kept| {
                read(
                    model
                        .loss_and_gradients(&batch.tensors, &pass(kept, scale))
                        .gradients,
                )
            });
            if test.is_flex() {
                assert!(all == layer, "{run}: other bits block by block");
            }
            let weigh = |losses: Tensor<2>| Ok::<_, ()>(losses.ones_like() * scale);
            let pass = pass(Checkpointing::Layer, 1.0);
            let weighed = model.weighted_gradients(&batch.tensors, &pass, weigh);
            let weighed = read(weighed.unwrap().expect("losses of tokens").gradients);

            let adapters = model.lora_adapters().into_iter();
            let names: Vec<String> = adapters
                .flat_map(|(path, _)| ["A", "B"].map(|factor| format!("{path}.lora_{factor}")))
                .collect();
            assert_eq!(names.len(), recording.names().len(), "{run}");
            assert!(
                names[names.len() - 1] == "lm_head.lora_B",
                "{run}: {names:?}"
            );
            for found in [&all, &layer, &weighed] {
                assert_eq!(names.len(), found.len(), "{run}");
                for (name, found) in names.iter().zip(found) {
                    let key = format!("base_model.model.{name}.default.weight");
                    let (recorded, shape) = (recording.f32(&key), recording.shape(&key));
                    // Burn's factors stand the other way round.
                    let of = |at: usize| at % shape[0] * shape[1] + at / shape[0];
                    let expected: Vec<f32> =
                        (0..recorded.len()).map(|at| recorded[of(at)]).collect();
                    let what = format!("{run} on {}: {name}", test.name);
                    assert_close(&what, found, &expected, tolerance(&test));
                }
            }
        }
    }
}

#[test]
fn every_step_and_the_final_adapter() {
    for test in devices() {
        for run in RUNS {
            let what = format!("{run} on {}", test.name);
            let curve = Curve::of_head(run);
            crate::curve_matches_peft::follow(&test, &what, &curve, Checkpointing::None);
        }
    }
}

/// The logits, as they are and merged into the weights, and the loss that they are of; and without the adapter those of the model, to
/// the bit, as the reference of DPO has them.
#[test]
fn logits_and_merged_logits() {
    for test in devices() {
        for run in RUNS {
            let curve = Curve::of_head(run);
            let recording = Recording::open(&format!("head_adapters/{run}/logits.safetensors"));
            let what = format!("{run} on {}", test.name);
            let mut model = curve.trained(&test.device);
            let ids = ids(&recording, &test.device);
            let found = model.forward(ids.clone());
            assert_close(
                &what,
                &values(found.clone()),
                &recording.f32("logits"),
                tolerance(&test),
            );

            let loss = model.token_nll(ids.clone(), None, ids.clone());
            let [rows, seq] = ids.dims();
            let log_p = burn::tensor::activation::log_softmax(found, 2);
            let picked = log_p.gather(2, ids.clone().reshape([rows, seq, 1]));
            let picked = values(picked.neg());
            assert_close(&what, &values(loss), &picked, tolerance(&test));

            let mut reference = model.clone();
            detach_adapters(&mut reference);
            let plain = qlora_tests::model(curve.base(), &test.device);
            let [reference, plain] =
                [reference, plain].map(|model| values(model.forward(ids.clone())));
            assert!(reference == plain, "{what}: the adapter stays");

            let embedding = values(model.embed_tokens.weight.val());
            model.merge();
            assert!(model.lora_adapters().is_empty(), "{what}");
            let merged = values(model.forward(ids));
            assert_close(&what, &merged, &recording.f32("logits"), tolerance(&test));
            // Merged into a head that is the embedding, it is a weight of its own.
            assert!(model.lm_head.is_some(), "{what}");
            assert!(
                values(model.embed_tokens.weight.val()) == embedding,
                "{what}"
            );
            if run == "untied" {
                let expected = recording.f32("logits_merged");
                assert_close(&what, &merged, &expected, tolerance(&test));
                let reason = "a few sums of f32 numbers below 1";
                let head = recording.f32("head_merged");
                let tolerance = Tolerance::absolute(1e-6, reason);
                assert_close(&what, &values(model.head()), &head, tolerance);
            }
        }
    }
}

/// As they were read, what was written is read again; with the names that peft gives the tensors.
#[test]
fn written_again_they_are_the_same() {
    let device = devices().remove(0).device;
    for run in RUNS {
        let base = Curve::of_head(run);
        let folder = format!("head_adapters/{run}/final_adapter");
        let mut first = model(base.base(), &device);
        let config = peft::load(&mut first, fixture(&folder)).unwrap();
        assert!(config.modules_to_save.is_empty(), "{run}");
        let Targets::Names(names) = &config.targets else {
            panic!("{run}: {:?}", config.targets);
        };
        assert!(names.iter().any(|name| name == "lm_head"), "{run}");
        let written = tempfile::tempdir().unwrap();
        peft::save(&first, &config, base.base(), written.path()).unwrap();
        let mut second = model(base.base(), &device);
        let again = peft::load(&mut second, written.path()).unwrap();
        assert_eq!(config, again, "{run}");
        assert_eq!(adapter_bits(&first), adapter_bits(&second), "{run}");

        let bytes = |path: std::path::PathBuf| std::fs::read(path).unwrap();
        let file = bytes(written.path().join(peft::WEIGHTS_FILE));
        let recorded = qlora_test_support::read_fixture(format!("{folder}/{}", peft::WEIGHTS_FILE));
        assert!(names_of(&file) == names_of(&recorded), "{run}");
        let text = bytes(written.path().join(peft::CONFIG_FILE));
        let text: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let recorded = json(&format!("{folder}/{}", peft::CONFIG_FILE));
        for key in [
            "target_modules",
            "rank_pattern",
            "r",
            "modules_to_save",
            "use_rslora",
        ] {
            assert_eq!(text[key], recorded[key], "{run}: {key}");
        }
    }
}

/// The names of the tensors of a safetensors file.
fn names_of(file: &[u8]) -> Vec<String> {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let names = header.as_object().unwrap().keys();
    let mut names: Vec<String> = names
        .filter(|name| *name != "__metadata__")
        .cloned()
        .collect();
    names.sort();
    names
}

/// What peft saves by itself has the weight of the embedding beside the factors, which is the model's: the head stays the embedding.
#[test]
fn the_weight_that_peft_saves_beside_it_is_the_model_s() {
    let device = devices().remove(0).device;
    let mut saved = model("tiny_llama_tied", &device);
    let config = peft::load(&mut saved, fixture("head_adapters/tied/saved")).unwrap();
    assert!(saved.lm_head.is_none() && config.modules_to_save.is_empty());
    let plain = adapted(
        "tiny_llama_tied",
        "head_adapters/tied/final_adapter",
        &device,
    );
    assert_eq!(adapter_bits(&saved), adapter_bits(&plain));
    // Where it is another model's, it takes the place of the head.
    let mut other = model("tiny_llama_tied", &device);
    other.embed_tokens.weight = other.embed_tokens.weight.map(|weight| weight * 2.0);
    let config = peft::load(&mut other, fixture("head_adapters/tied/saved")).unwrap();
    assert_eq!(config.modules_to_save, ["lm_head"]);
    assert!(other.lm_head.is_some() && other.lora_head().unwrap().adapter.is_none());
}

fn ids(recording: &Recording, device: &Device) -> Tensor<2, Int> {
    let shape = recording.shape("input_ids");
    let ids = TensorData::new(recording.i64("input_ids"), [shape[0], shape[1]]);
    Tensor::from_data(ids, device)
}

/// Dropout of the head's branch draws from a seed of its own, whatever is kept for the backward pass.
#[test]
fn dropout_on_the_head_is_the_same_block_by_block() {
    let device = Device::flex().autodiff();
    let curve = Curve::of_head("tied");
    let mut model = curve.model(ComputeDtype::F32, &device);
    model.update_adapters(&mut |mut branch| {
        branch.dropout.prob = 0.3;
        branch
    });
    let model: Decoder = freeze_base(model);
    let batch = curve.batches().whole(0, &device);
    let run = |checkpointing, seed| {
        let pass = BackwardPass {
            scale: 1.0,
            seed,
            noise: 0.0,
            checkpointing,
        };
        let found = model.loss_and_gradients(&batch.tensors, &pass);
        let gradients = found.gradients.into_iter();
        let gradients = gradients.flat_map(|gradient| values(gradient.unwrap()));
        (values(found.loss), gradients.collect::<Vec<f32>>())
    };
    let all = run(Checkpointing::None, 5);
    assert!(all == run(Checkpointing::Layer, 5));
    assert!(all != run(Checkpointing::None, 6));
}
