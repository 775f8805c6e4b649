//! Products with dense matrices through the same register tile, for what of a model stays dense: its head.

use super::blocked::{Destination, MAX_ROWS, tile_rows};
use super::pack::Packed;
use super::panel::{DenseColumns, DenseRows};
use super::precision::{Precision, in_precision_of};
use super::{Direction, Threads, as_new, assert_len, one_term};
use crate::element::Element;
use crate::simd::Isa;

/// A dense row-major matrix `[out_features, in_features]`.
#[derive(Clone, Copy, Debug)]
pub struct DenseRef<'a, E> {
    values: &'a [E],
    shape: [usize; 2],
}

impl<'a, E: Element> DenseRef<'a, E> {
    /// A view of `values`, row by row.
    ///
    /// # Panics
    /// If there are not as many values as `shape` has.
    pub fn new(values: &'a [E], shape: [usize; 2]) -> Self {
        assert_len("w", values.len(), shape);
        Self { values, shape }
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
    let (inner, outer) = direction.widths(w.shape);
    assert_len("x", x.len(), [m, inner]);
    assert_len("y", y.len(), [m, outer]);
    if inner == 0 || y.is_empty() {
        if into == Into::Replace {
            y.fill(Y::default());
        }
        return;
    }
    for (x, y) in x
        .chunks(MAX_ROWS * inner)
        .zip(y.chunks_mut(MAX_ROWS * outer))
    {
        let y = match into {
            Into::Replace => Destination::New(as_new(y)),
            Into::Add => Destination::Sum(y),
        };
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
    let (inner, outer) = direction.widths(w.shape);
    let packed = Packed::<P>::new(isa, x, inner, tile_rows(isa, x.len() / inner), threads);
    let x = packed.tiles();
    match direction {
        Direction::Forward => one_term(isa, x, DenseRows::new(w.values, inner), y, threads),
        Direction::Transposed => {
            one_term(isa, x, DenseColumns::new(w.values, outer), y, threads);
        }
    }
}
