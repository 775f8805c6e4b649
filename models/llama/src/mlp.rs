//! The gated feed-forward layer.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use burn_fused::{Activation, Epilogue};

use crate::config::DecoderConfig;
use crate::projection::{LayerInput, Projection, Projections, exactly, forward_one};
use crate::tensors::ProjectionSpec;

/// `down(activation(gate(x)) · up(x))`.
#[derive(Module, Debug)]
#[cfg_attr(feature = "qlora", derive(burn_qlora::LoraLayers))]
pub struct Mlp {
    /// gate and up, `[hidden]` to `[intermediate]` each.
    #[cfg_attr(feature = "qlora", lora(flatten))]
    pub gate_up: Projections,
    /// `[intermediate]` to `[hidden]`.
    pub down_proj: Projection,
    /// What the gate goes through.
    #[module(skip)]
    pub activation: Activation,
}

impl Mlp {
    pub(crate) fn init(config: &DecoderConfig, device: &Device) -> Self {
        let specs = config.projections();
        let init = |spec: &ProjectionSpec| spec.init(device);
        Self::new(
            config,
            specs.gate_up.iter().map(init).collect(),
            init(&specs.down),
        )
    }

    pub(crate) fn new(
        config: &DecoderConfig,
        gate_up: Vec<Projection>,
        down_proj: Projection,
    ) -> Self {
        Self {
            gate_up: Projections::new(
                &config.projections().gate_up,
                gate_up,
                vec![config.intermediate_size; 2],
            ),
            down_proj,
            activation: config.activation,
        }
    }

    /// Maps `x: [batch, seq, hidden]` to the same shape, and that by the epilogue of one layer.
    pub fn forward(&self, x: LayerInput, epilogue: Epilogue<3>) -> Tensor<3> {
        let activation = self.activation;
        let [x] = exactly(self.gate_up.forward(x, Epilogue::Glu { activation }));
        forward_one(&self.down_proj, x.into(), epilogue)
    }
}
