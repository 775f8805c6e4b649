//! Products with dense matrices through the same register tile, for what of a model stays dense: its head, and
//! attention's operands.

use nf4::Direction;

use super::blocked::{Destination, MAX_ROWS, tile_rows};
use super::pack::Packed;
use super::panel::{DenseColumns, DenseRows};
use super::precision::{Precision, in_precision_of};
use super::{Threads, as_new, assert_len, one_term};
use crate::element::Element;
use crate::simd::Isa;

/// A dense row-major matrix `[out_features, in_features]`.
#[derive(Clone, Copy, Debug)]
pub struct DenseRef<'a, E> {
    values: &'a [E],
    shape: [usize; 2],
    /// Elements from one row to the next.
    stride: usize,
}

impl<'a, E> DenseRows<'a, E> {
    fn of(w: DenseRef<'a, E>) -> Self {
        Self::with_stride(w.values, w.shape[0], w.stride)
    }
}

impl<'a, E> DenseColumns<'a, E> {
    fn of(w: DenseRef<'a, E>) -> Self {
        Self::with_stride(w.values, w.shape[1], w.stride)
    }
}

impl<'a, E: Element> DenseRef<'a, E> {
    /// A view of `values`, row by row.
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

    /// A view of `values` whose rows begin `stride` apart; what lies between them and after the last is not looked at.
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
}

/// What a product does with the values that are in its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// They are replaced.
    Replace,
    /// The product is added to them.
    Add,
}

impl Into {
    /// `y` as where a product goes.
    fn destination<E>(self, y: &mut [E]) -> Destination<'_, E> {
        match self {
            Self::Replace => Destination::New(as_new(y)),
            Self::Add => Destination::Sum(y),
        }
    }

    /// What an empty sum does to `y`.
    fn put_zeros<E: Element>(self, y: &mut [E]) {
        if self == Self::Replace {
            y.fill(E::default());
        }
    }
}

/// Multiplies `x` by a dense matrix, accumulating in f32: [`matmul`](super::matmul) without the decoding.
///
/// If the matrix is bf16, `x` is rounded to it.
///
/// # Panics
/// If the length of `x` or `y` does not fit `m` and the matrix's shape.
pub fn matmul<X: Element, W: Element, Y: Element>(
    w: DenseRef<'_, W>,
    x: &[X],
    m: usize,
    y: &mut [Y],
    direction: Direction,
    into: Into,
    threads: Threads,
) {
    matmul_on(Isa::best(), w, x, m, y, direction, into, threads);
}

/// [`matmul`] on a given instruction set.
///
/// # Panics
/// As [`matmul`].
#[allow(clippy::too_many_arguments)]
pub fn matmul_on<X: Element, W: Element, Y: Element>(
    isa: Isa,
    w: DenseRef<'_, W>,
    x: &[X],
    m: usize,
    y: &mut [Y],
    direction: Direction,
    into: Into,
    threads: Threads,
) {
    let [inner, outer] = direction.widths(w.shape);
    assert_len("x", x.len(), [m, inner]);
    assert_len("y", y.len(), [m, outer]);
    if inner == 0 || y.is_empty() {
        return into.put_zeros(y);
    }
    for (x, y) in x
        .chunks(MAX_ROWS * inner)
        .zip(y.chunks_mut(MAX_ROWS * outer))
    {
        let y = into.destination(y);
        in_precision_of!(W, P => blocked::<P, X, W, Y>(isa, w, x, y, direction, threads));
    }
}

fn blocked<P: Precision, X: Element, W: Element, Y: Element>(
    isa: Isa,
    w: DenseRef<'_, W>,
    x: &[X],
    y: Destination<'_, Y>,
    direction: Direction,
    threads: Threads,
) {
    let [inner, _] = direction.widths(w.shape);
    let packed = Packed::<P>::new(isa, x, inner, tile_rows(isa, x.len() / inner), threads);
    let x = packed.tiles();
    match direction {
        Direction::Forward => one_term(isa, x, DenseRows::of(w), y, threads),
        Direction::Transposed => one_term(isa, x, DenseColumns::of(w), y, threads),
    }
}

/// Multiplies the transpose of `x: [out_features, m]` by a dense matrix, `y = xᵀ·W: [m, in_features]`: the gradient of
/// one operand of a product from that of its result.
///
/// Accumulates in f32; if the matrix is bf16, `x` is rounded to it.
///
/// # Panics
/// If the length of `x` or `y` does not fit `m` and the matrix's shape.
pub fn transposed_matmul<W: Element>(
    w: DenseRef<'_, W>,
    x: &[f32],
    m: usize,
    y: &mut [f32],
    into: Into,
    threads: Threads,
) {
    transposed_matmul_on(Isa::best(), w, x, m, y, into, threads);
}

/// [`transposed_matmul`] on a given instruction set.
///
/// # Panics
/// As [`transposed_matmul`].
pub fn transposed_matmul_on<W: Element>(
    isa: Isa,
    w: DenseRef<'_, W>,
    x: &[f32],
    m: usize,
    y: &mut [f32],
    into: Into,
    threads: Threads,
) {
    let [inner, outer] = w.shape;
    assert_len("x", x.len(), [inner, m]);
    assert_len("y", y.len(), [m, outer]);
    if inner == 0 || y.is_empty() {
        return into.put_zeros(y);
    }
    for (start, y) in (0..m).step_by(MAX_ROWS).zip(y.chunks_mut(MAX_ROWS * outer)) {
        let columns = start..(start + MAX_ROWS).min(m);
        let rows = tile_rows(isa, columns.len());
        let y = into.destination(y);
        in_precision_of!(W, P => {
            let packed = Packed::<P>::of_columns(isa, x, m, columns, rows);
            one_term(isa, packed.tiles(), DenseColumns::of(w), y, threads);
        });
    }
}
