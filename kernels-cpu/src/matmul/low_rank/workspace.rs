//! The memory that the products with a low-rank matrix need.

use std::any::TypeId;

use nf4::Direction;

use super::super::gemm::{MC, mr, packed_bytes, task_bytes};
use super::super::gemv;
use super::super::packed_a::Packing;
use super::super::precision::{Precision, in_precisions_of};
use super::forward::band;
use crate::cpu::{Cpu, Threads};
use crate::element::Element;

const F32: usize = size_of::<f32>();

impl Cpu {
    /// Returns the bytes that [`Cpu::low_rank_forward`] of `m` rows of `E` and a matrix `[out_features, in_features]` holds
    /// while it runs, beside its operands and its result.
    ///
    /// With `k` the width of `x` and `m` at most 1024, these are `m·(k + rank)` packed values of x and its projection (2
    /// bytes each if they are bf16, else 4), `m·rank` f32, and for each thread a block of packed weights and one of sums, at
    /// most 256 KiB each.
    pub fn low_rank_forward_workspace<E: Element>(
        self,
        m: usize,
        shape: [usize; 2],
        rank: usize,
    ) -> usize {
        let [n, k] = shape;
        if gemv::serves(shape, m) {
            return gemv::workspace::<E>(m, shape, Direction::Forward) + m * rank * F32;
        }
        in_precisions_of!(self, E, P, Q => {
            let of_band = self.band_task_bytes::<P, Q>(m, k, rank);
            let task = task_bytes::<Q, P>(self, [m, n, k], rank).max(of_band);
            projected_bytes::<P, Q>(self, m, k, rank) + self.threads.count() * task
        })
    }

    /// Returns the bytes that [`Cpu::low_rank_backward`] holds while it runs, beside its operands and its results.
    ///
    /// Beside what [`Cpu::low_rank_forward_workspace`] counts, for `dy` in place of `x`, these are the projection of `x` and
    /// `k·rank` f32, and for each thread a band of packed rows of `x`.
    pub fn low_rank_backward_workspace<E: Element>(
        self,
        m: usize,
        shape: [usize; 2],
        rank: usize,
    ) -> usize {
        let [n, k] = shape;
        let rows = m.min(MC);
        in_precisions_of!(self, E, P, Q => {
            let panels = rows.div_ceil(mr(self.isa, rows));
            let band_rows = band(self, panels.max(1)) * mr(self.isa, rows);
            let task = [
                task_bytes::<Q, P>(self, [m, k, n], rank),
                task_bytes::<P, P>(self, [rank, n, rows], 0),
                task_bytes::<P, P>(self, [rank, k, rows], 0),
                self.band_task_bytes::<P, Q>(m, n, rank),
                self.band_task_bytes::<P, P>(m, k, rank),
            ];
            let task = task.into_iter().max().unwrap_or(0);
            let of_thread = task + band_rows * P::a_words(k) * size_of::<u32>();
            projected_bytes::<P, Q>(self, m, n, rank)
                + rows * rank * F32
                + rank * k * F32
                + packed_bytes::<P>(self, rank, rows)
                + self.threads.count() * of_thread
        })
    }

    /// Returns the most bytes that the projection of a band packs of the factor and sums up, and packs of the band itself
    /// where the product with the matrix takes it in another precision.
    fn band_task_bytes<P: Precision, Q: Precision>(self, m: usize, k: usize, rank: usize) -> usize {
        let m = m.min(MC);
        let mr = mr(self.isa, m);
        let rows = band(self, m.div_ceil(mr).max(1)) * mr;
        let one = Cpu {
            threads: Threads::Calling,
            ..self
        };
        let packed = if TypeId::of::<P>() == TypeId::of::<Q>() {
            0
        } else {
            rows * P::a_words(k) * size_of::<u32>()
        };
        task_bytes::<P, P>(one, [rows, rank, k], 0) + packed
    }
}

/// Returns the bytes of packed rows and their projection.
fn projected_bytes<P: Precision, Q: Precision>(cpu: Cpu, m: usize, k: usize, rank: usize) -> usize {
    let m = m.min(MC);
    let thin = Packing::<P>::new(mr(cpu.isa, m), rank);
    let panels = m.div_ceil(thin.mr());
    packed_bytes::<Q>(cpu, m, k) + m * rank * F32 + panels * thin.panel_words() * size_of::<u32>()
}
