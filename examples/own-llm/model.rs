//! A decoder of one's own, with Burn's parts and the fused operations of `burn-fused`.

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Initializer, RmsNorm, RmsNormConfig};
use burn::tensor::{Device, Int, Tensor};
use burn_fused::{AttentionConfig, LogitsConfig, causal_attention, rope, swiglu};
use burn_qlora::{AnyLinear, AnyLinearConfig, CausalLm, LoraModel, TokenBatch};

/// Attention with rotated queries and keys, and a gated feed-forward network, each behind a norm.
#[derive(Module, LoraModel, Debug)]
struct Block {
    norm_1: RmsNorm,
    query: AnyLinear,
    key: AnyLinear,
    value: AnyLinear,
    output: AnyLinear,
    norm_2: RmsNorm,
    gate: AnyLinear,
    up: AnyLinear,
    down: AnyLinear,
    heads: usize,
}

impl Block {
    fn new(width: usize, heads: usize, device: &Device) -> Self {
        let linear = |from, to| AnyLinearConfig::new(from, to).with_bias(false).init(device);
        let norm = || RmsNormConfig::new(width).init(device);
        Self {
            norm_1: norm(),
            query: linear(width, width),
            key: linear(width, width),
            value: linear(width, width),
            output: linear(width, width),
            norm_2: norm(),
            gate: linear(width, 2 * width),
            up: linear(width, 2 * width),
            down: linear(2 * width, width),
            heads,
        }
    }

    /// Maps `x: [batch, seq, width]` to the same shape; `angles` are those of `Decoder::angles`.
    fn forward(&self, x: Tensor<3>, angles: &[Tensor<2>; 2]) -> Tensor<3> {
        let [batch, seq, width] = x.dims();
        let normed = self.norm_1.forward(x.clone());
        let heads = |layer: &AnyLinear| {
            let y = layer.forward(normed.clone());
            y.reshape([batch, seq, self.heads, width / self.heads])
        };
        let [cos, sin] = angles;
        let rotated = |layer| rope(heads(layer), cos.clone(), sin.clone());
        let scale = (width as f64 / self.heads as f64).powf(-0.5);
        let seen = causal_attention(
            rotated(&self.query),
            rotated(&self.key),
            heads(&self.value),
            AttentionConfig::new(scale),
        );
        let x = x + self.output.forward(seen.reshape([batch, seq, width]));
        let normed = self.norm_2.forward(x.clone());
        let gated = swiglu(self.gate.forward(normed.clone()), self.up.forward(normed));
        x + self.down.forward(gated)
    }
}

/// A language model whose head is its embedding.
#[derive(Module, LoraModel, Debug)]
pub struct Decoder {
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    context: usize,
}

impl Decoder {
    /// Returns a dense model of `blocks` blocks for rows of at most `context` tokens.
    pub fn new(vocab: usize, width: usize, blocks: usize, context: usize, device: &Device) -> Self {
        let (mean, std) = (0.0, 0.02);
        let embedding = EmbeddingConfig::new(vocab, width);
        Self {
            embedding: embedding
                .with_initializer(Initializer::Normal { mean, std })
                .init(device),
            blocks: (0..blocks).map(|_| Block::new(width, 4, device)).collect(),
            norm: RmsNormConfig::new(width).init(device),
            context,
        }
    }

    /// Returns the cosines and the sines of `seq` positions, `[seq, head_dim / 2]`.
    fn angles(seq: usize, head_dim: usize, device: &Device) -> [Tensor<2>; 2] {
        let of = |f: fn(f32) -> f32| {
            let pairs = head_dim / 2;
            let angle = |at: usize| {
                (at / pairs) as f32 * 1e4f32.powf(-((at % pairs) as f32) / pairs as f32)
            };
            let values: Vec<f32> = (0..seq * pairs).map(|at| f(angle(at))).collect();
            Tensor::<1>::from_floats(values.as_slice(), device).reshape([seq, pairs])
        };
        [of(f32::cos), of(f32::sin)]
    }

    /// Maps `ids: [batch, seq]` to what the head is given, `[batch, seq, width]`.
    fn hidden(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let x = self.embedding.forward(ids);
        let [_, seq, width] = x.dims();
        let heads = self.blocks.first().map_or(1, |block| block.heads);
        let angles = Self::angles(seq, width / heads, &x.device());
        let x = self
            .blocks
            .iter()
            .fold(x, |x, block| block.forward(x, &angles));
        self.norm.forward(x)
    }
}

impl CausalLm for Decoder {
    fn loss_sum(&self, batch: &TokenBatch) -> Tensor<1> {
        let hidden = self.hidden(batch.input_ids.clone());
        let [rows, seq, width] = hidden.dims();
        // Targets that are not to be learnt, such as padding, count nothing here. The logits are never formed whole.
        burn_fused::linear_cross_entropy(
            hidden.reshape([rows * seq, width]),
            self.embedding.weight.val(),
            batch.targets.clone().reshape([rows * seq]),
            LogitsConfig::default(),
        )
    }

    fn device(&self) -> Device {
        self.embedding.weight.lazy_device()
    }

    fn context_len(&self) -> usize {
        self.context
    }
}
