//! The layers that can carry adapters.

use burn_qlora::{LoraBranch, LoraModel, QLoraLinear};

use crate::block::Block;
use crate::model::Llama;
use crate::projection::Projection;

/// The frozen projections of a block with their Hugging Face paths, by reference of one kind or the other.
macro_rules! frozen_projections {
    ($index:expr, $block:expr, $($reference:tt)+) => {
        [
            ("self_attn.q_proj", $($reference)+ $block.self_attn.q_proj),
            ("self_attn.k_proj", $($reference)+ $block.self_attn.k_proj),
            ("self_attn.v_proj", $($reference)+ $block.self_attn.v_proj),
            ("self_attn.o_proj", $($reference)+ $block.self_attn.o_proj),
            ("mlp.gate_proj", $($reference)+ $block.mlp.gate_proj),
            ("mlp.up_proj", $($reference)+ $block.mlp.up_proj),
            ("mlp.down_proj", $($reference)+ $block.mlp.down_proj),
        ]
        .into_iter()
        .filter_map(|(path, projection)| match projection {
            Projection::Frozen(linear) => Some((format!("model.layers.{}.{path}", $index), linear)),
            Projection::Dense(_) => None,
        })
        .collect()
    };
}

/// Only frozen projections are named: a model loaded as trainable has none.
impl LoraModel for Llama {
    fn lora_linears(&self) -> Vec<(String, &QLoraLinear)> {
        self.layers.iter().enumerate().flat_map(frozen_in).collect()
    }

    fn lora_linears_mut(&mut self) -> Vec<(String, &mut QLoraLinear)> {
        self.layers
            .iter_mut()
            .enumerate()
            .flat_map(frozen_in_mut)
            .collect()
    }
}

impl Block {
    /// Returns the layers that can carry adapters, in the order [`LoraModel`] names them.
    pub(crate) fn frozen_linears(&self) -> impl Iterator<Item = &QLoraLinear> {
        frozen_in((0, self)).into_iter().map(|(_, linear)| linear)
    }

    pub(crate) fn has_adapters(&self) -> bool {
        self.adapters().next().is_some()
    }

    pub(crate) fn has_dropout(&self) -> bool {
        self.adapters().any(|branch| branch.dropout.prob > 0.0)
    }

    fn adapters(&self) -> impl Iterator<Item = &LoraBranch> {
        self.frozen_linears()
            .filter_map(|linear| linear.adapter.as_ref())
    }
}

fn frozen_in((index, block): (usize, &Block)) -> Vec<(String, &QLoraLinear)> {
    frozen_projections!(index, block, &)
}

fn frozen_in_mut((index, block): (usize, &mut Block)) -> Vec<(String, &mut QLoraLinear)> {
    frozen_projections!(index, block, &mut)
}
