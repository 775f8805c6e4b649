//! Recorded models and their outputs, and the devices to hold against them.

use std::ops::ControlFlow;

use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_qlora_llama::{Checkpoint, Decoder, LoadOptions, SamplingConfig, Weights};
use qlora_test_support::{Recording, fixture};

/// Every device the features give.
pub fn devices() -> Vec<Device> {
    let devices = qlora_test_support::devices!().into_iter();
    devices.map(|device| device.device).collect()
}

/// A recorded `reference.safetensors`.
pub struct Reference(Recording);

impl Reference {
    pub fn of(model: &str) -> Self {
        Self(Recording::open(&format!("{model}/reference.safetensors")))
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.0.f32(name)
    }

    pub fn integers(&self, name: &str) -> (Vec<usize>, Vec<i64>) {
        (self.0.shape(name), self.0.i64(name))
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.has(name)
    }

    pub fn input_ids(&self, device: &Device) -> Tensor<2, Int> {
        let (shape, ids) = self.integers("input_ids");
        Tensor::from_data(TensorData::new(ids, [shape[0], shape[1]]), device)
    }

    /// Which positions are real tokens, `[batch, seq]` flattened.
    pub fn real(&self) -> Vec<bool> {
        self.integers("attention_mask")
            .1
            .into_iter()
            .map(|mask| mask == 1)
            .collect()
    }
}

pub fn load(model: &str, weights: Weights, device: &Device) -> Decoder {
    let checkpoint = Checkpoint::open(fixture(model)).expect("the fixture opens");
    Decoder::load(&checkpoint, &LoadOptions::new(weights), device).expect("the fixture loads")
}

/// The largest difference over the rows that are real.
pub fn max_error(found: Tensor<3>, expected: &[f32], real: &[bool]) -> f32 {
    let [_, _, width] = found.dims();
    let found = found.into_data().try_into_vec::<f32>().expect("f32");
    assert_eq!(found.len(), expected.len());
    let rows = found.chunks(width).zip(expected.chunks(width)).zip(real);
    rows.filter(|(_, real)| **real)
        .flat_map(|((a, b), _)| a.iter().zip(b))
        .map(|(a, b)| (a - b).abs())
        // NaN must not hide behind `max`.
        .fold(
            0.0,
            |worst, error| if error <= worst { worst } else { error },
        )
}

pub fn greedy(model: &Decoder, prompt: &[u32], count: usize) -> Vec<u32> {
    let config = SamplingConfig::new().with_max_tokens(count);
    let generation = model.generate(prompt, &config, 0, |_| ControlFlow::Continue(()));
    generation.expect("generation works").tokens
}
