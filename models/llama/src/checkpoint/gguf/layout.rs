//! How llama.cpp stores a model's tensors: their names, the order of their rows, and what was added to them.

use crate::config::DecoderConfig;
use crate::tensors::{BlockNorms, EMBEDDING, FINAL_NORM, HEAD, KEY_NORM, QUERY_NORM};

/// From the names that Hugging Face gives a model's tensors to what a file holds.
#[derive(Debug)]
pub(crate) struct Layout {
    norms: BlockNorms,
    /// Heads of the query and of the key projection, where the rows of each head are interleaved.
    interleaved: Option<[usize; 2]>,
    /// What the converter added to the weights of the norms.
    norm_offset: f32,
}

/// A tensor of a file.
#[derive(Debug, PartialEq)]
pub(crate) struct Stored {
    /// Its name.
    pub name: String,
    /// The order of its rows.
    pub rows: RowOrder,
    /// What was added to its values.
    pub offset: f32,
}

/// A tensor that is stored as it is used.
impl From<&str> for Stored {
    fn from(name: &str) -> Self {
        Self {
            name: name.into(),
            rows: RowOrder::AsUsed,
            offset: 0.0,
        }
    }
}

/// The order of the rows of a stored tensor.
///
/// Where llama.cpp rotates neighbouring pairs, not the two halves of a head as Hugging Face does, its converter
/// interleaves the halves of each head of q and k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowOrder {
    AsUsed,
    Interleaved { heads: usize },
}

impl Layout {
    pub(crate) fn of(config: &DecoderConfig, interleaved: bool) -> Self {
        Self {
            norms: config.norms(),
            interleaved: interleaved
                .then_some([config.num_attention_heads, config.num_key_value_heads]),
            norm_offset: if config.norm_unit_offset { 1.0 } else { 0.0 },
        }
    }

    /// Returns what the tensor is that Hugging Face calls `name`.
    pub(crate) fn stored(&self, name: &str) -> Stored {
        let in_block = name.strip_prefix("model.layers.");
        let Some((layer, path)) = in_block.and_then(|rest| rest.split_once('.')) else {
            return match name {
                EMBEDDING => "token_embd.weight".into(),
                HEAD => "output.weight".into(),
                FINAL_NORM => self.norm("output_norm.weight".into()),
                other => other.into(),
            };
        };
        let (module, leaf) = path.rsplit_once('.').unwrap_or((path, "weight"));
        let name = |module: &str| format!("blk.{layer}.{module}.{leaf}");
        if let Some(norm) = self.norm_name(module) {
            return self.norm(name(norm));
        }
        let (module, heads) = match module {
            "self_attn.q_proj" => ("attn_q", self.interleaved.map(|heads| heads[0])),
            "self_attn.k_proj" => ("attn_k", self.interleaved.map(|heads| heads[1])),
            "self_attn.v_proj" => ("attn_v", None),
            "self_attn.qkv_proj" => ("attn_qkv", None),
            "self_attn.o_proj" => ("attn_output", None),
            "mlp.gate_proj" => ("ffn_gate", None),
            "mlp.up_proj" | "mlp.gate_up_proj" => ("ffn_up", None),
            "mlp.down_proj" => ("ffn_down", None),
            other => (other, None),
        };
        Stored {
            name: name(module),
            rows: heads.map_or(RowOrder::AsUsed, |heads| RowOrder::Interleaved { heads }),
            offset: 0.0,
        }
    }

    /// Returns llama.cpp's name of a norm of a block, which goes by its place.
    fn norm_name(&self, path: &str) -> Option<&'static str> {
        [
            (self.norms.attention, "attn_norm"),
            (self.norms.attention_output, "post_attention_norm"),
            (self.norms.mlp, "ffn_norm"),
            (self.norms.mlp_output, "post_ffw_norm"),
            (Some(QUERY_NORM), "attn_q_norm"),
            (Some(KEY_NORM), "attn_k_norm"),
        ]
        .into_iter()
        .find_map(|(known, name)| (known == Some(path)).then_some(name))
    }

    fn norm(&self, name: String) -> Stored {
        Stored {
            name,
            rows: RowOrder::AsUsed,
            offset: self.norm_offset,
        }
    }
}

impl RowOrder {
    /// Returns whether `rows` rows can have this order.
    #[cfg(feature = "qlora")]
    pub(crate) fn divides(self, rows: usize) -> bool {
        match self {
            Self::AsUsed => true,
            Self::Interleaved { heads } => rows.is_multiple_of(2 * heads),
        }
    }

    /// Returns where row `row` of `rows` belongs.
    pub(crate) fn target(self, row: usize, rows: usize) -> usize {
        match self {
            Self::AsUsed => row,
            Self::Interleaved { heads } => {
                let head_dim = rows / heads;
                let (head, within) = (row / head_dim, row % head_dim);
                let (pair, half) = (within / 2, within % 2);
                head * head_dim + half * (head_dim / 2) + pair
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LayerConfig, NormPlacement};

    fn layout(placement: NormPlacement, interleaved: bool, offset: bool) -> Layout {
        let config = DecoderConfig::new(8, 8, 8, 4, 2, 2, vec![LayerConfig::default()])
            .with_norm_placement(placement)
            .with_norm_unit_offset(offset);
        Layout::of(&config, interleaved)
    }

    #[test]
    fn names_map_to_those_of_llama_cpp() {
        let layout = layout(NormPlacement::Before, true, false);
        for (name, expected) in [
            (
                "model.layers.12.mlp.down_proj.weight",
                "blk.12.ffn_down.weight",
            ),
            ("model.layers.0.self_attn.q_proj.bias", "blk.0.attn_q.bias"),
            (
                "model.layers.1.self_attn.qkv_proj.weight",
                "blk.1.attn_qkv.weight",
            ),
            (
                "model.layers.1.mlp.gate_up_proj.weight",
                "blk.1.ffn_up.weight",
            ),
            (
                "model.layers.1.self_attn.k_norm.weight",
                "blk.1.attn_k_norm.weight",
            ),
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("lm_head.weight", "output.weight"),
        ] {
            assert_eq!(layout.stored(name).name, expected);
        }
    }

    #[test]
    fn norms_are_named_by_their_places() {
        let name = |placement, path: &str| {
            let name = format!("model.layers.3.{path}.weight");
            layout(placement, false, false).stored(&name).name
        };
        let after = "post_attention_layernorm";
        assert_eq!(name(NormPlacement::Before, after), "blk.3.ffn_norm.weight");
        for placement in [NormPlacement::After, NormPlacement::Around] {
            assert_eq!(name(placement, after), "blk.3.post_attention_norm.weight");
            assert_eq!(
                name(placement, "post_feedforward_layernorm"),
                "blk.3.post_ffw_norm.weight"
            );
        }
        assert_eq!(
            name(NormPlacement::Around, "pre_feedforward_layernorm"),
            "blk.3.ffn_norm.weight"
        );
    }

    #[test]
    fn what_was_added_to_norms_is_known_of_every_norm_and_of_nothing_else() {
        let layout = layout(NormPlacement::Around, false, true);
        let offset = |name: &str| layout.stored(name).offset;
        for norm in [
            "input_layernorm",
            "self_attn.q_norm",
            "post_feedforward_layernorm",
        ] {
            assert_eq!(offset(&format!("model.layers.0.{norm}.weight")), 1.0);
        }
        assert_eq!(offset(FINAL_NORM), 1.0);
        assert_eq!(offset("model.layers.0.mlp.up_proj.weight"), 0.0);
        assert_eq!(offset(EMBEDDING), 0.0);
    }

    #[test]
    fn interleaved_rows_return_to_halves() {
        let rows = |interleaved| {
            let layout = layout(NormPlacement::Before, interleaved, false);
            let rows = layout.stored("model.layers.0.self_attn.k_proj.weight").rows;
            (0..8).map(|row| rows.target(row, 8)).collect::<Vec<_>>()
        };
        assert_eq!(rows(true), [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(rows(false), [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
