//! Devices, recordings, and a run of an optimizer over several parameters.

use burn_core::tensor::{Device, Tensor, TensorData};
use burn_optim::Optimizer;
use burn_paged::{Moments, PagedState};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::PathBuf;

#[cfg(feature = "flex")]
pub fn flex() -> Device {
    Device::flex()
}

#[cfg(feature = "wgpu")]
pub fn wgpu() -> Device {
    Device::wgpu(burn_core::tensor::DeviceKind::DefaultDevice)
}

#[cfg(feature = "cpu")]
pub fn cubecl_cpu() -> Device {
    Device::cpu()
}

/// A recorded file of the folder that `QLORA_FIXTURES` names, else of the workspace.
pub fn recording(name: &str) -> Vec<u8> {
    let folder = std::env::var_os("QLORA_FIXTURES").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")),
        PathBuf::from,
    );
    let path = folder.join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Shapes like those of adapters: small ones, odd ones, and some that do not fit into a page of 64 KiB.
pub const SHAPES: [[usize; 2]; 8] = [
    [64, 16],
    [16, 192],
    [1, 1],
    [300, 64],
    [37, 19],
    [576, 16],
    [16, 1536],
    [129, 33],
];

pub const PAGE: usize = 64 << 10;

pub fn values(shape: [usize; 2], seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..shape[0] * shape[1])
        .map(|_| rng.random_range(-1.0f32..1.0).powi(3))
        .collect()
}

pub fn tensor(shape: [usize; 2], seed: u64, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values(shape, seed), shape), device)
}

/// Parameters and their states in the middle of a run.
pub struct Training<O: Optimizer> {
    pub optimizer: O,
    pub params: Vec<Tensor<2>>,
    pub states: Vec<Option<O::State<2>>>,
    pub step: u64,
}

impl<O: Optimizer<State<2> = PagedState<2>>> Training<O> {
    pub fn new(optimizer: O, device: &Device) -> Self {
        let params = (0u64..)
            .zip(SHAPES)
            .map(|(seed, shape)| tensor(shape, seed, device))
            .collect();
        Self {
            optimizer,
            params,
            states: SHAPES.map(|_| None).into(),
            step: 0,
        }
    }

    /// One step with gradients that depend on its number alone.
    pub fn step(&mut self) {
        self.step += 1;
        for (i, (param, state)) in self.params.iter_mut().zip(&mut self.states).enumerate() {
            let grad = tensor(SHAPES[i], 1000 * self.step + i as u64, &param.device());
            let (updated, new) = self.optimizer.step(1e-2, param.clone(), grad, state.take());
            (*param, *state) = (updated, new);
        }
    }

    /// The bits of every parameter, and every state.
    pub fn outcome(&self) -> (Vec<Vec<u32>>, Vec<Moments>) {
        let bits = |tensor: &Tensor<2>| {
            let data = tensor.clone().into_data();
            data.iter::<f32>().map(f32::to_bits).collect()
        };
        (
            self.params.iter().map(bits).collect(),
            self.states
                .iter()
                .flatten()
                .map(|state| state.moments().unwrap())
                .collect(),
        )
    }
}
