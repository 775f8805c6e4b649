//! The update rule, against ten recorded steps of `torch.optim.AdamW`.

use crate::support::recording;
use burn::optim::{AdamWState, Optimizer};
use burn::tensor::{Device, Tensor, TensorData};
use burn_finetune::TrainConfig;
use safetensors::SafeTensors;
use serde_json::Value;

fn tensors(file: &SafeTensors<'_>, name: &str) -> Vec<Vec<f32>> {
    let view = file.tensor(name).unwrap();
    let values: Vec<f32> = view
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    let [rows, columns] = view.shape()[view.shape().len() - 2..] else {
        panic!("{name} should be a matrix or several");
    };
    values.chunks(rows * columns).map(<[f32]>::to_vec).collect()
}

pub fn parameters_and_moments_follow_torch(device: &Device) {
    let device = device.clone().without_autodiff();
    let settings: Value = serde_json::from_slice(&recording("adamw.json")).unwrap();
    let number = |key: &str| settings[key].as_f64().unwrap();
    let shape: [usize; 2] = serde_json::from_value(settings["shape"].clone()).unwrap();
    let bytes = recording("adamw.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();

    let optimizer = TrainConfig {
        weight_decay: number("weight_decay"),
        beta_1: settings["betas"][0].as_f64().unwrap(),
        beta_2: settings["betas"][1].as_f64().unwrap(),
        epsilon: number("eps"),
        ..TrainConfig::default()
    }
    .adamw()
    .build();
    let tensor =
        |values: &[f32]| Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &device);
    let mut param = tensor(&tensors(&file, "param_init")[0]);
    let mut state: Option<AdamWState<2>> = None;
    let [grads, params, m, v] = ["grads", "param", "m", "v"].map(|name| tensors(&file, name));
    for step in 0..grads.len() {
        (param, state) = optimizer.step(number("lr"), param, tensor(&grads[step]), state);
        let values = |tensor: &Tensor<2>| tensor.to_data().iter::<f32>().collect::<Vec<_>>();
        for (got, expected) in values(&param).into_iter().zip(&params[step]) {
            assert!(
                (got - expected).abs() <= 5e-6,
                "step {step}: {got} is not {expected}"
            );
        }
        let momentum = &state.as_ref().unwrap().momentum;
        assert_columns(&values(&momentum.moment_1), &m[step], shape[1], 2e-6);
        // burn-optim takes 1 - beta_2 in f32, which is 1.3e-5 off; the bias correction does the same, so
        // the update does not see it.
        assert_columns(&values(&momentum.moment_2), &v[step], shape[1], 2e-5);
    }
}

/// Errors relative to the largest value of the column.
#[track_caller]
fn assert_columns(got: &[f32], expected: &[f32], columns: usize, tolerance: f32) {
    for column in 0..columns {
        let pairs = || {
            let of = move |values: &'_ [f32]| -> Vec<f32> {
                values
                    .iter()
                    .skip(column)
                    .step_by(columns)
                    .copied()
                    .collect()
            };
            of(got).into_iter().zip(of(expected))
        };
        let largest = pairs().fold(0f32, |largest, (_, expected)| largest.max(expected.abs()));
        for (got, expected) in pairs() {
            let error = (got - expected).abs();
            assert!(
                error <= tolerance * largest,
                "{got} is not {expected}, off by {error} of {largest}"
            );
        }
    }
}
