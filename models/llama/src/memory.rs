//! What a training run takes in memory, term by term, before anything is loaded.
//!
//! Each function is one term; its doc names the tensors it counts by the names the modules give them, with their
//! shapes. `tokens` is batch · seq, `b` the bytes of the compute dtype. What operations keep and need beside these
//! tensors their kernels say themselves: `burn_fused::Implementation`, `burn_nf4` and `qlora_cpu`.
//!
//! - `tensors`: [`Tensors`], bytes by the size of their allocations
//! - `weights`: weights and adapters
//! - `formats`: [`ProjectionFormats`], the formats of the frozen weights
//! - `activations`: what is kept from the forward to the backward pass
//! - `block`, `head`: what is there for a while
//! - `token_rows`: rows of embedding and head that are trained
//! - `work`: what a step computes
//! - `arena`: the pages that a CubeCL device reserves for all of that

mod activations;
mod arena;
mod block;
mod formats;
mod head;
mod tensors;
mod token_rows;
mod weights;
mod work;

pub use burn_fused::Implementation;
pub use formats::ProjectionFormats;
pub use tensors::Tensors;

use arena::Served;
use burn_fused::{AttentionConfig, AttentionShape, OpMemory};
use burn_paged::Budget;
use burn_qlora::{Checkpointing, LoraConfig, LoraError};

use crate::tensors::{BlockProjections, ProjectionSpec};
use crate::{ComputeDtype, DecoderConfig, LayerConfig};

/// Bytes of f32.
const F32: u128 = 4;

/// More tokens than any memory holds, few enough that no term overflows.
const MOST_TOKENS: u128 = 1 << 48;

/// A training run, as far as its memory depends on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Rows of a micro-batch.
    pub batch: usize,
    /// Tokens of the longest row.
    pub seq: usize,
    /// The formats of the frozen projections.
    pub quantization: ProjectionFormats,
    /// What the model computes in.
    pub compute_dtype: ComputeDtype,
    /// The adapters.
    pub lora: LoraConfig,
    /// What is kept for the backward pass.
    pub checkpointing: Checkpointing,
    /// Whose kernels run.
    pub kernels: Implementation,
    /// How much of the packed weights stays on the device. Of the others a graph holds what it multiplied by, which without
    /// checkpointing is all.
    pub weights_budget: Budget,
}

/// What [`DecoderConfig::memory`] finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelMemory {
    /// The projections in 4 bits or in the blocks of a file, as many as are on the device at once.
    pub quantized: Tensors,
    /// Bytes of those that are read again at every use.
    pub paged: u64,
    /// Bytes of `quantized` that are on the device only while they are used: none before training begins.
    pub passing: u64,
    /// All other weights.
    pub dense: Tensors,
    /// Elements of every factor of the adapters, and of the rows of tokens.
    pub factors: Vec<[usize; 2]>,
    /// What is kept from the forward to the backward pass.
    pub activations: Tensors,
    /// One block: what it keeps, where that is not in `activations`, and what its backward pass needs beside.
    pub block: Tensors,
    /// The head: the last hidden states, their gradient and what computing it needs.
    pub head: Tensors,
    /// The largest tensor that is converted or quantized while it is loaded, in f32 on the host.
    pub loading: u64,
    /// What `burn_qlora::loftq_init` needs for the layer that it needs most for, with that layer's dense weight.
    pub fitting: u64,
    /// Bytes of the largest weight on the device.
    pub largest_weight: u64,
    /// Bytes of the largest of all other tensors there.
    pub largest: u64,
}

impl ModelMemory {
    /// Returns the factors of the adapters and the rows of tokens, f32. Their gradients take as much.
    pub fn adapters(&self) -> Tensors {
        let factors = self.factors.iter();
        factors
            .map(|[rows, columns]| Tensors::one(F32 * *rows as u128 * *columns as u128))
            .sum()
    }

    fn weights(&self) -> Tensors {
        self.quantized + self.dense
    }

    /// Returns what a backward pass has beside the weights and the adapters when it has most, and when it ends; `held` are
    /// the gradients of the micro-batches before it.
    ///
    /// It has most either in the head, with everything kept and no gradient yet, or in the last block, the first to go back
    /// through; or in the first block, with nothing kept any more and all gradients there.
    fn moments(&self, held: Tensors) -> [Tensors; 2] {
        let before = self.activations + self.head.max(self.block);
        let after = self.block + self.adapters();
        [before + held, after + held]
    }

    /// Returns the bytes that a backward pass has at once, at most, beside the weights and the adapters.
    pub fn backward(&self, held: Tensors) -> u64 {
        let [before, after] = self.moments(held);
        before.max(after).bytes()
    }

    /// Returns the peak of a run, given what is `resident` of the optimizer's state and the gradients `held` while a
    /// micro-batch goes back: of loading or of training. Saving needs one factor at a time beside what lasts.
    pub fn peak(&self, resident: u64, held: Tensors) -> u64 {
        let lasting = (self.weights() + self.adapters()).bytes();
        let training = lasting.saturating_add(self.backward(held));
        let loaded = self.weights().bytes().saturating_sub(self.passing);
        let loading = loaded.saturating_add(self.loading);
        loading.max(training.saturating_add(resident))
    }

    /// Returns the bytes of the pages that a CubeCL device reserves for a run and the `buffers` of its optimizer, whose
    /// resident state is apart.
    pub fn reserved(&self, buffers: u64, held: Tensors) -> u64 {
        let weights = Served {
            tensors: self.weights(),
            largest: self.largest_weight,
        };
        let lasting = self.adapters() + Tensors::one(buffers as u128);
        let moments = self.moments(held).map(|passing| lasting + passing);
        arena::reserved(weights, &moments, self.largest)
    }
}

impl Workload {
    fn tokens(&self) -> u128 {
        (self.batch as u128 * self.seq as u128).min(MOST_TOKENS)
    }
}

impl DecoderConfig {
    /// Returns what `workload` takes on this model.
    ///
    /// # Errors
    /// What [`LoraConfig::validate`] and the selection of its targets refuse.
    pub fn memory(&self, workload: &Workload) -> Result<ModelMemory, LoraError> {
        let terms = self.terms(workload)?;
        let bytes = |term: u128| u64::try_from(term).unwrap_or(u64::MAX);
        Ok(ModelMemory {
            quantized: terms.quantized(),
            paged: terms.paged(),
            passing: terms.passing(),
            dense: terms.dense(),
            factors: terms.factors(),
            activations: terms.activations(),
            block: terms.block(),
            head: terms.head(),
            loading: bytes(terms.loading()),
            fitting: terms.fitting(),
            largest_weight: bytes(terms.largest_weight()),
            largest: bytes(terms.largest()),
        })
    }

    fn terms<'a>(&'a self, workload: &'a Workload) -> Result<Terms<'a>, LoraError> {
        workload.lora.validate()?;
        let (adapted, head_rank) = self.adapted(&workload.lora)?;
        Ok(Terms {
            config: self,
            workload,
            adapted,
            head_rank,
            tokens: workload.tokens(),
            b: workload.compute_dtype.bytes() as u128,
        })
    }

    /// The projections of every block, each with the rank of the adapter that it is to carry, and that of the head's.
    fn adapted(&self, lora: &LoraConfig) -> Result<(Vec<AdaptedBlock>, Option<usize>), LoraError> {
        let (layers, head) =
            lora.of_layers_and_head(&self.projection_paths(), Some(self.head_path()))?;
        let mut ranks = layers
            .into_iter()
            .map(|layer| layer.map(|layer| layer.rank));
        let mut block = |layer: &LayerConfig| AdaptedBlock {
            window: layer.window,
            projections: self
                .projections()
                .map(|spec| (spec, ranks.next().flatten())),
        };
        let blocks = self.layers.iter().map(&mut block).collect();
        Ok((blocks, head.map(|head| head.rank)))
    }
}

/// A projection and the rank of its adapter, `None` for no adapter.
type Adapted = (ProjectionSpec, Option<usize>);

/// A block and its adapters.
struct AdaptedBlock {
    /// Keys that a query sees; `None` for all.
    window: Option<usize>,
    /// The projections, each with the rank of its adapter, `None` for no adapter.
    projections: BlockProjections<Adapted>,
}

impl AdaptedBlock {
    fn is_adapted(&self) -> bool {
        self.ranks().next().is_some()
    }

    /// Returns the ranks of the adapters.
    fn ranks(&self) -> impl Iterator<Item = usize> {
        self.projections.iter().filter_map(|(_, rank)| *rank)
    }
}

/// A model and a workload, from which the terms follow.
struct Terms<'a> {
    config: &'a DecoderConfig,
    workload: &'a Workload,
    adapted: Vec<AdaptedBlock>,
    /// The rank of the head's adapter, `None` for no adapter.
    head_rank: Option<usize>,
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

    /// Returns a tensor `[tokens, width]` in the compute dtype.
    fn rows(&self, width: u128) -> Tensors {
        Tensors::one(self.tokens * width * self.b)
    }

    /// Returns what the norm of `[tokens, hidden]` takes.
    fn norm(&self) -> OpMemory {
        self.norm_of(self.tokens as usize, self.config.hidden_size)
    }

    /// Returns what the norm of `[rows, n]` takes.
    fn norm_of(&self, rows: usize, n: usize) -> OpMemory {
        let Workload {
            kernels,
            compute_dtype,
            ..
        } = self.workload;
        kernels.rms_norm(rows, n, compute_dtype.dtype())
    }

    /// Returns the number of norms `[tokens, hidden]` of attention, and as many of the MLP.
    fn norms(&self) -> u128 {
        let placement = self.config.norm_placement;
        u128::from(placement.before()) + u128::from(placement.after())
    }

    /// Returns what the product of the two halves of the MLP takes, `[tokens, intermediate]`.
    fn glu(&self) -> OpMemory {
        let elements = (self.tokens * self.inner()) as usize;
        self.workload
            .kernels
            .glu(elements, self.workload.compute_dtype.dtype())
    }

    /// Returns what attention takes in a block of that window.
    fn attention(&self, window: Option<usize>) -> OpMemory {
        let Workload {
            kernels,
            compute_dtype,
            seq,
            ..
        } = *self.workload;
        let kv_heads = self.config.num_key_value_heads;
        let shape = AttentionShape {
            batch: (self.tokens / seq.max(1) as u128) as usize,
            q_len: seq,
            kv_len: seq,
            kv_heads,
            group: self.config.num_attention_heads / kv_heads.max(1),
            head_dim: self.config.head_dim,
        };
        let scores = AttentionConfig::new(self.config.attention_scale())
            .with_softcap(self.config.attention_softcap)
            .with_window(window);
        kernels.attention(&shape, scores, compute_dtype.dtype())
    }

    /// Returns what the loss takes, of the head's product with `[tokens, hidden]`.
    fn loss(&self) -> OpMemory {
        let Workload {
            kernels,
            compute_dtype,
            ..
        } = self.workload;
        let weight = [self.config.vocab_size, self.config.hidden_size];
        let (tokens, dtype) = (self.tokens as usize, compute_dtype.dtype());
        match self.head_rank {
            Some(rank) => kernels.lora_linear_cross_entropy(tokens, weight, rank, dtype),
            None => kernels.linear_cross_entropy(tokens, weight, false, dtype),
        }
    }

    /// The largest rank of an adapter.
    fn largest_rank(&self) -> usize {
        let ranks = self.adapted.iter().flat_map(AdaptedBlock::ranks);
        ranks
            .chain(self.head_rank)
            .max()
            .unwrap_or(self.workload.lora.rank)
    }

    /// The blocks from the first adapted one on, or all where rows of the embedding are trained: below nothing is kept.
    fn trained(&self) -> &[AdaptedBlock] {
        if self.token_rows()[0] > 0 {
            return &self.adapted;
        }
        let first = self.adapted.iter().position(AdaptedBlock::is_adapted);
        &self.adapted[first.unwrap_or(self.adapted.len())..]
    }
}
