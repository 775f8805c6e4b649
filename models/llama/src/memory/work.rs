//! What a training step computes.

use burn_qlora::{Checkpointing, LoraError};

use super::{AdaptedBlock, Terms, Workload};
use crate::config::DecoderConfig;

impl DecoderConfig {
    /// Returns the floating-point operations of the matrix products of a micro-batch, forward and back; a multiplication with its
    /// addition counts as two. What is done for each element beside them takes little.
    ///
    /// # Errors
    /// As for [`memory`](Self::memory).
    pub fn operations(&self, workload: &Workload) -> Result<u128, LoraError> {
        Ok(self.terms(workload)?.operations())
    }
}

impl Terms<'_> {
    fn operations(&self) -> u128 {
        let trained = self.trained();
        let frozen = &self.adapted[..self.adapted.len() - trained.len()];
        let below: u128 = frozen.iter().map(|block| self.forward(block)).sum();
        let blocks: u128 = trained.iter().map(|block| self.whole(block)).sum();
        let [embedding_width, vocab] = [self.hidden(), self.config.vocab_size as u128];
        // The logits and the gradient of the hidden states.
        let head = 2 * 2 * self.tokens * embedding_width * vocab;
        let rank = self.head_rank.map_or(0, |rank| rank as u128);
        let head_adapter = 3 * 2 * self.tokens * rank * (embedding_width + vocab);
        below + blocks + head + head_adapter
    }

    /// A block's forward pass.
    fn forward(&self, block: &AdaptedBlock) -> u128 {
        self.products(block) + self.adapter_products(block) + self.scores(block)
    }

    /// A block's forward pass, as often as it runs, and its backward pass: the gradient of the rows that go into its products, both
    /// gradients of those of adapters, and five products of scores where forward there are two.
    fn whole(&self, block: &AdaptedBlock) -> u128 {
        let forward = match self.workload.checkpointing {
            Checkpointing::None => 1,
            Checkpointing::Layer => 2,
        };
        let backward =
            self.products(block) + 2 * self.adapter_products(block) + self.scores(block) * 5 / 2;
        forward * self.forward(block) + backward
    }

    /// The products with the frozen weights of a block.
    fn products(&self, block: &AdaptedBlock) -> u128 {
        let weights = block.projections.iter().map(|(spec, _)| {
            let [rows, columns] = spec.shape;
            rows as u128 * columns as u128
        });
        2 * self.tokens * weights.sum::<u128>()
    }

    /// Those with its adapters.
    fn adapter_products(&self, block: &AdaptedBlock) -> u128 {
        let factors = block.projections.iter().map(|(spec, rank)| {
            let [rows, columns] = spec.shape;
            rank.unwrap_or(0) as u128 * (rows + columns) as u128
        });
        2 * self.tokens * factors.sum::<u128>()
    }

    /// Scores of queries with the keys before them, as far as the window reaches, and what they weigh.
    fn scores(&self, block: &AdaptedBlock) -> u128 {
        let seq = self.workload.seq.max(1) as u128;
        let window = block.window.map_or(seq, |window| seq.min(window as u128));
        // The first queries see fewer keys.
        let pairs = window * (window + 1) / 2 + (seq - window) * window;
        2 * 2 * self.tokens / seq * pairs * self.wide()
    }
}
