//! The network.

use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use burn_qlora::{AnyLinear, AnyLinearConfig, LoraModel};

/// A network whose layers were Burn's `Linear` and have kept their `forward`.
#[derive(Module, LoraModel, Debug)]
pub struct Net {
    hidden: AnyLinear,
    output: AnyLinear,
}

impl Net {
    /// Returns a dense network.
    pub fn new([inputs, hidden, outputs]: [usize; 3], device: &Device) -> Self {
        Self {
            hidden: AnyLinearConfig::new(inputs, hidden).init(device),
            output: AnyLinearConfig::new(hidden, outputs).init(device),
        }
    }

    /// Maps `x: [batch, inputs]` to `[batch, outputs]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.output.forward(relu(self.hidden.forward(x)))
    }
}
