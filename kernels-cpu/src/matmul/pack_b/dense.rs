//! Packing a matrix of numbers.

use super::super::precision::{MAX_KC, WordFormat};
use super::{MatrixB, MicroPanel, Rows, pack_by_rows, set_column};
use crate::element::Element;
use crate::simd::Simd;

/// `Wᵀ` of a dense row-major `W: [n, k]`: its rows are the columns of B.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct DenseRows<'a, E> {
    values: &'a [E],
    n: usize,
    stride: usize,
}

/// A dense row-major `W: [k, n]` as B.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct DenseColumns<'a, E> {
    values: &'a [E],
    n: usize,
    stride: usize,
}

impl<'a, E> DenseRows<'a, E> {
    /// Returns rows that lie one after another.
    pub(in crate::matmul) const fn new(values: &'a [E], k: usize) -> Self {
        Self::with_stride(values, values.len() / k, k)
    }

    /// Returns rows that begin `stride` apart.
    pub(in crate::matmul) const fn with_stride(values: &'a [E], n: usize, stride: usize) -> Self {
        Self { values, n, stride }
    }
}

impl<'a, E> DenseColumns<'a, E> {
    /// Returns rows that lie one after another.
    pub(in crate::matmul) const fn new(values: &'a [E], n: usize) -> Self {
        Self::with_stride(values, n, n)
    }

    /// Returns rows that begin `stride` apart.
    pub(in crate::matmul) const fn with_stride(values: &'a [E], n: usize, stride: usize) -> Self {
        Self { values, n, stride }
    }
}

impl<E: Element> MatrixB for DenseRows<'_, E> {
    fn n(self) -> usize {
        self.n
    }

    #[inline(always)]
    fn pack<S: Simd, P: WordFormat>(self, s: S, panel: MicroPanel, out: &mut [[u32; 16]]) {
        let last = self.n() - 1;
        let row = |column: usize| {
            let row = (panel.j + column).min(last);
            &self.values[row * self.stride + panel.p..][..panel.kc]
        };
        let words = panel.kc / P::PER_WORD;
        let block = 16 * P::PER_WORD;
        let blocks = panel.kc / block;
        let mut buffer = [0.0; MAX_KC];
        for v in 0..panel.vectors() {
            let rows: [&[E]; 16] = std::array::from_fn(|lane| row(16 * v + lane));
            for at in 0..blocks {
                // A loop: a closure would be compiled on its own, without the instructions that are enabled here.
                let mut lanes = [s.splat_u(0); 16];
                for (lanes, row) in lanes.iter_mut().zip(rows) {
                    *lanes = P::words_16(s, &row[at * block..]);
                }
                let out = out[at * 16 * panel.vectors() + v..].iter_mut();
                for (to, lanes) in out.step_by(panel.vectors()).zip(s.transpose(lanes)) {
                    s.store_u(lanes, to);
                }
            }
            if blocks * 16 < words || words * P::PER_WORD < panel.kc {
                for (lane, row) in rows.iter().enumerate() {
                    let rest = &row[blocks * block..];
                    let decoded = &mut buffer[..rest.len()];
                    decoded
                        .iter_mut()
                        .zip(rest)
                        .for_each(|(to, from)| *to = from.to_f32());
                    set_column::<P>(
                        decoded,
                        &mut out[blocks * 16 * panel.vectors()..],
                        16 * v + lane,
                        panel.vectors(),
                    );
                }
            }
        }
    }
}

impl<E: Element> MatrixB for DenseColumns<'_, E> {
    fn n(self) -> usize {
        self.n
    }

    #[inline(always)]
    fn pack<S: Simd, P: WordFormat>(self, s: S, panel: MicroPanel, out: &mut [[u32; 16]]) {
        pack_by_rows::<S, P, _>(s, self, panel, out);
    }
}

impl<S: Simd, E: Element> Rows<S> for DenseColumns<'_, E> {
    #[inline(always)]
    fn part(&self, s: S, p: usize, panel: MicroPanel) -> [S::F; 2] {
        let len = panel.nr.min(self.n - panel.j);
        let row = &self.values[p * self.stride + panel.j..][..len];
        let mut vectors = [s.splat(0.0); 2];
        let (whole, rest) = row.as_chunks::<16>();
        for (vector, values) in vectors.iter_mut().zip(whole) {
            *vector = E::load_16(s, values);
        }
        if !rest.is_empty() {
            let mut lanes = [0.0; 16];
            for (lane, value) in lanes.iter_mut().zip(rest) {
                *lane = value.to_f32();
            }
            vectors[whole.len()] = s.load(&lanes);
        }
        vectors
    }
}
