//! Devices, a small model, and comparison.

use burn::module::Module;
use burn::nn::LinearConfig;
use burn::tensor::{Device, Distribution, Tensor};
use burn_qlora::{LoraConfig, LoraModel, QLoraLinear, QuantConfig, attach_adapters};
use qlora_test_support::{TestDevice, Tolerance, alone, values};

/// Runs `test` on a device with autodiff. Burn's generators of random numbers are one for the whole process, so tests take turns.
pub fn run(device: TestDevice, test: fn(&Device)) {
    let _alone = alone();
    test(&device.device.autodiff());
}

/// Two layers on top of each other, the first quantized with a bias, the second dense without.
#[derive(Module, LoraModel, Debug)]
pub struct Pair {
    #[lora(name = "block.first")]
    pub first: QLoraLinear,
    #[lora(name = "block.second")]
    pub second: QLoraLinear,
}

pub const IN: usize = 24;
pub const HIDDEN: usize = 40;
pub const OUT: usize = 16;

impl Pair {
    pub fn new(device: &Device) -> Self {
        device.seed(3);
        let first = LinearConfig::new(IN, HIDDEN).init(device);
        let second = Tensor::random([OUT, HIDDEN], Distribution::Normal(0.0, 0.2), device);
        Self {
            first: QLoraLinear::from_linear(first, QuantConfig::default()).unwrap(),
            second: QLoraLinear::dense(second, None),
        }
    }

    /// With adapters whose B is not zero.
    pub fn adapted(device: &Device, config: &LoraConfig) -> Self {
        let mut pair = Self::new(device);
        attach_adapters(&mut pair, config, 11).unwrap();
        for (_, linear) in pair.lora_linears_mut() {
            if let Some(branch) = &mut linear.adapter {
                branch.lora.b = branch.lora.b.clone().map(|b| {
                    b.random_like(Distribution::Normal(0.0, 0.3))
                        .detach()
                        .require_grad()
                });
            }
        }
        pair
    }

    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.second.forward(self.first.forward(x))
    }
}

pub fn input(rows: usize, device: &Device) -> Tensor<2> {
    Tensor::random([rows, IN], Distribution::Normal(0.0, 1.0), device)
}

/// Two ways to the same f32 numbers.
#[track_caller]
pub fn assert_close<const D: usize>(found: Tensor<D>, expected: Tensor<D>) {
    assert_eq!(found.dims(), expected.dims());
    let reason = "the order of a few dozen additions of values of order 1";
    let tolerance = Tolerance::of_each(2e-5, reason);
    qlora_test_support::assert_close("tensor", &values(found), &values(expected), tolerance);
}
