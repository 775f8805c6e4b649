//! The layers that have one input in common, as the projections of an attention to queries, keys and values have.

use nf4::MatrixRef;

use super::super::check::assert_len;
use super::super::gemv;
use super::factors::LowRank;
use super::forward::many_rows;
use crate::cpu::Cpu;
use crate::element::Element;

/// A linear layer: a quantized matrix, with a low-rank one on top of it if it is adapted.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// `[out_features, in_features]`.
    pub w: MatrixRef<'a>,
    /// The low-rank matrix.
    pub low_rank: Option<LowRank<'a>>,
}

impl Cpu {
    /// Returns `x·Wᵀ + s·(x·A)·B` for each of some layers, `[m, out_features]`: what
    /// [`matmul_vec`](Self::matmul_vec) and [`low_rank_forward`](Self::low_rank_forward) give for it alone. `x` is packed once.
    ///
    /// `x: [m, in_features]`.
    ///
    /// # Panics
    /// If a length does not fit `m`, the rank and a matrix's shape.
    pub fn layers_forward<E: Element>(
        self,
        layers: &[Layer<'_>],
        x: &[E],
        m: usize,
    ) -> Vec<Vec<E>> {
        for Layer { w, low_rank } in layers {
            let shape @ [_, k] = w.layout().shape();
            assert_len("x", x.len(), [m, k]);
            if let Some(low_rank) = low_rank {
                low_rank.assert_fits(shape);
            }
        }
        if x.is_empty() {
            let zeros = |layer: &Layer<'_>| vec![E::default(); m * layer.w.layout().shape()[0]];
            return layers.iter().map(zeros).collect();
        }
        let are_few = |layer: &Layer<'_>| gemv::serves(layer.w.layout().shape(), m);
        if layers.iter().all(are_few) {
            gemv::forward(self, layers, x, m)
        } else {
            many_rows(self, layers, x, m)
        }
    }
}
