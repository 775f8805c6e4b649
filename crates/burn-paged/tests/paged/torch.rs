//! Ten recorded steps of `torch.optim.AdamW`.

use crate::support::recording;
use burn_core::tensor::{Device, Tensor, TensorData};
use burn_paged::{Budget, Moments, PagedAdamWConfig};
use safetensors::SafeTensors;
use serde_json::Value;

/// Parameters within 1e-6 of their largest, moments within 1e-6 of the largest of their column.
const TOLERANCE: f32 = 1e-6;

fn matrices(file: &SafeTensors<'_>, name: &str, shape: [usize; 2]) -> Vec<Vec<f32>> {
    let view = file.tensor(name).unwrap();
    let values: Vec<f32> = view
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    values
        .chunks(shape[0] * shape[1])
        .map(<[f32]>::to_vec)
        .collect()
}

pub fn parameters_and_moments_follow_torch(device: &Device) {
    let settings: Value = serde_json::from_slice(&recording("adamw.json")).unwrap();
    let number = |key: &str| settings[key].as_f64().unwrap();
    let shape: [usize; 2] = serde_json::from_value(settings["shape"].clone()).unwrap();
    let bytes = recording("adamw.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let read = |name: &str| matrices(&file, name, shape);
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
        let tensor = |values: &[f32]| {
            Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), device)
        };
        let mut param = tensor(&read("param_init")[0]);
        let mut state = None;
        for step in 0..grads.len() {
            let grad = tensor(&grads[step]);
            let (updated, new) = optimizer
                .try_step(number("lr"), param, grad, state)
                .unwrap();
            (param, state) = (updated, Some(new));
            let got: Vec<f32> = param.to_data().iter::<f32>().collect();
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

/// Errors relative to the largest value of the column.
#[track_caller]
fn assert_columns(what: &str, got: &[f32], expected: &[f32], columns: usize) {
    for column in 0..columns {
        let at = |values: &[f32], row: usize| values[row * columns + column];
        let rows = 0..expected.len() / columns;
        let largest = rows
            .clone()
            .fold(0f32, |largest, row| largest.max(at(expected, row).abs()));
        for row in rows {
            let error = (at(got, row) - at(expected, row)).abs();
            assert!(
                error <= TOLERANCE * largest,
                "{what} [{row}, {column}]: {} is not {}, off by {error:e} of {largest}",
                at(got, row),
                at(expected, row)
            );
        }
    }
}
