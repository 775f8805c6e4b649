//! A quantized matrix with a low-rank one on top of it, `W + s·(A B)ᵀ`, multiplied as one: the shape of a LoRA layer
//! (QLoRA §3, equation 3).
//!
//! `x` is packed once for both, the low-rank product joins the sum of the quantized one before it is rounded, and the
//! backward pass needs nothing of the forward pass but `x`.

use std::mem::MaybeUninit;

use super::blocked::{Destination, MAX_ROWS, Term, product, tile_rows};
use super::pack::{Packed, Shape};
use super::panel::{DenseColumns, DenseRows, Panels, QuantizedColumns, QuantizedRows};
use super::precision::{Precision, in_precision_of};
use super::project::{Projected, Projection};
use super::{Threads, assert_len, few_rows, filled, one_term};
use crate::element::Element;
use crate::simd::Isa;
use nf4::{Direction, MatrixRef};

/// The factors of a low-rank matrix, and what their product is multiplied by.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    a: &'a [f32],
    b: &'a [f32],
    rank: usize,
    scale: f32,
}

impl<'a> LowRank<'a> {
    /// `scale · a · b`, with `a: [in_features, rank]` and `b: [rank, out_features]`.
    pub const fn new(a: &'a [f32], b: &'a [f32], rank: usize, scale: f32) -> Self {
        Self { a, b, rank, scale }
    }

    /// The projection of rows packed as `shape` onto one of the factors.
    fn projection<P, F>(self, isa: Isa, factor: F, shape: Shape<P>) -> Projection<P, F> {
        Projection {
            isa,
            factor,
            scale: self.scale,
            shape,
            rank: self.rank,
        }
    }

    fn assert_fits(self, [n, k]: [usize; 2]) {
        assert!(self.rank > 0, "matmul: the rank must be at least 1");
        assert_len("a", self.a.len(), [k, self.rank]);
        assert_len("b", self.b.len(), [self.rank, n]);
    }
}

/// `y = x·Wᵀ + s·(x·A)·B`, `[m, out_features]`.
///
/// `x: [m, in_features]`. With bf16 the factors are rounded to it, and so is `s·(x·A)`.
///
/// # Panics
/// If a length does not fit `m`, the rank and the matrix's shape.
pub fn forward<E: Element>(w: MatrixRef<'_>, low_rank: LowRank<'_>, x: &[E], m: usize) -> Vec<E> {
    forward_on(Isa::best(), w, low_rank, x, m)
}

/// [`forward`] on a given instruction set.
///
/// # Panics
/// As [`forward`].
pub fn forward_on<E: Element>(
    isa: Isa,
    w: MatrixRef<'_>,
    low_rank: LowRank<'_>,
    x: &[E],
    m: usize,
) -> Vec<E> {
    let [n, k] = w.layout().shape();
    assert_len("x", x.len(), [m, k]);
    low_rank.assert_fits([n, k]);
    if m == 0 || n == 0 || k == 0 {
        return vec![E::default(); m * n];
    }
    if few_rows::serves(w, m) {
        let mut y = filled(m, n, |y| {
            few_rows::multiply(isa, w, x, m, y, Direction::Forward);
        });
        add_few_rows(low_rank, x, &mut y, [n, k]);
        return y;
    }
    filled(m, n, |y| {
        for (x, y) in x.chunks(MAX_ROWS * k).zip(y.chunks_mut(MAX_ROWS * n)) {
            in_precision_of!(E, P => forward_rows::<P, E>(isa, w, low_rank, x, y));
        }
    })
}

fn forward_rows<P: Precision, E: Element>(
    isa: Isa,
    w: MatrixRef<'_>,
    low_rank: LowRank<'_>,
    x: &[E],
    y: &mut [MaybeUninit<E>],
) {
    let [n, k] = w.layout().shape();
    let LowRank { a, b, rank, .. } = low_rank;
    let m = x.len() / k;
    let shape = Shape::<P>::new(tile_rows(isa, m), k);
    let mut projected = Projected::unfilled(m, shape, rank);
    low_rank
        .projection(isa, DenseColumns::new(a, rank), shape)
        .fill(x, &mut projected);
    joined(
        isa,
        &projected,
        QuantizedRows(w),
        DenseColumns::new(b, n),
        y,
    );
}

/// `y = x·W + s·(x·F)·factor`.
fn joined<P: Precision, W: Panels, L: Panels, E: Element>(
    isa: Isa,
    projected: &Projected<P>,
    w: W,
    factor: L,
    y: &mut [MaybeUninit<E>],
) {
    let x = projected.x.tiles();
    let second = Term {
        x: projected.packed.tiles(),
        w: factor,
    };
    product(
        isa,
        &Term { x, w },
        Some(&second),
        Destination::New(y),
        Threads::All,
    );
}

/// Adds `s·(x·A)·B` to `y` for few rows, row by row of the factors.
fn add_few_rows<E: Element>(low_rank: LowRank<'_>, x: &[E], y: &mut [E], [n, k]: [usize; 2]) {
    let LowRank { a, b, rank, scale } = low_rank;
    let mut sums = vec![0.0; n];
    let mut inner = vec![0.0; rank];
    for (x, y) in x.chunks_exact(k).zip(y.chunks_exact_mut(n)) {
        inner.fill(0.0);
        for (x, a) in x.iter().zip(a.chunks_exact(rank)) {
            let x = x.to_f32();
            inner.iter_mut().zip(a).for_each(|(sum, a)| *sum += x * a);
        }
        sums.iter_mut()
            .zip(&*y)
            .for_each(|(sum, y)| *sum = y.to_f32());
        for (inner, b) in inner.iter().zip(b.chunks_exact(n)) {
            let inner = inner * scale;
            sums.iter_mut()
                .zip(b)
                .for_each(|(sum, b)| *sum += inner * b);
        }
        y.iter_mut()
            .zip(&sums)
            .for_each(|(y, sum)| *y = E::from_f32(*sum));
    }
}

/// The gradients of a layer.
pub struct Gradients<E> {
    /// `dx: [m, in_features]`, if it was asked for.
    pub x: Option<Vec<E>>,
    /// `dA: [in_features, rank]`.
    pub a: Vec<f32>,
    /// `dB: [rank, out_features]`.
    pub b: Vec<f32>,
}

/// The gradients of [`forward`] from `x` and the gradient of `y`, `dy: [m, out_features]`:
/// `dx = dy·W + s·(dy·Bᵀ)·Aᵀ` if `wants_dx`, `dA = s·xᵀ·(dy·Bᵀ)`, `dB = s·(x·A)ᵀ·dy`.
///
/// # Panics
/// If a length does not fit `m`, the rank and the matrix's shape.
pub fn backward<E: Element>(
    w: MatrixRef<'_>,
    low_rank: LowRank<'_>,
    x: &[E],
    dy: &[E],
    m: usize,
    wants_dx: bool,
) -> Gradients<E> {
    backward_on(Isa::best(), w, low_rank, x, dy, m, wants_dx)
}

/// [`backward`] on a given instruction set.
///
/// # Panics
/// As [`backward`].
pub fn backward_on<E: Element>(
    isa: Isa,
    w: MatrixRef<'_>,
    low_rank: LowRank<'_>,
    x: &[E],
    dy: &[E],
    m: usize,
    wants_dx: bool,
) -> Gradients<E> {
    let [n, k] = w.layout().shape();
    low_rank.assert_fits([n, k]);
    assert_len("x", x.len(), [m, k]);
    assert_len("dy", dy.len(), [m, n]);
    let mut da_transposed = vec![0.0; low_rank.a.len()];
    let mut b = vec![0.0; low_rank.b.len()];
    if m == 0 || k == 0 || n == 0 {
        return Gradients {
            x: wants_dx.then(|| vec![E::default(); m * k]),
            a: da_transposed,
            b,
        };
    }
    let mut rows = |start: usize, dx: Option<&mut [MaybeUninit<E>]>| {
        let end = (start + MAX_ROWS).min(m);
        let (x, dy) = (&x[start * k..end * k], &dy[start * n..end * n]);
        let sums = (&mut da_transposed[..], &mut b[..]);
        in_precision_of!(E, P => backward_rows::<P, E>(isa, w, low_rank, x, dy, dx, sums));
    };
    let starts = (0..m).step_by(MAX_ROWS);
    let dx = if wants_dx {
        Some(filled(m, k, |dx| {
            for (start, dx) in starts.zip(dx.chunks_mut(MAX_ROWS * k)) {
                rows(start, Some(dx));
            }
        }))
    } else {
        starts.for_each(|start| rows(start, None));
        None
    };
    let mut a = vec![0.0; da_transposed.len()];
    transpose(&da_transposed, k, &mut a);
    Gradients { x: dx, a, b }
}

/// Adds what some rows contribute to `dAᵀ: [rank, in_features]` and to `dB`, and writes their `dx`.
fn backward_rows<P: Precision, E: Element>(
    isa: Isa,
    w: MatrixRef<'_>,
    low_rank: LowRank<'_>,
    x: &[E],
    dy: &[E],
    dx: Option<&mut [MaybeUninit<E>]>,
    (da_transposed, db): (&mut [f32], &mut [f32]),
) {
    let [n, k] = w.layout().shape();
    let LowRank { a, b, rank, .. } = low_rank;
    let m = x.len() / k;
    let of = |inner| Shape::<P>::new(tile_rows(isa, m), inner);
    let (of_x, of_dy) = (of(k), of(n));

    let mut dinner = Projected::unfilled(m, of_dy, rank);
    let onto_b = low_rank.projection(isa, DenseRows::new(b, n), of_dy);
    let onto_a = low_rank.projection(isa, DenseColumns::new(a, rank), of_x);
    let (_, inner) = rayon::join(|| onto_b.fill(dy, &mut dinner), || onto_a.of_rows(x));

    // The two thin products keep the threads busy that the wide one leaves idle at its end.
    let summed = |small: &[f32], large, outer, gradient| {
        let small = Packed::<P>::of_columns(isa, small, rank, 0..rank, tile_rows(isa, rank));
        let (x, y) = (small.tiles(), Destination::Sum(gradient));
        one_term(isa, x, DenseColumns::new(large, outer), y, Threads::All);
    };
    rayon::join(
        || {
            if let Some(dx) = dx {
                let factor = DenseRows::new(a, rank);
                joined(isa, &dinner, QuantizedColumns(w), factor, dx);
            }
        },
        || {
            summed(&inner, dy, n, db);
            summed(&dinner.values, x, k, da_transposed);
        },
    );
}

/// `to` becomes the transpose of `from`, whose rows are `columns` long.
fn transpose(from: &[f32], columns: usize, to: &mut [f32]) {
    let rows = from.len() / columns;
    for (i, row) in from.chunks_exact(columns).enumerate() {
        to[i..]
            .iter_mut()
            .step_by(rows)
            .zip(row)
            .for_each(|(to, from)| *to = *from);
    }
}
