//! Devices, and a run of an optimizer over several parameters.

use burn_core::tensor::{Device, Tensor};
use burn_optim::Optimizer;
use burn_paged::{Moments, PagedState};
use qlora_test_support::TestDevice;
use qlora_test_support::random::uniform;

/// Runs `test` on a device.
pub fn run(device: TestDevice, test: fn(&Device)) {
    test(&device.device);
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

/// Numbers in [-1, 1), most of them small.
pub fn tensor(shape: [usize; 2], seed: u64, device: &Device) -> Tensor<2> {
    let numbers = uniform(seed, shape[0] * shape[1]).into_iter();
    let numbers = numbers.map(|number| number.powi(3)).collect();
    qlora_test_support::tensor(numbers, shape, device)
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
