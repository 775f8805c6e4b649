//! The product with a quantized matrix and a low-rank one.

use std::any::TypeId;
use std::mem::MaybeUninit;

use nf4::{Direction, MatrixRef};
use rayon::prelude::*;

use super::super::check::assert_len;
use super::super::gemm::{MC, Term, gemm, gemm_sum, mr, pack_into};
use super::super::gemv;
use super::super::output::Output;
use super::super::pack_b::{Blocks, DenseColumns, MatrixB, QuantizedRows};
use super::super::packed_a::{PackedA, PackedARef, Packing};
use super::super::precision::{Precision, WordFormat, in_precisions_of};
use super::factors::LowRank;
use crate::buffer::{as_uninit, written};
use crate::codebook::CodebookRef;
use crate::cpu::{Cpu, Threads};
use crate::element::Element;

/// Micro-panels of a band at most: with twelve rows in each and two thousand values in a row, 400 KiB of bf16.
const MAX_BAND: usize = 8;

/// Returns `y = x·Wᵀ + s·(x·A)·B`, `[m, out_features]`.
///
/// `x: [m, in_features]`. With bf16 the factors are rounded to it, and so is `s·(x·A)`.
///
/// # Panics
/// If a length does not fit `m`, the rank and the matrix's shape.
pub fn forward<E: Element>(w: MatrixRef<'_>, low_rank: LowRank<'_>, x: &[E], m: usize) -> Vec<E> {
    Cpu::default().low_rank_forward(w, low_rank, x, m)
}

impl Cpu {
    /// Returns the product of `x` with a quantized matrix and a low-rank one:
    /// [`low_rank::forward`](crate::low_rank::forward).
    ///
    /// # Panics
    /// If a length does not fit `m`, the rank and the matrix's shape.
    pub fn low_rank_forward<E: Element>(
        self,
        w: MatrixRef<'_>,
        low_rank: LowRank<'_>,
        x: &[E],
        m: usize,
    ) -> Vec<E> {
        let shape @ [n, k] = w.layout().shape();
        assert_len("x", x.len(), [m, k]);
        low_rank.assert_fits(shape);
        if m == 0 || n == 0 || k == 0 {
            return vec![E::default(); m * n];
        }
        if gemv::serves(shape, m) {
            // SAFETY: the product writes every value of `y`.
            let mut y = unsafe {
                written(m * n, |y| {
                    gemv::multiply(self, w, x, m, y, Direction::Forward);
                })
            };
            add_few_rows(low_rank, x, &mut y, shape);
            return y;
        }
        // SAFETY: the products write every value of `y`, some rows each.
        unsafe {
            written(m * n, |y| {
                for (x, y) in x.chunks(MC * k).zip(y.chunks_mut(MC * n)) {
                    in_precisions_of!(self, E, P, Q => multiply_rows::<P, Q, E>(self, w, low_rank, x, y));
                }
            })
        }
    }
}

fn multiply_rows<P: WordFormat, Q: Precision, E: Element>(
    cpu: Cpu,
    w: MatrixRef<'_>,
    low_rank: LowRank<'_>,
    x: &[E],
    y: &mut [MaybeUninit<E>],
) {
    let [n, k] = w.layout().shape();
    let LowRank { a, b, rank, scale } = low_rank;
    let m = x.len() / k;
    let onto_a = Projection {
        cpu,
        factor: DenseColumns::new(a, rank),
        rank,
        scale,
        packing: Packing::<P>::new(mr(cpu.isa, m), k),
    };
    let mut projected = Projected::<P, Q>::unfilled(m, onto_a.packing, rank);
    onto_a.fill(x, &mut projected);
    let b = DenseColumns::new(b, n);
    match CodebookRef::of(w) {
        Some(w) => projected.multiply(cpu, QuantizedRows(w), b, y),
        None => projected.multiply(cpu, Blocks::new(cpu, w, Direction::Forward), b, y),
    }
}

/// Adds `s·(x·A)·B` to `y` for few rows, row by row of the factors.
fn add_few_rows<E: Element>(low_rank: LowRank<'_>, x: &[E], y: &mut [E], [n, k]: [usize; 2]) {
    let LowRank { a, b, rank, scale } = low_rank;
    let mut sums = vec![0.0; n];
    let mut projected = vec![0.0; rank];
    for (x, y) in x.chunks_exact(k).zip(y.chunks_exact_mut(n)) {
        projected.fill(0.0);
        for (x, a) in x.iter().zip(a.chunks_exact(rank)) {
            let x = x.to_f32();
            projected
                .iter_mut()
                .zip(a)
                .for_each(|(sum, a)| *sum += x * a);
        }
        sums.iter_mut()
            .zip(&*y)
            .for_each(|(sum, y)| *sum = y.to_f32());
        for (projected, b) in projected.iter().zip(b.chunks_exact(n)) {
            let projected = projected * scale;
            sums.iter_mut()
                .zip(b)
                .for_each(|(sum, b)| *sum += projected * b);
        }
        y.iter_mut()
            .zip(&sums)
            .for_each(|(y, sum)| *y = E::from_f32(*sum));
    }
}

/// The projection `s·(x·F)` onto a thin matrix `F: [k, rank]`, which takes the rows of `x` band by band while they are in
/// the cache.
#[derive(Clone, Copy)]
pub(super) struct Projection<P, F> {
    pub(super) cpu: Cpu,
    pub(super) factor: F,
    pub(super) rank: usize,
    pub(super) scale: f32,
    /// The format that `x` is packed in to be projected.
    pub(super) packing: Packing<P>,
}

/// Rows that are packed for the product with a quantized matrix, in `Q`, and their projection.
pub(super) struct Projected<P, Q> {
    x: PackedA<Q>,
    /// `s·(x·F): [m, rank]`.
    pub(super) values: Vec<f32>,
    /// The same, packed in micro-panels of as many rows as those of `x`.
    packed: PackedA<P>,
}

impl<P: WordFormat, Q: Precision> Projected<P, Q> {
    /// Returns room for `m` rows. Made and dropped by the same thread, whose scratch it is in.
    pub(super) fn unfilled(m: usize, packing: Packing<P>, rank: usize) -> Self {
        let panels = m.div_ceil(packing.mr());
        Self {
            x: PackedA::unfilled(panels, Packing::new(packing.mr(), packing.k())),
            values: vec![0.0; m * rank],
            packed: PackedA::unfilled(panels, Packing::new(packing.mr(), rank)),
        }
    }

    /// Writes `y = x·W + s·(x·F)·factor`.
    pub(super) fn multiply<W: MatrixB, L: MatrixB, E: Element>(
        &self,
        cpu: Cpu,
        w: W,
        factor: L,
        y: &mut [MaybeUninit<E>],
    ) {
        let first = Term {
            a: self.x.as_ref(),
            b: w,
        };
        let second = Term {
            a: self.packed.as_ref(),
            b: factor,
        };
        gemm_sum(cpu, &first, Some(&second), Output::New(y));
    }
}

impl<P: WordFormat, F: MatrixB> Projection<P, F> {
    /// Packs the rows `x`, and projects them.
    pub(super) fn fill<Q: Precision, E: Element>(&self, x: &[E], to: &mut Projected<P, Q>) {
        let (mr, k) = (self.packing.mr(), self.packing.k());
        let wide = Packing::<Q>::new(mr, k);
        let thin = Packing::<P>::new(mr, self.rank);
        let band = self.band(x.len());
        let words = to.x.words_mut();
        let packed = to.packed.words_mut();
        words
            .par_chunks_mut(band * wide.panel_words())
            .zip(packed.par_chunks_mut(band * thin.panel_words()))
            .zip(to.values.par_chunks_mut(band * mr * self.rank))
            .zip(x.par_chunks(band * mr * k))
            .with_min_len(self.cpu.threads.min_len(1))
            .with_max_len(1)
            .for_each(|(((words, packed), values), x)| {
                if TypeId::of::<P>() == TypeId::of::<Q>() {
                    self.project(x, words, values);
                } else {
                    self.project_band(x, values);
                    pack_into(self.cpu.isa, wide, x, words);
                }
                pack_into(self.cpu.isa, thin, values, packed);
            });
    }

    /// Returns the projection of the rows `x` alone, `[m, rank]`.
    pub(super) fn of_rows<E: Element>(&self, x: &[E]) -> Vec<f32> {
        let (mr, k) = (self.packing.mr(), self.packing.k());
        let mut values = vec![0.0; x.len() / k * self.rank];
        let band = self.band(x.len());
        values
            .par_chunks_mut(band * mr * self.rank)
            .zip(x.par_chunks(band * mr * k))
            .with_min_len(self.cpu.threads.min_len(1))
            .with_max_len(1)
            .for_each(|(values, x)| self.project_band(x, values));
        values
    }

    /// Projects the rows of a band on the calling thread.
    fn project_band<E: Element>(&self, x: &[E], values: &mut [f32]) {
        let (mr, k) = (self.packing.mr(), self.packing.k());
        let panels = (x.len() / k).div_ceil(mr);
        let mut packed = PackedA::unfilled(panels, self.packing);
        self.project(x, packed.words_mut(), values);
    }

    /// Packs the rows of a band into `words`, and projects them on the calling thread.
    fn project<E: Element>(&self, x: &[E], words: &mut [u32], values: &mut [f32]) {
        let Cpu { isa, .. } = self.cpu;
        pack_into(isa, self.packing, x, words);
        let x = PackedARef::new(words, self.packing);
        // SAFETY: products write nothing but values.
        let y = Output::New(unsafe { as_uninit(values) });
        gemm(Cpu::new(isa, Threads::Calling), x, self.factor, y);
        values.iter_mut().for_each(|value| *value *= self.scale);
    }

    /// Returns the micro-panels of a band of `len` values: several bands for every thread, so that all are busy to the end.
    fn band(&self, len: usize) -> usize {
        let panels = (len / self.packing.k()).div_ceil(self.packing.mr());
        band(self.cpu, panels)
    }
}

/// Returns the micro-panels of a band of `panels`.
pub(super) fn band(cpu: Cpu, panels: usize) -> usize {
    panels.div_ceil(4 * cpu.threads.count()).clamp(1, MAX_BAND)
}
