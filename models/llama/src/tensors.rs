//! The tensors a checkpoint consists of, by the names Hugging Face gives them.

use crate::config::{DecoderConfig, NormPlacement, QueryKeyNorm};

pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const FINAL_NORM: &str = "model.norm.weight";
pub(crate) const HEAD: &str = "lm_head.weight";

/// Returns the path of the module whose weight is called `name`.
#[cfg(feature = "qlora")]
pub(crate) fn module(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

/// Returns the path of a block.
pub(crate) fn block_path(layer: usize) -> String {
    format!("model.layers.{layer}")
}

/// A linear layer of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProjectionSpec {
    /// The path below the block.
    pub path: &'static str,
    /// `[out_features, in_features]`.
    pub shape: [usize; 2],
    /// Whether there is a bias.
    pub bias: bool,
}

impl ProjectionSpec {
    /// Returns the last part of the path.
    pub(crate) fn name(&self) -> &'static str {
        self.path
            .rsplit_once('.')
            .map_or(self.path, |(_, name)| name)
    }
}

/// Something of each linear layer of a block.
#[derive(Clone, Debug)]
pub(crate) struct BlockProjections<T = ProjectionSpec> {
    /// Of q, k and v, or of the one matrix that stacks them.
    pub query_key_value: Vec<T>,
    pub output: T,
    /// Of gate and up, or of the one matrix that stacks them.
    pub gate_up: Vec<T>,
    pub down: T,
}

impl<T> BlockProjections<T> {
    /// Returns all in the order of the forward pass.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> + Clone {
        let attention = self.query_key_value.iter().chain([&self.output]);
        attention.chain(&self.gate_up).chain([&self.down])
    }

    /// Applies `f` to each, in the order of the forward pass.
    #[cfg(feature = "qlora")]
    pub(crate) fn map<U>(self, mut f: impl FnMut(T) -> U) -> BlockProjections<U> {
        BlockProjections {
            query_key_value: self.query_key_value.into_iter().map(&mut f).collect(),
            output: f(self.output),
            gate_up: self.gate_up.into_iter().map(&mut f).collect(),
            down: f(self.down),
        }
    }
}

/// The path of each norm below the block; `None` where there is none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockNorms {
    pub attention: Option<&'static str>,
    pub attention_output: Option<&'static str>,
    pub mlp: Option<&'static str>,
    pub mlp_output: Option<&'static str>,
}

pub(crate) const QUERY_NORM: &str = "self_attn.q_norm";
pub(crate) const KEY_NORM: &str = "self_attn.k_norm";

/// A tensor of a checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct TensorSpec {
    pub name: String,
    pub shape: Vec<usize>,
    /// Whether it is the weight of a projection, which can be quantized.
    pub projection: bool,
}

impl TensorSpec {
    fn plain(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Self {
        Self {
            name: name.into(),
            shape: shape.into(),
            projection: false,
        }
    }
}

impl DecoderConfig {
    /// Returns the projections of a block.
    pub(crate) fn projections(&self) -> BlockProjections {
        let (hidden, intermediate) = (self.hidden_size, self.intermediate_size);
        let (wide, narrow) = (self.query_width(), self.key_value_width());
        let spec = |path, shape, bias| ProjectionSpec { path, shape, bias };
        let into_attention = |path, width| spec(path, [width, hidden], self.biases.query_key_value);
        let into_mlp = |path, width| spec(path, [width, hidden], self.biases.mlp);
        let (query_key_value, gate_up) = if self.fused_projections {
            (
                vec![into_attention("self_attn.qkv_proj", wide + 2 * narrow)],
                vec![into_mlp("mlp.gate_up_proj", 2 * intermediate)],
            )
        } else {
            (
                vec![
                    into_attention("self_attn.q_proj", wide),
                    into_attention("self_attn.k_proj", narrow),
                    into_attention("self_attn.v_proj", narrow),
                ],
                vec![
                    into_mlp("mlp.gate_proj", intermediate),
                    into_mlp("mlp.up_proj", intermediate),
                ],
            )
        };
        BlockProjections {
            query_key_value,
            output: spec("self_attn.o_proj", [hidden, wide], self.biases.output),
            gate_up,
            down: spec("mlp.down_proj", [hidden, intermediate], self.biases.mlp),
        }
    }

    /// Returns the path of the head, which can carry an adapter beside the projections.
    #[cfg(feature = "qlora")]
    pub fn head_path(&self) -> &'static str {
        module(HEAD)
    }

    /// Returns the paths of all that can carry adapters: of the projections, in the order of the forward pass, and of the head.
    #[cfg(feature = "qlora")]
    pub fn adaptable_paths(&self) -> Vec<String> {
        let mut paths = self.projection_paths();
        paths.push(self.head_path().to_owned());
        paths
    }

    /// Returns the paths of the projections of all blocks, in the order of the forward pass: those that can carry adapters, and
    /// that `all-linear` means.
    #[cfg(feature = "qlora")]
    pub fn projection_paths(&self) -> Vec<String> {
        let specs = self.projections();
        let of_block = |layer| {
            let paths = specs.iter().map(|spec| spec.path);
            paths.map(move |path| format!("{}.{path}", block_path(layer)))
        };
        (0..self.layers.len()).flat_map(of_block).collect()
    }

    /// Returns the names and shapes of the weights of all projections, in the order of the forward pass.
    pub fn projection_weights(&self) -> impl Iterator<Item = (String, [usize; 2])> {
        let specs = self.projections();
        (0..self.layers.len()).flat_map(move |layer| {
            let block = block_path(layer);
            let weight =
                |spec: &ProjectionSpec| (format!("{block}.{}.weight", spec.path), spec.shape);
            specs.iter().map(weight).collect::<Vec<_>>()
        })
    }

    /// Returns the norms of a block. Hugging Face's names tell their places only together with the placement.
    pub(crate) fn norms(&self) -> BlockNorms {
        let (attention, attention_output, mlp, mlp_output) = match self.norm_placement {
            NormPlacement::Before => (
                Some("input_layernorm"),
                None,
                Some("post_attention_layernorm"),
                None,
            ),
            NormPlacement::After => (
                None,
                Some("post_attention_layernorm"),
                None,
                Some("post_feedforward_layernorm"),
            ),
            NormPlacement::Around => (
                Some("input_layernorm"),
                Some("post_attention_layernorm"),
                Some("pre_feedforward_layernorm"),
                Some("post_feedforward_layernorm"),
            ),
        };
        BlockNorms {
            attention,
            attention_output,
            mlp,
            mlp_output,
        }
    }

    /// Returns the widths of the norms of queries and keys.
    pub(crate) fn query_key_norm_widths(&self) -> Option<[usize; 2]> {
        Some(match self.query_key_norm? {
            QueryKeyNorm::Head => [self.head_dim; 2],
            QueryKeyNorm::Width => [self.query_width(), self.key_value_width()],
        })
    }

    /// Returns all tensors, in the order of the forward pass.
    pub(crate) fn tensors(&self) -> Vec<TensorSpec> {
        let (vocab, hidden) = (self.vocab_size, self.hidden_size);
        let mut tensors = vec![TensorSpec::plain(EMBEDDING, [vocab, hidden])];
        for layer in 0..self.layers.len() {
            tensors.extend(self.block_tensors(&block_path(layer)));
        }
        tensors.push(TensorSpec::plain(FINAL_NORM, [hidden]));
        if !self.tie_word_embeddings {
            tensors.push(TensorSpec::plain(HEAD, [vocab, hidden]));
        }
        tensors
    }

    fn block_tensors(&self, block: &str) -> Vec<TensorSpec> {
        let norms = self.norms();
        let norm = |path: &str, width| TensorSpec::plain(format!("{block}.{path}.weight"), [width]);
        let mut tensors: Vec<_> = [
            norms.attention,
            norms.attention_output,
            norms.mlp,
            norms.mlp_output,
        ]
        .into_iter()
        .flatten()
        .map(|path| norm(path, self.hidden_size))
        .collect();
        if let Some([query, key]) = self.query_key_norm_widths() {
            tensors.extend([norm(QUERY_NORM, query), norm(KEY_NORM, key)]);
        }
        for &ProjectionSpec { path, shape, bias } in self.projections().iter() {
            tensors.push(TensorSpec {
                name: format!("{block}.{path}.weight"),
                shape: shape.to_vec(),
                projection: true,
            });
            if bias {
                let name = format!("{block}.{path}.bias");
                tensors.push(TensorSpec::plain(name, [shape[0]]));
            }
        }
        tensors
    }
}
