//! The tensors a LLaMA checkpoint consists of, by the names Hugging Face gives them.

use crate::config::LlamaConfig;

pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const FINAL_NORM: &str = "model.norm.weight";
pub(crate) const HEAD: &str = "lm_head.weight";

/// One of the seven linear layers of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProjectionSpec {
    /// The path below the block.
    pub path: &'static str,
    /// `[out_features, in_features]`.
    pub shape: [usize; 2],
    /// Whether there is a bias.
    pub bias: bool,
}

/// A tensor of a checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct TensorSpec {
    pub name: String,
    pub shape: Vec<usize>,
    /// Whether it is the weight of a projection, which can be quantized.
    pub projection: bool,
}

impl LlamaConfig {
    /// Returns the projections of a block: q, k, v, o, gate, up, down.
    pub(crate) fn projections(&self) -> [ProjectionSpec; 7] {
        let (hidden, intermediate) = (self.hidden_size, self.intermediate_size);
        let (wide, narrow) = (self.query_width(), self.key_value_width());
        let attention = |path, shape| ProjectionSpec {
            path,
            shape,
            bias: self.attention_bias,
        };
        let mlp = |path, shape| ProjectionSpec {
            path,
            shape,
            bias: self.mlp_bias,
        };
        [
            attention("self_attn.q_proj", [wide, hidden]),
            attention("self_attn.k_proj", [narrow, hidden]),
            attention("self_attn.v_proj", [narrow, hidden]),
            attention("self_attn.o_proj", [hidden, wide]),
            mlp("mlp.gate_proj", [intermediate, hidden]),
            mlp("mlp.up_proj", [intermediate, hidden]),
            mlp("mlp.down_proj", [hidden, intermediate]),
        ]
    }

    /// Returns all tensors, in the order of the forward pass.
    pub(crate) fn tensors(&self) -> Vec<TensorSpec> {
        let plain = |name: String, shape: Vec<usize>| TensorSpec {
            name,
            shape,
            projection: false,
        };
        let (vocab, hidden) = (self.vocab_size, self.hidden_size);
        let mut tensors = vec![plain(EMBEDDING.into(), vec![vocab, hidden])];
        for layer in 0..self.num_hidden_layers {
            let at = |path: &str| format!("model.layers.{layer}.{path}");
            for norm in ["input_layernorm.weight", "post_attention_layernorm.weight"] {
                tensors.push(plain(at(norm), vec![hidden]));
            }
            for ProjectionSpec { path, shape, bias } in self.projections() {
                tensors.push(TensorSpec {
                    name: format!("{}.weight", at(path)),
                    shape: shape.to_vec(),
                    projection: true,
                });
                if bias {
                    tensors.push(plain(format!("{}.bias", at(path)), vec![shape[0]]));
                }
            }
        }
        tensors.push(plain(FINAL_NORM.into(), vec![hidden]));
        if !self.tie_word_embeddings {
            tensors.push(plain(HEAD.into(), vec![vocab, hidden]));
        }
        tensors
    }
}
