//! Products with matrices of numbers through the same micro-kernel, for what of a model stays dense: its head, and the
//! operands of attention.

use std::ops::Range;

use nf4::Direction;

use super::check::assert_len;
use super::gemm::{self, MC, gemm, pack};
use super::gemv;
use super::output::Output;
use super::pack_b::{DenseColumns, DenseRows};
use super::packed_a::PackedA;
use super::precision::{WordFormat, in_precision_of};
use crate::buffer::as_uninit;
use crate::cpu::Cpu;
use crate::element::Element;
use crate::simd::{CacheLevel, prefetch};

/// Most rows that [`Cpu::dense_matmul_few_rows`] takes.
pub const FEW_ROWS: usize = gemv::MAX_ROWS;

/// A dense row-major matrix `[out_features, in_features]`.
#[derive(Clone, Copy, Debug)]
pub struct DenseRef<'a, E> {
    values: &'a [E],
    shape: [usize; 2],
    /// Elements from one row to the next.
    stride: usize,
}

impl<'a, E: Element> DenseRef<'a, E> {
    /// Views `values`, row by row.
    ///
    /// # Panics
    /// If there are not as many values as `shape` has.
    pub fn new(values: &'a [E], shape: [usize; 2]) -> Self {
        assert_len("w", values.len(), shape);
        Self {
            values,
            shape,
            stride: shape[1],
        }
    }

    /// Views `values` whose rows begin `stride` apart; what lies between them and after the last is not looked at.
    ///
    /// # Panics
    /// If there are fewer values, or rows that overlap.
    pub fn with_stride(values: &'a [E], shape: [usize; 2], stride: usize) -> Self {
        let [rows, columns] = shape;
        assert!(columns <= stride || rows <= 1, "w: rows overlap");
        let len = match rows {
            0 => 0,
            rows => (rows - 1) * stride + columns,
        };
        Self {
            values: &values[..len],
            shape,
            stride,
        }
    }

    /// Returns the number of rows.
    #[inline(always)]
    pub(crate) fn row_count(&self) -> usize {
        self.shape[0]
    }

    /// Returns the row `index`.
    #[inline(always)]
    pub(crate) fn row(&self, index: usize) -> &'a [E] {
        &self.values[index * self.stride..][..self.shape[1]]
    }

    /// Asks for a part of the row `index`, which need not exist, ahead of its use.
    #[inline(always)]
    pub(crate) fn prefetch(&self, index: usize, columns: Range<usize>) {
        let row = index * self.stride;
        for column in columns.step_by(64 / size_of::<E>()) {
            prefetch(CacheLevel::First, self.values, row + column);
        }
    }

    /// Returns `Wᵀ` as the right-hand matrix.
    fn rows(self) -> DenseRows<'a, E> {
        DenseRows::with_stride(self.values, self.shape[0], self.stride)
    }

    /// Returns `W` as the right-hand matrix.
    fn columns(self) -> DenseColumns<'a, E> {
        DenseColumns::with_stride(self.values, self.shape[1], self.stride)
    }
}

/// The factor of the values that the output has before a product, as BLAS calls it: `y = x·W + beta·y`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beta {
    /// The values are replaced.
    Zero,
    /// The product is added to them.
    One,
}

impl Beta {
    fn output<E>(self, y: &mut [E]) -> Output<'_, E> {
        match self {
            // SAFETY: products write nothing but values.
            Self::Zero => Output::New(unsafe { as_uninit(y) }),
            Self::One => Output::Add(y),
        }
    }

    /// Writes the product of no terms.
    fn put_zeros<E: Element>(self, y: &mut [E]) {
        if self == Self::Zero {
            y.fill(E::default());
        }
    }
}

impl Cpu {
    /// Multiplies `x` by a dense matrix, accumulating in f32: [`Cpu::matmul`] without the decoding.
    ///
    /// If the matrix is bf16, `x` is rounded to it.
    ///
    /// # Panics
    /// If the length of `x` or `y` does not fit `m` and the matrix's shape.
    pub fn dense_matmul<X: Element, W: Element, Y: Element>(
        self,
        w: DenseRef<'_, W>,
        x: &[X],
        m: usize,
        y: &mut [Y],
        direction: Direction,
        beta: Beta,
    ) {
        let [k, n] = direction.widths(w.shape);
        assert_len("x", x.len(), [m, k]);
        assert_len("y", y.len(), [m, n]);
        if k == 0 || y.is_empty() {
            return beta.put_zeros(y);
        }
        for (x, y) in x.chunks(MC * k).zip(y.chunks_mut(MC * n)) {
            let y = beta.output(y);
            in_precision_of!(W, P => multiply_rows::<P, X, W, Y>(self, w, x, y, direction));
        }
    }

    /// Multiplies up to [`FEW_ROWS`] rows of `x` by a dense matrix, `y = x·Wᵀ`, accumulating in f32: the head of a model that
    /// writes. The matrix is read once, where it lies, and `x` is not rounded to its type.
    ///
    /// A row of `y` has the same bits whatever rows are beside it.
    ///
    /// # Panics
    /// If there are more rows, or the length of `x` or `y` does not fit `m` and the matrix's shape.
    pub fn dense_matmul_few_rows<E: Element, W: Element>(
        self,
        w: DenseRef<'_, W>,
        x: &[E],
        m: usize,
        y: &mut [E],
    ) {
        let [n, k] = w.shape;
        assert!(m <= FEW_ROWS, "x: {m} rows are more than {FEW_ROWS}");
        assert_len("x", x.len(), [m, k]);
        assert_len("y", y.len(), [m, n]);
        if k == 0 || y.is_empty() {
            return y.fill(E::default());
        }
        let rows = gemv::dense::Rows {
            values: w.values,
            len: k,
            stride: w.stride,
        };
        let mut scratch = [Vec::new(), Vec::new()];
        let [widened, results] = &mut scratch;
        let x = E::read(self.isa, x, widened);
        E::modify(self.isa, y, results, |y| {
            gemv::dense::forward(self, rows, n, x, m, y);
        });
    }

    /// Multiplies the transpose of `x: [out_features, m]` by a dense matrix, `y = xᵀ·W: [m, in_features]`: the gradient of
    /// one operand of a product from that of its result.
    ///
    /// Accumulates in f32; if the matrix is bf16, `x` is rounded to it.
    ///
    /// # Panics
    /// If the length of `x` or `y` does not fit `m` and the matrix's shape.
    pub fn dense_transposed_matmul<W: Element>(
        self,
        w: DenseRef<'_, W>,
        x: &[f32],
        m: usize,
        y: &mut [f32],
        beta: Beta,
    ) {
        let [k, n] = w.shape;
        assert_len("x", x.len(), [k, m]);
        assert_len("y", y.len(), [m, n]);
        if k == 0 || y.is_empty() {
            return beta.put_zeros(y);
        }
        for (start, y) in (0..m).step_by(MC).zip(y.chunks_mut(MC * n)) {
            let columns = start..(start + MC).min(m);
            let mr = gemm::mr(self.isa, columns.len());
            let y = beta.output(y);
            in_precision_of!(W, P => {
                let packed = PackedA::<P>::of_columns(self.isa, x, m, columns, mr);
                gemm(self, packed.as_ref(), w.columns(), y);
            });
        }
    }

    /// Returns the bytes that [`Cpu::dense_matmul`] or [`Cpu::dense_transposed_matmul`] of `[m, k]·[k, n]` with a matrix of
    /// `W` holds while it runs, beside its operands and its result: as [`Cpu::matmul_workspace`] counts them.
    pub fn dense_workspace<W: Element>(self, [m, n, k]: [usize; 3]) -> usize {
        in_precision_of!(W, P => {
            gemm::packed_bytes::<P>(self, m, k) + self.threads.count() * gemm::task_bytes::<P, P>(self, [m, n, k], 0)
        })
    }
}

fn multiply_rows<P: WordFormat, X: Element, W: Element, Y: Element>(
    cpu: Cpu,
    w: DenseRef<'_, W>,
    x: &[X],
    y: Output<'_, Y>,
    direction: Direction,
) {
    let [k, _] = direction.widths(w.shape);
    let packed = pack::<P, X>(cpu, x, k);
    match direction {
        Direction::Forward => gemm(cpu, packed.as_ref(), w.rows(), y),
        Direction::Transposed => gemm(cpu, packed.as_ref(), w.columns(), y),
    }
}
