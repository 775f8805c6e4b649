//! The product with a quantized matrix and a low-rank one.

use std::any::TypeId;
use std::mem::MaybeUninit;
use std::ops::Range;

use nf4::{Direction, MatrixRef};
use rayon::prelude::*;

use super::super::gemm::{MC, Term, gemm, gemm_sum, mr, pack_into, pack_on_all};
use super::super::output::Output;
use super::super::pack_b::{Blocks, DenseColumns, MatrixB, QuantizedRows};
use super::super::packed_a::{PackedA, PackedARef, Packing};
use super::super::precision::{Precision, WordFormat, in_precisions_of};
use super::factors::{LowRank, SideBySide};
use super::layers::Layer;
use crate::buffer::as_uninit;
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
        let layer = Layer {
            w,
            low_rank: Some(low_rank),
        };
        self.layers_forward(&[layer], x, m).remove(0)
    }
}

/// Returns the results of all layers, each `[m, out_features]`, for more than a few rows `x: [m, in_features]`.
pub(super) fn many_rows<E: Element>(
    cpu: Cpu,
    layers: &[Layer<'_>],
    x: &[E],
    m: usize,
) -> Vec<Vec<E>> {
    let k = x.len() / m;
    let factors = SideBySide::new(layers);
    let width = |layer: &Layer<'_>| layer.w.layout().out_features();
    let mut ys: Vec<Vec<E>> = layers
        .iter()
        .map(|layer| Vec::with_capacity(m * width(layer)))
        .collect();
    for (start, x) in (0..m).step_by(MC).zip(x.chunks(MC * k)) {
        let end = start + x.len() / k;
        let parts = ys.iter_mut().zip(layers).map(|(y, layer)| {
            let n = width(layer);
            &mut y.spare_capacity_mut()[start * n..end * n]
        });
        let parts = parts.collect();
        in_precisions_of!(cpu, E, P, Q => multiply_rows::<P, Q, E>(cpu, layers, &factors, x, parts));
    }
    for (y, layer) in ys.iter_mut().zip(layers) {
        // SAFETY: the products wrote every value, some rows each.
        unsafe { y.set_len(m * width(layer)) };
    }
    ys
}

fn multiply_rows<P: WordFormat, Q: Precision, E: Element>(
    cpu: Cpu,
    layers: &[Layer<'_>],
    factors: &SideBySide<'_>,
    x: &[E],
    ys: Vec<&mut [MaybeUninit<E>]>,
) {
    let k = layers[0].w.layout().in_features();
    let m = x.len() / k;
    let onto_a = Projection {
        cpu,
        factor: DenseColumns::new(&factors.a, factors.ranks()),
        scales: &factors.scales,
        packing: Packing::<P>::new(mr(cpu.isa, m), k),
    };
    let mut projected = Projected::<Q>::unfilled(m, onto_a.packing, factors.ranks());
    onto_a.fill(x, &mut projected);
    for ((layer, columns), y) in layers.iter().zip(&factors.columns).zip(ys) {
        if y.is_empty() {
            continue;
        }
        let low_rank = layer.low_rank.map(|LowRank { b, .. }| {
            let n = layer.w.layout().out_features();
            let packed = projected.columns::<P>(cpu, columns.clone());
            (packed, DenseColumns::new(b, n))
        });
        let y = Output::New(y);
        match CodebookRef::of(layer.w) {
            Some(w) => projected.multiply(cpu, QuantizedRows(w), low_rank, y),
            None => {
                let w = Blocks::new(cpu, layer.w, Direction::Forward);
                projected.multiply(cpu, w, low_rank, y);
            }
        }
    }
}

/// The projection `s·(x·F)` onto a thin matrix `F: [k, ranks]`, which takes the rows of `x` band by band while they are in
/// the cache.
#[derive(Clone, Copy)]
pub(super) struct Projection<'a, P, F> {
    pub(super) cpu: Cpu,
    pub(super) factor: F,
    /// That of each column.
    pub(super) scales: &'a [f32],
    /// The format that `x` is packed in to be projected.
    pub(super) packing: Packing<P>,
}

/// Rows that are packed for products with quantized matrices, in `Q`, and their projection.
pub(super) struct Projected<Q> {
    x: PackedA<Q>,
    /// `s·(x·F): [m, ranks]`.
    pub(super) values: Vec<f32>,
    ranks: usize,
}

impl<Q: Precision> Projected<Q> {
    /// Returns room for `m` rows. Made and dropped by the same thread, whose scratch it is in.
    pub(super) fn unfilled<P: Precision>(m: usize, packing: Packing<P>, ranks: usize) -> Self {
        let panels = m.div_ceil(packing.mr());
        Self {
            x: PackedA::unfilled(panels, Packing::new(packing.mr(), packing.k())),
            values: vec![0.0; m * ranks],
            ranks,
        }
    }

    /// Returns some columns of the projection, packed in micro-panels of as many rows as those of `x`.
    pub(super) fn columns<P: WordFormat>(&self, cpu: Cpu, columns: Range<usize>) -> PackedA<P> {
        let mr = self.x.as_ref().packing().mr();
        let packing = Packing::new(mr, columns.len());
        let mut packed = PackedA::unfilled(self.x.as_ref().panels(), packing);
        if columns.len() == self.ranks {
            pack_into(cpu.isa, packing, &self.values, packed.words_mut());
            return packed;
        }
        let rows = self.values.chunks_exact(self.ranks);
        let values: Vec<f32> = rows
            .flat_map(|row| &row[columns.clone()])
            .copied()
            .collect();
        pack_into(cpu.isa, packing, &values, packed.words_mut());
        packed
    }

    /// Writes `y = x·W`, or adds it, and with packed columns of the projection and a factor their product.
    pub(super) fn multiply<W: MatrixB, P: Precision, L: MatrixB, E: Element>(
        &self,
        cpu: Cpu,
        w: W,
        low_rank: Option<(PackedA<P>, L)>,
        y: Output<'_, E>,
    ) {
        let first = Term {
            a: self.x.as_ref(),
            b: w,
        };
        let second = low_rank.as_ref().map(|(packed, factor)| Term {
            a: packed.as_ref(),
            b: *factor,
        });
        gemm_sum(cpu, &first, second.as_ref(), y);
    }
}

impl<P: WordFormat, F: MatrixB> Projection<'_, P, F> {
    /// Packs the rows `x`, and projects them if there are columns to project onto.
    pub(super) fn fill<Q: Precision, E: Element>(&self, x: &[E], to: &mut Projected<Q>) {
        let (mr, k) = (self.packing.mr(), self.packing.k());
        let wide = Packing::<Q>::new(mr, k);
        if self.scales.is_empty() {
            return pack_on_all(self.cpu, wide, x, to.x.words_mut());
        }
        let band = self.band(x.len());
        to.x.words_mut()
            .par_chunks_mut(band * wide.panel_words())
            .zip(to.values.par_chunks_mut(band * mr * self.scales.len()))
            .zip(x.par_chunks(band * mr * k))
            .with_min_len(self.cpu.threads.min_len(1))
            .with_max_len(1)
            .for_each(|((words, values), x)| {
                if TypeId::of::<P>() == TypeId::of::<Q>() {
                    self.project(x, words, values);
                } else {
                    self.project_band(x, values);
                    pack_into(self.cpu.isa, wide, x, words);
                }
            });
    }

    /// Returns the projection of the rows `x` alone, `[m, ranks]`.
    pub(super) fn of_rows<E: Element>(&self, x: &[E]) -> Vec<f32> {
        let (mr, k) = (self.packing.mr(), self.packing.k());
        let ranks = self.scales.len();
        let mut values = vec![0.0; x.len() / k * ranks];
        if values.is_empty() {
            return values;
        }
        let band = self.band(x.len());
        values
            .par_chunks_mut(band * mr * ranks)
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
        for row in values.chunks_exact_mut(self.scales.len()) {
            row.iter_mut()
                .zip(self.scales)
                .for_each(|(value, scale)| *value *= scale);
        }
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
