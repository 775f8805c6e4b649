//! Recorded models and their outputs, and the devices to hold against them.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_qlora_llama::{Checkpoint, Decoder, LoadOptions, SamplingConfig, Weights};
use qlora_test_support::{Recording, fixture, targets};

/// Every device the features give.
pub fn devices() -> Vec<Device> {
    let devices = qlora_test_support::devices!().into_iter();
    devices.map(|device| device.device).collect()
}

/// Returns the names of all files of a folder and their bytes.
pub fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).expect("lists");
    let mut files: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy();
            (name.into_owned(), fs::read(&path).expect("reads"))
        })
        .collect();
    files.sort();
    files
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
        self.ids("input_ids", device)
    }

    /// The tensor `name` of token ids, `[batch, seq]`.
    pub fn ids(&self, name: &str, device: &Device) -> Tensor<2, Int> {
        let (shape, ids) = self.integers(name);
        Tensor::from_data(TensorData::new(ids, [shape[0], shape[1]]), device)
    }

    /// The tensor `name` of token ids as one list.
    pub fn tokens(&self, name: &str) -> Vec<u32> {
        let ids = self.integers(name).1.into_iter();
        ids.map(|id| id as u32).collect()
    }

    /// The labels of tensor `name`, `[batch, seq]`, each at the place of the token that it follows.
    pub fn targets(&self, name: &str) -> ([usize; 2], Vec<i64>) {
        let (shape, labels) = self.integers(name);
        ([shape[0], shape[1]], targets(&labels, shape[1]))
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

/// The mean over the targets of their negative log-likelihoods.
pub fn mean_loss(
    model: &Decoder,
    ids: Tensor<2, Int>,
    (shape, targets): &([usize; 2], Vec<i64>),
) -> f32 {
    let count = targets.iter().filter(|target| **target != -100).count();
    let targets = TensorData::new(targets.clone(), *shape);
    let targets = Tensor::<2, Int>::from_data(targets, &ids.device());
    model.nll_sum(ids, None, targets).into_scalar::<f32>() / count as f32
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
