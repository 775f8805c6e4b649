//! Products with a quantized matrix that never decode more of it than a cache-sized panel.
//!
//! - `blocked`: many rows; panels are decoded into scratch (`panel`, `scratch`) and multiplied by a register tile
//!   (`pack`, `tile`), in f32 or in pairs of bf16 (`precision`)
//! - `few_rows`: up to five rows; codes are decoded in registers and used at once
//! - [`dense`]: the same tile on matrices that are not quantized
//! - [`low_rank`]: a quantized matrix and a low-rank one as one (`project`)

mod blocked;
pub mod dense;
mod few_rows;
pub mod low_rank;
mod pack;
mod panel;
mod precision;
mod project;
mod scratch;
mod tile;

use std::mem::MaybeUninit;

use crate::element::Element;
use crate::simd::Isa;
use nf4::{Direction, MatrixRef};

use blocked::{Destination, MAX_ROWS, Term, product, tile_rows};
use pack::{Packed, Tiles};
use panel::{Panels, QuantizedColumns, QuantizedRows};
use precision::{Precision, in_precision_of};

/// Which threads do the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// Those of the rayon pool.
    All,
    /// The one that calls.
    One,
}

/// Multiplies `x` (`m` rows, possibly none) by a quantized matrix, accumulating in f32.
///
/// `x: [m, in_features]` and `y: [m, out_features]` for [`Direction::Forward`], the other way round for
/// [`Direction::Transposed`]. For more than a few rows of bf16 the decoded weights are rounded to bf16, as tensor cores
/// take them; f16 is multiplied in f32. The sum of every output element has an order of its own that depends on the
/// shapes alone: any number of threads gives the same bits.
///
/// # Panics
/// If the length of `x` or `y` does not fit `m` and the matrix's shape.
pub fn matmul<E: Element>(w: MatrixRef<'_>, x: &[E], m: usize, y: &mut [E], direction: Direction) {
    matmul_on(Isa::best(), w, x, m, y, direction);
}

/// [`matmul`] into memory of its own: `y` as a new vector, whose values nobody has to write first.
///
/// # Panics
/// As [`matmul`].
pub fn matmul_vec<E: Element>(w: MatrixRef<'_>, x: &[E], m: usize, direction: Direction) -> Vec<E> {
    let [_, outer] = direction.widths(w.layout().shape());
    filled(m, outer, |y| {
        matmul_into(Isa::best(), w, x, m, y, direction);
    })
}

/// [`matmul`] on a given instruction set.
///
/// # Panics
/// As [`matmul`].
pub fn matmul_on<E: Element>(
    isa: Isa,
    w: MatrixRef<'_>,
    x: &[E],
    m: usize,
    y: &mut [E],
    direction: Direction,
) {
    matmul_into(isa, w, x, m, as_new(y), direction);
}

/// Writes every value of `y`.
fn matmul_into<E: Element>(
    isa: Isa,
    w: MatrixRef<'_>,
    x: &[E],
    m: usize,
    y: &mut [MaybeUninit<E>],
    direction: Direction,
) {
    let [inner, outer] = direction.widths(w.layout().shape());
    assert_len("x", x.len(), [m, inner]);
    assert_len("y", y.len(), [m, outer]);
    if y.is_empty() {
        return;
    }
    if inner == 0 {
        return y.fill(MaybeUninit::new(E::default()));
    }
    if few_rows::serves(w, m) {
        return few_rows::multiply(isa, w, x, m, y, direction);
    }
    for (x, y) in x
        .chunks(MAX_ROWS * inner)
        .zip(y.chunks_mut(MAX_ROWS * outer))
    {
        in_precision_of!(E, P => blocked::<P, E>(isa, w, x, y, direction));
    }
}

/// A new vector of `rows * columns` values, all of which `write` writes.
fn filled<E>(rows: usize, columns: usize, write: impl FnOnce(&mut [MaybeUninit<E>])) -> Vec<E> {
    let len = rows * columns;
    let mut values = Vec::with_capacity(len);
    write(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: the capacity is at least `len`, and the functions of this module that are passed here write that many.
    unsafe { values.set_len(len) };
    values
}

/// Values as places to write values to.
fn as_new<E>(values: &mut [E]) -> &mut [MaybeUninit<E>] {
    // SAFETY: the layout is the same, and what this module writes there are values.
    unsafe { &mut *(values as *mut [E] as *mut [MaybeUninit<E>]) }
}

fn assert_len(name: &str, len: usize, [rows, columns]: [usize; 2]) {
    assert_eq!(
        Some(len),
        rows.checked_mul(columns),
        "matmul: `{name}` must hold [{rows}, {columns}] values"
    );
}

fn blocked<P: Precision, E: Element>(
    isa: Isa,
    w: MatrixRef<'_>,
    x: &[E],
    y: &mut [MaybeUninit<E>],
    direction: Direction,
) {
    let [inner, _] = direction.widths(w.layout().shape());
    let rows = tile_rows(isa, x.len() / inner);
    let packed = Packed::<P>::new(isa, x, inner, rows, Threads::All);
    let y = Destination::New(y);
    match direction {
        Direction::Forward => one_term(isa, packed.tiles(), QuantizedRows(w), y, Threads::All),
        Direction::Transposed => {
            one_term(isa, packed.tiles(), QuantizedColumns(w), y, Threads::All)
        }
    }
}

/// `y = x·W` of a single term.
fn one_term<P: Precision, W: Panels, E: Element>(
    isa: Isa,
    x: Tiles<'_, P>,
    w: W,
    y: Destination<'_, E>,
    threads: Threads,
) {
    product::<P, W, W, E>(isa, &Term { x, w }, None, y, threads);
}
