//! Weights and adapters.

use burn_qlora::{Checkpointing, loftq_bytes};
use nf4::Layout;

use super::{F32, ProjectionFormats, Tensors, Terms};
use crate::tensors::TensorSpec;

impl Terms<'_> {
    /// `packed` and `absmax` of q, k, v, o, gate, up and down of every block: 4.127 bits a weight by default. Of paged weights those
    /// that stay, those of the block that a graph is of, and the largest twice, which is read ahead.
    pub(super) fn quantized(&self) -> Tensors {
        if self.paged() == 0 || self.workload.checkpointing == Checkpointing::None {
            return self.words();
        }
        let stay = self.words().bytes() - self.paged();
        Tensors::one((stay + self.passing()).into())
    }

    /// The paged weights that are there at once, in bytes.
    pub(super) fn passing(&self) -> u64 {
        let paged = self.paged();
        if self.workload.checkpointing == Checkpointing::None {
            return paged;
        }
        let layouts = self.layouts().map(|layout| words(&layout).bytes());
        let largest = layouts.max().unwrap_or(0);
        let blocks = self.config.layers.len().max(1) as u64;
        let block = self.words().bytes().div_ceil(blocks);
        let passing = block.saturating_add(largest.saturating_mul(2));
        passing.min(paged)
    }

    /// The packed weights that do not stay on the device, in bytes.
    pub(super) fn paged(&self) -> u64 {
        let all = self.words().bytes();
        all - self.workload.weights_budget.most(all)
    }

    fn words(&self) -> Tensors {
        self.layouts().map(|layout| words(&layout)).sum()
    }

    /// Returns the layouts of the projections that are quantized.
    fn layouts(&self) -> impl Iterator<Item = Layout> {
        let tensors = self.config.tensors().into_iter();
        tensors.filter_map(move |tensor| self.layout(&tensor))
    }

    /// Returns the layout of a tensor, if it is a projection that is quantized.
    fn layout(&self, tensor: &TensorSpec) -> Option<Layout> {
        let &[rows, columns] = tensor.shape.as_slice() else {
            return None;
        };
        let format = self.workload.quantization.of(&tensor.name)?;
        let projection = tensor.projection.then_some(format)?;
        Layout::new([rows, columns], projection).ok()
    }

    /// In the compute dtype: embedding and head `[vocab, hidden]` (one if they are tied, and the adapter brings none of its own),
    /// the norms `[hidden]`, the biases, and the projections if they are not quantized.
    pub(super) fn dense(&self) -> Tensors {
        self.kept_dense().map(|n| Tensors::one(n * self.b)).sum()
    }

    /// Returns the elements of every tensor that stays dense.
    fn kept_dense(&self) -> impl Iterator<Item = u128> {
        let is_untied =
            self.config.tie_word_embeddings && !self.workload.lora.modules_to_save.is_empty();
        let head = is_untied.then(|| self.config.vocab_size as u128 * self.hidden());
        let tensors = self.config.tensors().into_iter().filter_map(move |tensor| {
            let packed = self.layout(&tensor).is_some();
            (!packed).then(|| tensor.shape.iter().map(|&n| n as u128).product::<u128>())
        });
        tensors.chain(head)
    }

    /// `A: [in, rank]` and `B: [rank, out]` of every adapted projection and of an adapted head, and the rows of tokens,
    /// `[tokens, hidden]`.
    pub(super) fn factors(&self) -> Vec<[usize; 2]> {
        let blocks = self.adapted.iter();
        let projections = blocks.flat_map(|block| block.projections.iter());
        let head = self
            .head_rank
            .map(|rank| ([self.config.vocab_size, self.config.hidden_size], rank));
        projections
            .filter_map(|(spec, rank)| Some((spec.shape, (*rank)?)))
            .chain(head)
            .flat_map(|([out_features, in_features], rank)| {
                [[in_features, rank], [rank, out_features]]
            })
            .chain(self.token_parameters())
            .collect()
    }

    /// The dense weight of an adapted projection, f32, and what its adapter is fitted in.
    pub(super) fn fitting(&self) -> u64 {
        let blocks = self.adapted.iter();
        let projections = blocks.flat_map(|block| block.projections.iter());
        let adapted = projections.filter_map(|(spec, rank)| Some((spec.shape, (*rank)?)));
        let bytes = adapted.map(|([rows, columns], rank)| {
            let dense = (rows as u64).saturating_mul(columns as u64);
            let dense = dense.saturating_mul(F32 as u64);
            dense.saturating_add(loftq_bytes([rows, columns], rank))
        });
        bytes.max().unwrap_or(0)
    }

    /// The largest tensor as it is read, in f32: embedding or head, `[vocab, hidden]`, if they become another dtype, or
    /// a projection that is quantized. What is to be f32 is taken as it is; blocks that are kept are read into no more
    /// bytes than their words take.
    pub(super) fn loading(&self) -> u128 {
        let kept = matches!(self.workload.quantization, ProjectionFormats::Stored(_));
        let sources = self.config.tensors().into_iter().filter_map(|tensor| {
            let values: u128 = tensor.shape.iter().map(|&n| n as u128).product();
            match self.layout(&tensor) {
                Some(layout) if kept => Some(layout.bytes() as u128),
                Some(_) => Some(values * F32),
                None => (self.b != F32).then_some(values * F32),
            }
        });
        sources.max().unwrap_or(0)
    }

    /// The largest weight on the device: a dense one, or packed words.
    pub(super) fn largest_weight(&self) -> u128 {
        let words = self
            .layouts()
            .map(|layout| 4 * layout.packed_words() as u128);
        let dense = self.kept_dense().map(|n| n * self.b);
        dense.chain(words).max().unwrap_or(0)
    }

    /// The largest tensor beside the weights: a factor, the rows of the MLP in f32, or what attention or the loss
    /// allocates.
    pub(super) fn largest(&self) -> u128 {
        let projections = self.config.projections();
        let widths = projections.iter().map(|spec| spec.shape[0] as u128);
        let rows = widths.chain([self.inner(), self.wide()]);
        let rows = rows.map(|width| self.tokens * width * F32);
        let factors = self.factors().into_iter();
        let factors = factors.map(|[rows, columns]| F32 * rows as u128 * columns as u128);
        let windows = self.config.layers.iter().map(|layer| layer.window);
        let attention = windows.map(|window| self.attention(window).largest);
        let rows_of_tokens = self.token_rows().into_iter();
        let rows_of_tokens = rows_of_tokens.map(|rows| self.tokens * rows as u128 * F32);
        let factors = factors.chain(rows_of_tokens);
        let others = factors.chain(attention).chain([self.loss().largest]);
        rows.chain(others).max().unwrap_or(0)
    }
}

/// Returns the two buffers of a quantized matrix.
fn words(layout: &Layout) -> Tensors {
    let buffer = |words: usize| Tensors::one(4 * words as u128);
    buffer(layout.packed_words()) + buffer(layout.absmax_words())
}
