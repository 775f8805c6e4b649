//! DPO, ORPO and KTO have TRL's values, gradients and curves.

use burn::tensor::Device;
use burn_finetune::{
    Dataset, Dpo, Event, Kto, Objective, Orpo, PreferencePass, PreferenceReport, PreferenceRows,
    ReferenceConfig, References, Row, RunOptions, StepReport, TrainConfig, TrainerBuilder,
    evaluate_preferences,
};
use burn_qlora::{Checkpointing, LoraModel, detach_adapters, freeze_base};
use burn_qlora_llama::Decoder;
use qlora_test_support::{Recording, TestDevice, Tolerance, assert_close, json, values};
use qlora_tests::{adapted, devices, loss_tolerance};
use serde_json::Value;

/// Most tokens of a row in the recorded runs.
const MAX_LEN: usize = 128;
const OBJECTIVES: [&str; 3] = ["dpo", "orpo", "kto"];

/// A recorded objective.
struct Recorded {
    name: &'static str,
    recorded: Value,
    objective: Objective,
    data: Dataset,
}

impl Recorded {
    fn new(name: &'static str) -> Self {
        let recorded = json(&format!("preferences/{name}.json"));
        let number = |key: &str| recorded[key].as_f64().unwrap();
        let beta = number("beta");
        let objective = match name {
            "dpo" => Objective::Dpo(Dpo {
                beta,
                ..Dpo::default()
            }),
            "orpo" => Objective::Orpo(Orpo { beta }),
            _ => Objective::Kto(Kto {
                beta,
                desirable_weight: number("desirable_weight"),
                undesirable_weight: number("undesirable_weight"),
            }),
        };
        Self {
            name,
            data: Dataset::from_rows(rows(name)),
            recorded,
            objective,
        }
    }

    fn config(&self) -> TrainConfig {
        let number = |key: &str| self.recorded[key].as_u64().unwrap() as usize;
        TrainConfig {
            objective: self.objective,
            steps: number("steps"),
            batch_size: number("rows"),
            lr: self.recorded["lr"].as_f64().unwrap(),
            max_grad_norm: self.recorded["max_grad_norm"].as_f64().unwrap(),
            shuffle: false,
            ..TrainConfig::default()
        }
    }

    fn references(&self, model: &Decoder, data: &Dataset) -> Option<References> {
        let mut reference = model.clone();
        detach_adapters(&mut reference);
        let config = ReferenceConfig::of(&self.config(), MAX_LEN)?;
        let dir = std::env::temp_dir();
        References::compute(&reference, data, config, &dir, &mut |_, _| true).unwrap()
    }
}

/// The rows that the runs take, as TRL tokenises them.
fn rows(name: &str) -> Vec<Row> {
    let tokens = json("preferences/tokens.json");
    let ids =
        |row: &Value, key: &str| -> Vec<u32> { serde_json::from_value(row[key].clone()).unwrap() };
    let answer = |row: &Value, key: &str| {
        let prompt = ids(row, "prompt");
        let start = prompt.len();
        let all = [prompt, ids(row, key)].concat();
        let learn = (0..all.len()).map(|place| place >= start).collect();
        Row::new(all, learn)
    };
    if name == "kto" {
        let labelled = String::from_utf8(qlora_test_support::read_fixture(
            "preferences/labelled.jsonl",
        ))
        .unwrap();
        let labels = labelled.lines().map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            row["label"].as_bool().unwrap()
        });
        let rows = tokens["labelled"].as_array().unwrap().iter().zip(labels);
        rows.map(|(row, label)| answer(row, "completion").labelled(label))
            .collect()
    } else {
        let rows = tokens["pairs"].as_array().unwrap().iter();
        rows.map(|row| Row::pair(answer(row, "chosen"), &answer(row, "rejected")))
            .collect()
    }
}

/// What is told, by its name.
fn told(report: &PreferenceReport) -> Value {
    serde_json::to_value(report).unwrap()
}

/// Holds what is told to what TRL told. Log-probabilities are sums of twenty to thirty terms of about 6 in f32 there, and
/// rewards a tenth of the difference of two of them.
fn check_told(what: &str, device: &TestDevice, found: &PreferenceReport, recorded: &Value) {
    let found = told(found);
    let relative = if device.is_flex() { 1e-5 } else { 2e-4 };
    let mut compared = 0;
    for (name, recorded) in recorded.as_object().unwrap() {
        if ["loss", "grad_norm", "reference"].contains(&name.as_str()) {
            continue;
        }
        let recorded = recorded.as_f64().unwrap();
        let value = found[name].as_f64();
        let value = value.unwrap_or_else(|| panic!("{what}: {name} is not told"));
        let limit = match name.split('/').next() {
            Some("rewards") => 20.0 * relative,
            Some("kl") => 200.0 * relative,
            _ => relative * recorded.abs().max(1.0),
        };
        let error = (value - recorded).abs();
        assert!(
            error <= limit,
            "{what}: {name} is {value}, not {recorded}; off by {error:e}"
        );
        compared += 1;
    }
    assert!(compared >= 3, "{what}: {compared}");
}

/// The loss, all that is told and the gradients of every factor, of the first four rows under an adapter of random factors:
/// as they are, in micro-batches of unequal size, packed, and block by block.
#[test]
fn values_and_gradients() {
    for test in devices() {
        for name in OBJECTIVES {
            let recorded = Recorded::new(name);
            let device = test.device.clone().autodiff();
            let model = freeze_base(adapted("tiny_llama_nf4", "peft_adapter", &device));
            let data = recorded.data.head(4).unwrap();
            let packed = data.packed(1000).unwrap();
            assert_eq!(packed.len(), 1);
            let cases = [
                (&data, 4, Checkpointing::None),
                (&data, 3, Checkpointing::Layer),
                (&packed, 1, Checkpointing::None),
            ];
            for (data, batch_size, checkpointing) in cases {
                let what = format!("{name} on {} by {batch_size}", test.name);
                let references = recorded.references(&model, data);
                check_first(
                    &what,
                    &test,
                    &recorded,
                    (&model, data, references.as_ref()),
                    &PreferencePass {
                        batch_size,
                        seed: 0,
                        noise: 0.0,
                        checkpointing,
                    },
                );
            }
        }
    }
}

fn check_first(
    what: &str,
    test: &TestDevice,
    recorded: &Recorded,
    (model, data, references): (&Decoder, &Dataset, Option<&References>),
    pass: &PreferencePass,
) {
    let rows = PreferenceRows::new(data, references, recorded.objective).unwrap();
    let places: Vec<usize> = (0..data.len()).collect();
    let found = rows.gradients(model, &places, pass).unwrap();
    let first = &recorded.recorded["first"];
    let loss = first["loss"].as_f64().unwrap();
    let error = (found.loss - loss).abs() / loss;
    assert!(
        error <= loss_tolerance(test),
        "{what}: loss off by {error:e}"
    );
    check_told(what, test, &found.preferences, first);

    let evaluated = evaluate_preferences(model, data, references, recorded.objective, 2).unwrap();
    let error = (evaluated.loss - found.loss).abs() / loss;
    assert!(
        error <= loss_tolerance(test),
        "{what}: evaluated off by {error:e}"
    );

    let recording = Recording::open(&format!("preferences/{}_grads.safetensors", recorded.name));
    let mut gradients = found.gradients.into_iter();
    let mut compared = 0;
    for (path, _) in model.lora_linears() {
        for factor in ["A", "B"] {
            let name = format!("grad.base_model.model.{path}.lora_{factor}.weight");
            let gradient = gradients.next().unwrap().unwrap();
            let reason = "differences of a log-probability in f32, of the largest element";
            let part = if test.is_flex() { 1e-4 } else { 2e-3 };
            assert_close(
                &format!("{what} {name}"),
                &values(gradient.transpose()),
                &recording.f32(&name),
                Tolerance::of_largest(part, reason),
            );
            compared += 1;
        }
    }
    assert_eq!(compared, 42);
}

fn train(recorded: &Recorded, device: &Device, checkpointing: Checkpointing) -> Vec<StepReport> {
    let device = device.clone().autodiff();
    let model = adapted("tiny_llama_nf4", "qlora_curve/init_adapter", &device);
    let references = recorded.references(&model, &recorded.data);
    let mut trainer = TrainerBuilder::new(model, recorded.config())
        .and_then(|builder| builder.with_checkpointing(checkpointing))
        .and_then(TrainerBuilder::build)
        .unwrap();
    let options = RunOptions {
        references: references.as_ref(),
        ..RunOptions::default()
    };
    let mut steps = Vec::new();
    trainer
        .run(&recorded.data, &options, &mut |event| {
            if let Event::Step(report) = event {
                steps.push(*report);
            }
        })
        .unwrap();
    steps
}

/// Ten steps from a fresh adapter.
#[test]
fn curves() {
    for test in devices() {
        for name in OBJECTIVES {
            let recorded = Recorded::new(name);
            let expected = recorded.recorded["per_step"].as_array().unwrap();
            let steps = train(&recorded, &test.device, Checkpointing::Layer);
            assert_eq!(steps.len(), expected.len());
            let mut worst = 0f64;
            for (report, expected) in steps.iter().zip(expected) {
                let what = format!("{name} on {} step {}", test.name, report.step);
                let off = |found: f64, key: &str| {
                    let expected = expected[key].as_f64().unwrap();
                    (found - expected).abs() / expected
                };
                let loss = off(report.loss, "loss");
                assert!(
                    loss <= loss_tolerance(&test),
                    "{what}: loss off by {loss:e}"
                );
                let norm = off(report.grad_norm, "grad_norm");
                assert!(
                    norm <= 4.0 * loss_tolerance(&test),
                    "{what}: norm off by {norm:e}"
                );
                check_told(&what, &test, &report.preferences, expected);
                worst = worst.max(loss);
            }
            println!("{name} on {}: losses off by at most {worst:e}", test.name);
        }
    }
}
