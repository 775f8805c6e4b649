//! What a training run takes in memory, term by term, before anything is loaded.
//!
//! Each function is one term; its doc names the tensors it counts by the names the modules give them, with their
//! shapes. `tokens` is batch · seq, `b` the bytes of the compute dtype. What the operations keep and need is that of
//! their Flex kernels (`burn-fused`, `burn-nf4`), or of the bodies composed of a backend's own operations, which serve
//! every other device.

use burn_qlora::{Checkpointing, LoraConfig, LoraError, QuantConfig};
use nf4::Layout;

use crate::tensors::ProjectionSpec;
use crate::{ComputeDtype, LlamaConfig};

/// Bytes of f32.
const F32: u128 = 4;

/// More tokens than any memory holds, few enough that no term overflows.
const MOST_TOKENS: u128 = 1 << 48;

/// Rows that Flex's NF4 products pack at a time (`nf4::matmul`).
const PACKED_ROWS: u128 = 1024;

/// Scores of attention, or logits of the head, that composed operations form at a time (`burn-fused`).
const COMPOSED_SLAB: u128 = 1 << 24;

/// A training run, as far as its memory depends on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Rows of a micro-batch.
    pub batch: usize,
    /// Tokens of the longest row.
    pub seq: usize,
    /// The format of the frozen projections, `None` for dense ones.
    pub quantization: Option<QuantConfig>,
    /// What the model computes in.
    pub compute_dtype: ComputeDtype,
    /// The adapters.
    pub lora: LoraConfig,
    /// What is kept for the backward pass.
    pub checkpointing: Checkpointing,
    /// Whose kernels run.
    pub kernels: Kernels,
}

/// Where the operations of a block and of the head are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// By Flex's own, in tiles that stay in the caches.
    Flex,
    /// By the device's general ones, in slabs of its memory.
    Composed,
}

/// What [`LlamaConfig::memory`] finds, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelMemory {
    /// The projections in 4 bits.
    pub quantized: u64,
    /// All other weights.
    pub dense: u64,
    /// Elements of every factor of the adapters.
    pub factors: Vec<usize>,
    /// What is kept from the forward to the backward pass.
    pub activations: u64,
    /// One block: what it keeps, where that is not in `activations`, and what its backward pass needs beside.
    pub block: u64,
    /// The head: the last hidden states, their gradient and what computing it needs.
    pub head: u64,
    /// The largest tensor that is converted or quantized while it is loaded, in f32 on the host.
    pub loading: u64,
}

impl ModelMemory {
    /// The factors of the adapters, f32. Their gradients take as much.
    pub fn adapters(&self) -> u64 {
        self.factors
            .iter()
            .fold(0, |sum: u64, &n| sum.saturating_add(4 * n as u64))
    }

    /// The most that a backward pass has at once beside the weights, the adapters and `held`, the gradients of
    /// the micro-batches before it.
    ///
    /// That is either in the head, with everything kept and no gradient yet; or in the last block, the first to go
    /// back through; or in the first block, with nothing kept any more and all gradients there.
    pub fn backward(&self, held: u64) -> u64 {
        let before = self.activations.saturating_add(self.head.max(self.block));
        let after = self.block.saturating_add(self.adapters());
        before.max(after).saturating_add(held)
    }

    /// The peak of a run, given what is `resident` of the optimizer's state and the gradients `held` while a
    /// micro-batch goes back: of loading or of training. Saving needs one factor at a time beside what lasts.
    pub fn peak(&self, resident: u64, held: u64) -> u64 {
        let sum = |terms: &[u64]| terms.iter().fold(0, |sum: u64, &n| sum.saturating_add(n));
        let weights = sum(&[self.quantized, self.dense]);
        let training = [weights, self.adapters(), resident, self.backward(held)];
        sum(&[weights, self.loading]).max(sum(&training))
    }
}

impl LlamaConfig {
    /// What `workload` takes on this model.
    ///
    /// # Errors
    /// What [`LoraConfig::validate`] and the selection of its targets refuse.
    pub fn memory(&self, workload: &Workload) -> Result<ModelMemory, LoraError> {
        workload.lora.validate()?;
        let terms = Terms {
            config: self,
            workload,
            adapted: self.adapted(&workload.lora)?,
            tokens: (workload.batch as u128 * workload.seq as u128).min(MOST_TOKENS),
            b: workload.compute_dtype.bytes() as u128,
        };
        let bytes = |term: u128| u64::try_from(term).unwrap_or(u64::MAX);
        Ok(ModelMemory {
            quantized: bytes(terms.quantized()),
            dense: bytes(terms.dense()),
            factors: terms.factors(),
            activations: bytes(terms.activations()),
            block: bytes(terms.block()),
            head: bytes(terms.head()),
            loading: bytes(terms.loading()),
        })
    }

    /// The projections of every block, each with whether it is to carry an adapter.
    fn adapted(&self, lora: &LoraConfig) -> Result<Vec<[(ProjectionSpec, bool); 7]>, LoraError> {
        let blocks = 0..self.num_hidden_layers;
        let paths: Vec<String> = blocks
            .flat_map(|layer| {
                let path =
                    move |spec: ProjectionSpec| format!("model.layers.{layer}.{}", spec.path);
                self.projections().map(path)
            })
            .collect();
        let selected = lora.targets.select(&paths)?;
        let blocks = selected.chunks_exact(7).map(|selected| {
            let specs = self.projections();
            std::array::from_fn(|index| (specs[index], selected[index]))
        });
        Ok(blocks.collect())
    }
}

/// A model and a workload, from which the terms follow.
struct Terms<'a> {
    config: &'a LlamaConfig,
    workload: &'a Workload,
    adapted: Vec<[(ProjectionSpec, bool); 7]>,
    tokens: u128,
    b: u128,
}

impl Terms<'_> {
    fn hidden(&self) -> u128 {
        self.config.hidden_size as u128
    }

    fn inner(&self) -> u128 {
        self.config.intermediate_size as u128
    }

    fn wide(&self) -> u128 {
        self.config.query_width() as u128
    }

    fn narrow(&self) -> u128 {
        self.config.key_value_width() as u128
    }

    fn vocab(&self) -> u128 {
        self.config.vocab_size as u128
    }

    /// `packed` and `absmax` of q, k, v, o, gate, up and down of every block: 4.127 bits a weight by default.
    fn quantized(&self) -> u128 {
        let Some(quantization) = self.workload.quantization else {
            return 0;
        };
        let bytes = |spec: ProjectionSpec| {
            Layout::new(spec.shape, quantization).map_or(0, |layout| layout.bytes() as u128)
        };
        let block: u128 = self.config.projections().map(bytes).iter().sum();
        block * self.config.num_hidden_layers as u128
    }

    /// In the compute dtype: embedding and head `[vocab, hidden]` (one if they are tied), the norms
    /// `[hidden]`, the biases, and the projections if they are not quantized.
    fn dense(&self) -> u128 {
        let values = self.config.tensors().into_iter().filter_map(|tensor| {
            let packed = tensor.projection && self.workload.quantization.is_some();
            (!packed).then(|| tensor.shape.iter().map(|&n| n as u128).product::<u128>())
        });
        values.sum::<u128>() * self.b
    }

    /// `A: [in, rank]` and `B: [rank, out]` of every adapted projection.
    fn factors(&self) -> Vec<usize> {
        let rank = self.workload.lora.rank;
        let adapted = self
            .adapted
            .iter()
            .flatten()
            .filter(|(_, adapted)| *adapted);
        adapted
            .flat_map(|(spec, _)| {
                [spec.shape[1], spec.shape[0]].map(|width| width.saturating_mul(rank))
            })
            .collect()
    }

    /// The blocks from the first adapted one on: below it nothing is kept.
    fn trained(&self) -> &[[(ProjectionSpec, bool); 7]] {
        let first = self
            .adapted
            .iter()
            .position(|block| block.iter().any(|(_, adapted)| *adapted));
        &self.adapted[first.unwrap_or(self.adapted.len())..]
    }

    /// Without checkpointing, what every block keeps; with it, the input `[tokens, hidden]` of every block.
    fn activations(&self) -> u128 {
        match self.workload.checkpointing {
            Checkpointing::None => self.trained().iter().map(|block| self.kept(block)).sum(),
            Checkpointing::Layer => {
                self.trained().len() as u128 * self.tokens * self.hidden() * self.b
            }
        }
    }

    /// What one block's graph keeps.
    fn kept(&self, block: &[(ProjectionSpec, bool); 7]) -> u128 {
        self.kept_by_norms()
            + self.kept_by_attention()
            + self.kept_by_mlp()
            + self.kept_by_adapters(block)
    }

    /// `x` and `x + attended`, `[tokens, hidden]`, and one f32 a token for each.
    fn kept_by_norms(&self) -> u128 {
        2 * self.tokens * (self.hidden() * self.b + F32)
    }

    /// `q` and `out`, `[tokens, heads · head_dim]`, `k` and `v`, `[tokens, kv_heads · head_dim]`, and `lse`,
    /// f32 `[tokens, heads]`.
    fn kept_by_attention(&self) -> u128 {
        let values = 2 * self.wide() + 2 * self.narrow();
        self.tokens * (values * self.b + self.config.num_attention_heads as u128 * F32)
    }

    /// `gate` and `up`, `[tokens, intermediate]`.
    fn kept_by_mlp(&self) -> u128 {
        2 * self.tokens * self.inner() * self.b
    }

    /// The inputs of the adapted projections. Without dropout, on 4-bit weights, they are shared: the output of a
    /// norm `[tokens, hidden]` by q, k and v, or by gate and up; that of attention, by o, which attention keeps
    /// anyway; that of SwiGLU `[tokens, intermediate]`, by down. Else every adapter keeps its own.
    fn kept_by_adapters(&self, block: &[(ProjectionSpec, bool); 7]) -> u128 {
        let [q, k, v, _, gate, up, down] = block.map(|(_, adapted)| adapted);
        let plain = self.workload.lora.dropout == 0.0;
        let shared = match (self.workload.quantization, plain) {
            (Some(_), true) => true,
            (None, true) => self.b == F32,
            (_, false) => false,
        };
        let adapted = block.iter().filter(|(_, adapted)| *adapted);
        let inputs = if shared {
            let shared = |any: bool, width: u128| if any { width * self.b } else { 0 };
            shared(q || k || v, self.hidden())
                + shared(gate || up, self.hidden())
                + shared(down, self.inner())
        } else {
            // A copy in f32, and the mask of dropout in the compute dtype.
            let mask = if plain { 0 } else { self.b };
            let own = |spec: &ProjectionSpec| spec.shape[1] as u128 * (F32 + mask);
            adapted.clone().map(|(spec, _)| own(spec)).sum()
        };
        // Only the operation of both products at once computes `x A`, [tokens, rank], a second time.
        let fused = self.workload.quantization.is_some() && plain;
        let inner = if fused {
            0
        } else {
            adapted.count() as u128 * self.workload.lora.rank as u128 * F32
        };
        self.tokens * (inputs + inner)
    }

    /// The widest of the blocks, in its backward pass: where the gradient reaches the MLP, or, what the MLP kept
    /// being gone, attention.
    fn block(&self) -> u128 {
        let blocks = self.trained().iter();
        let kept = blocks.map(|block| self.kept(block)).max().unwrap_or(0);
        let mlp = self.mlp_backward();
        let freed = self.kept_by_mlp() + self.tokens * self.hidden() * self.b;
        let attention = self.attention_backward().saturating_sub(freed);
        let working = mlp.max(attention) + self.packed();
        match self.workload.checkpointing {
            Checkpointing::None => working,
            // The block's input is among the activations.
            Checkpointing::Layer => kept + working - self.tokens * self.hidden() * self.b,
        }
    }

    /// The gradient of `down`'s input, `[tokens, intermediate]`, that of the block's output, `[tokens, hidden]`,
    /// and, when a block is run again, its output and the product that hands the gradient in.
    fn mlp_backward(&self) -> u128 {
        let rows = match self.workload.checkpointing {
            Checkpointing::None => 1,
            Checkpointing::Layer => 3,
        };
        self.tokens * (self.inner() + rows * self.hidden()) * self.b
            + self.composed_rows(self.inner())
    }

    /// The gradient of the residual stream, `[tokens, hidden]`; of attention's output, and of `q`, `k` and `v`.
    /// Flex computes the latter head by head and then puts them side by side, in f32, where it also has
    /// copies of `q`, `k`, `v`, `out` and the gradient if they are of less; composed operations hold the scores
    /// of a slab, their mask, their probabilities and the gradients of both.
    fn attention_backward(&self) -> u128 {
        let passed = (self.hidden() + self.wide()) * self.b;
        let gradients = (self.wide() + 2 * self.narrow()) * F32;
        let copies = if self.b == F32 {
            0
        } else {
            (3 * self.wide() + 2 * self.narrow()) * F32
        };
        let slab = match self.workload.kernels {
            Kernels::Flex => 0,
            Kernels::Composed => 5 * self.slab(self.config.num_attention_heads as u128) * F32,
        };
        self.tokens * (passed + 2 * gradients + copies) + slab
    }

    /// Scores that composed attention forms at a time: as many pairs of a row and a key-value head as fit, one at
    /// least.
    fn slab(&self, heads: u128) -> u128 {
        let seq = self.workload.seq as u128;
        let pairs = self.workload.batch as u128 * self.config.num_key_value_heads as u128;
        let group = heads / self.config.num_key_value_heads as u128;
        let pair = group * seq * seq;
        pair * (COMPOSED_SLAB / pair.max(1)).clamp(1, pairs)
    }

    /// What Flex's product of the widest projection packs: up to 1024 rows of `x`, or of its gradient, in pairs of
    /// bf16 or in f32.
    fn packed(&self) -> u128 {
        let widest = self.inner().max(self.wide()).max(self.hidden());
        let bytes = match self.workload.compute_dtype {
            ComputeDtype::Bf16 => 2,
            ComputeDtype::F32 | ComputeDtype::F16 => F32,
        };
        match self.workload.kernels {
            Kernels::Flex => self.tokens.min(PACKED_ROWS) * widest * bytes,
            Kernels::Composed => 0,
        }
    }

    /// Copies in f32 of `width` columns of `x` and of its gradient, which composed adapters compute with.
    fn composed_rows(&self, width: u128) -> u128 {
        match self.workload.kernels {
            Kernels::Composed if self.b != F32 => self.tokens * 2 * width * F32,
            _ => 0,
        }
    }

    /// Of the last hidden states, `[tokens, hidden]`: what the last block gave, its norm, the rows of it that have
    /// a target; their gradient in f32, once more with zeros for the other rows, and in the compute dtype.
    /// Composed operations also hold a chunk's logits, their exponentials, probabilities and gradients, and head
    /// and hidden states in f32 if they are of less.
    fn head(&self) -> u128 {
        let rows = self.tokens * self.hidden() * (4 * self.b + 2 * F32);
        let composed = match self.workload.kernels {
            Kernels::Flex => 0,
            Kernels::Composed => {
                let logits = (self.tokens * self.vocab()).min(COMPOSED_SLAB.max(self.vocab()));
                let widened = if self.b == F32 {
                    0
                } else {
                    (self.vocab() + self.tokens) * self.hidden()
                };
                (4 * logits + widened) * F32
            }
        };
        rows + composed
    }

    /// The largest tensor as it is read, in f32: embedding or head, `[vocab, hidden]`, if they become another dtype, or
    /// a projection that is quantized. What is to be f32 is taken as it is.
    fn loading(&self) -> u128 {
        let sources = self.config.tensors().into_iter().filter_map(|tensor| {
            let packed = tensor.projection && self.workload.quantization.is_some();
            let values: u128 = tensor.shape.iter().map(|&n| n as u128).product();
            (packed || self.b != F32).then_some(values * F32)
        });
        sources.max().unwrap_or(0)
    }
}
