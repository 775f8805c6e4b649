//! What is kept from the forward to the backward pass.

use burn_qlora::Checkpointing;

use super::{Adapted, AdaptedBlock, F32, Tensors, Terms};

impl Terms<'_> {
    /// Without checkpointing, what the lookup of trained rows and every block keep; with it, the input `[tokens, hidden]` of every block.
    pub(super) fn activations(&self) -> Tensors {
        match self.workload.checkpointing {
            Checkpointing::None => {
                let blocks = self.trained().iter().map(|block| self.kept(block));
                self.kept_by_lookup() + blocks.sum()
            }
            Checkpointing::Layer => self.trained().len() as u128 * self.rows(self.hidden()),
        }
    }

    /// What one block's graph keeps.
    pub(super) fn kept(&self, block: &AdaptedBlock) -> Tensors {
        self.kept_by_norms()
            + self.kept_by_query_key_norms()
            + self.kept_by_attention(block)
            + self.kept_by_mlp()
            + self.kept_by_adapters(block)
    }

    /// What goes into each norm, `[tokens, hidden]`, and one f32 a token: `x` and `x + attended` where attention and MLP
    /// are normalized before, what they put out where they are after.
    fn kept_by_norms(&self) -> Tensors {
        2 * self.norms() * Tensors::one(self.norm().saved)
    }

    /// Queries, `[tokens, heads · head_dim]`, and keys, `[tokens, kv_heads · head_dim]`, as they were projected, and one f32 a
    /// piece that is normalized.
    fn kept_by_query_key_norms(&self) -> Tensors {
        let Some(pieces) = self.config.query_key_norm_widths() else {
            return Tensors::default();
        };
        let widths = [self.wide(), self.narrow()];
        let norm = |(width, piece): (u128, usize)| {
            let rows = self.tokens * width / piece as u128;
            Tensors::one(self.norm_of(rows as usize, piece).saved)
        };
        widths.into_iter().zip(pieces).map(norm).sum()
    }

    /// `q` and `out`, `[tokens, heads · head_dim]`, `k` and `v`, `[tokens, kv_heads · head_dim]`, and `lse`,
    /// f32 `[tokens, heads]`. Where one matrix gave `q`, `k` and `v`, the last is a part of that matrix's output and keeps
    /// the rest of it; queries and keys are on their own once they rotate.
    fn kept_by_attention(&self, block: &AdaptedBlock) -> Tensors {
        let rest = if self.config.fused_projections {
            self.rows(self.wide()) + self.rows(self.narrow())
        } else {
            Tensors::default()
        };
        rest + Tensors::one(self.attention(block.window).saved)
    }

    /// `gate` and `up`, `[tokens, intermediate]`.
    pub(super) fn kept_by_mlp(&self) -> Tensors {
        Tensors::one(self.glu().saved)
    }

    /// The inputs of the adapted projections. Without dropout, on packed weights, they are shared: the output of a
    /// norm, or the residual stream, `[tokens, hidden]`, by q, k and v, or by gate and up; that of attention, by o, which
    /// attention keeps anyway; that of the gated product `[tokens, intermediate]`, by down. Else every adapter keeps its own.
    fn kept_by_adapters(&self, block: &AdaptedBlock) -> Tensors {
        let any = |projections: &[Adapted]| projections.iter().any(|(_, rank)| rank.is_some());
        let plain = self.workload.lora.dropout == 0.0;
        let dense = self.workload.quantization.are_dense();
        let shared = plain && (!dense || self.b == F32);
        let projections = &block.projections;
        let adapted = projections.iter().filter(|(_, rank)| rank.is_some());
        let inputs: Tensors = if shared {
            let input =
                |width| Tensors::one(burn_nf4::lora_saved_bytes(self.tokens, width, self.b));
            [
                (any(&projections.query_key_value), self.hidden()),
                (any(&projections.gate_up), self.hidden()),
                (projections.down.1.is_some(), self.inner()),
            ]
            .into_iter()
            .filter(|(any, _)| *any)
            .map(|(_, width)| input(width))
            .sum()
        } else {
            // A copy in f32, and the mask of dropout in the compute dtype.
            let mask = if plain { 0 } else { self.b };
            let own = |(spec, _): &Adapted| {
                Tensors::one(self.tokens * spec.shape[1] as u128 * (F32 + mask))
            };
            adapted.map(own).sum()
        };
        // Only the operation of both products at once computes `x A`, [tokens, rank], a second time.
        let fused = !dense && plain;
        let inner = |rank: usize| Tensors::one(self.tokens * rank as u128 * F32);
        let kept = if fused {
            Tensors::default()
        } else {
            block.ranks().map(inner).sum()
        };
        inputs + kept
    }
}
