//! A block of a transformer encoder, as Burn's `TransformerEncoder` has it, with an `AnyLinear` in the place of every `Linear`.

use burn::module::Module;
use burn::nn::{LayerNorm, LayerNormConfig};
use burn::tensor::activation::gelu;
use burn::tensor::module::attention;
use burn::tensor::{Device, Tensor};
use burn_qlora::{AnyLinear, AnyLinearConfig, LoraModel};

/// Self-attention and a feed-forward network four times as wide, each behind a norm and added to its input.
#[derive(Module, LoraModel, Debug)]
pub struct Block {
    norm_1: LayerNorm,
    query: AnyLinear,
    key: AnyLinear,
    value: AnyLinear,
    output: AnyLinear,
    norm_2: LayerNorm,
    up: AnyLinear,
    down: AnyLinear,
    heads: usize,
}

impl Block {
    /// Returns a dense block for rows of `width` values, with heads of `width / heads`.
    pub fn new(width: usize, heads: usize, device: &Device) -> Self {
        let linear = |from, to| AnyLinearConfig::new(from, to).init(device);
        let norm = || LayerNormConfig::new(width).init(device);
        Self {
            norm_1: norm(),
            query: linear(width, width),
            key: linear(width, width),
            value: linear(width, width),
            output: linear(width, width),
            norm_2: norm(),
            up: linear(width, 4 * width),
            down: linear(4 * width, width),
            heads,
        }
    }

    /// Maps `x: [batch, seq, width]` to the same shape.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = x.clone() + self.attend(self.norm_1.forward(x));
        let hidden = gelu(self.up.forward(self.norm_2.forward(x.clone())));
        x + self.down.forward(hidden)
    }

    fn attend(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, seq, width] = x.dims();
        let heads = |layer: &AnyLinear| {
            let y = layer.forward(x.clone());
            let y = y.reshape([batch, seq, self.heads, width / self.heads]);
            y.swap_dims(1, 2)
        };
        let [q, k, v] = [&self.query, &self.key, &self.value].map(heads);
        let seen = attention(q, k, v, None, None, Default::default());
        let seen = seen.swap_dims(1, 2).reshape([batch, seq, width]);
        self.output.forward(seen)
    }
}
