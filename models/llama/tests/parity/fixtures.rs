//! Where the recordings are, and the devices to hold against them.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_qlora_llama::{Checkpoint, Llama, LoadOptions, SamplingConfig, Weights};
use safetensors::SafeTensors;

/// A file or directory of the recordings.
pub fn fixture(name: &str) -> PathBuf {
    let root = std::env::var_os("QLORA_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures"),
        PathBuf::from,
    );
    root.join(name)
}

/// Every device the features give.
pub fn devices() -> Vec<Device> {
    vec![
        #[cfg(feature = "flex")]
        Device::flex(),
        #[cfg(feature = "wgpu")]
        Device::wgpu(Default::default()),
    ]
}

/// A recorded `reference.safetensors`.
pub struct Reference {
    bytes: Vec<u8>,
}

impl Reference {
    pub fn of(model: &str) -> Self {
        let bytes = std::fs::read(fixture(model).join("reference.safetensors"))
            .expect("the fixture is there");
        Self { bytes }
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        let (_, data) = self.tensor(name);
        data.chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    }

    pub fn integers(&self, name: &str) -> (Vec<usize>, Vec<i64>) {
        let (shape, data) = self.tensor(name);
        let read = |b: &[u8]| i64::from_le_bytes(b.try_into().expect("eight bytes"));
        (shape, data.chunks_exact(8).map(read).collect())
    }

    pub fn has(&self, name: &str) -> bool {
        self.parsed().tensor(name).is_ok()
    }

    fn parsed(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("the fixture is valid")
    }

    fn tensor(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let parsed = self.parsed();
        let view = parsed.tensor(name).expect("the fixture has the tensor");
        (view.shape().to_vec(), view.data().to_vec())
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

pub fn load(model: &str, weights: Weights, device: &Device) -> Llama {
    let checkpoint = Checkpoint::open(fixture(model)).expect("the fixture opens");
    Llama::load(&checkpoint, &LoadOptions::new(weights), device).expect("the fixture loads")
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

pub fn greedy(model: &Llama, prompt: &[u32], count: usize) -> Vec<u32> {
    let config = SamplingConfig::new().with_max_tokens(count);
    let generation = model.generate(prompt, &config, 0, |_| ControlFlow::Continue(()));
    generation.expect("generation works").tokens
}
