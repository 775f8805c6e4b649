//! Ten recorded steps of `torch.optim.AdamW`.

use burn_core::tensor::Device;
use burn_paged::{Budget, Moments, PagedAdamWConfig};
use qlora_test_support::{Recording, assert_within, json, tensor, values};

/// Of the largest of its column.
const TOLERANCE: f64 = 1e-6;

pub fn parameters_and_moments_follow_torch(device: &Device) {
    let settings = json("adamw.json");
    let number = |key: &str| settings[key].as_f64().unwrap();
    let shape: [usize; 2] = serde_json::from_value(settings["shape"].clone()).unwrap();
    let recording = Recording::open("adamw.safetensors");
    let read = |name: &str| -> Vec<Vec<f32>> {
        let values = recording.f32(name);
        let steps = values.chunks(shape[0] * shape[1]);
        steps.map(<[f32]>::to_vec).collect()
    };
    let [grads, params, first, second] = ["grads", "param", "m", "v"].map(read);
    for budget in [Budget::Resident, Budget::Bytes(0)] {
        let optimizer = PagedAdamWConfig::new()
            .with_beta_1(settings["betas"][0].as_f64().unwrap())
            .with_beta_2(settings["betas"][1].as_f64().unwrap())
            .with_epsilon(number("eps"))
            .with_weight_decay(number("weight_decay"))
            .with_budget(budget)
            .with_page_bytes(4096)
            .build()
            .unwrap();
        let tensor = |values: &[f32]| tensor(values.to_vec(), shape, device);
        let mut param = tensor(&read("param_init")[0]);
        let mut state = None;
        for step in 0..grads.len() {
            let grad = tensor(&grads[step]);
            let (updated, new) = optimizer
                .try_step(number("lr"), param, grad, state)
                .unwrap();
            (param, state) = (updated, Some(new));
            let got = values(param.clone());
            assert_columns("parameter", &got, &params[step], shape[1]);
            let Moments::F32 { moment_1, moment_2 } = state.as_ref().unwrap().moments().unwrap()
            else {
                panic!("f32 moments");
            };
            assert_columns("first moment", &moment_1, &first[step], shape[1]);
            assert_columns("second moment", &moment_2, &second[step], shape[1]);
        }
    }
}

/// Within [`TOLERANCE`] of the largest value of the column.
#[track_caller]
fn assert_columns(what: &str, found: &[f32], expected: &[f32], columns: usize) {
    let mut largest = vec![0f64; columns];
    for row in expected.chunks(columns) {
        for (largest, value) in largest.iter_mut().zip(row) {
            *largest = largest.max(f64::from(value.abs()));
        }
    }
    let reason = "f32 arithmetic in another order, ten times over";
    let limit = |i: usize| TOLERANCE * largest[i % columns];
    assert_within(what, found, expected, reason, limit);
}
