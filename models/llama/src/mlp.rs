//! The gated feed-forward layer.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::config::LlamaConfig;
use crate::projection::Projection;

/// `down(silu(gate(x)) · up(x))`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[hidden]` to `[intermediate]`.
    pub gate_proj: Projection,
    /// `[hidden]` to `[intermediate]`.
    pub up_proj: Projection,
    /// `[intermediate]` to `[hidden]`.
    pub down_proj: Projection,
}

impl Mlp {
    pub(crate) fn init(config: &LlamaConfig, device: &Device) -> Self {
        let (hidden, intermediate, bias) = (
            config.hidden_size,
            config.intermediate_size,
            config.mlp_bias,
        );
        Self {
            gate_proj: Projection::init(hidden, intermediate, bias, device),
            up_proj: Projection::init(hidden, intermediate, bias, device),
            down_proj: Projection::init(intermediate, hidden, bias, device),
        }
    }

    /// Maps `x: [batch, seq, hidden]` to the same shape.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let gate = self.gate_proj.forward(x.clone());
        let up = self.up_proj.forward(x);
        self.down_proj.forward(burn_fused::swiglu(gate, up))
    }
}
