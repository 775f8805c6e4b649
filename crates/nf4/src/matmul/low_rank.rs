//! A quantized matrix with a low-rank one on top of it, `W + s·(A B)ᵀ`, multiplied as one: the shape of a LoRA layer
//! (QLoRA §3, equation 3).
//!
//! `x` is packed once for both, the low-rank product joins the sum of the quantized one before it is rounded, and the
//! backward pass needs nothing of the forward pass but `x`.

use std::mem::MaybeUninit;

use super::blocked::{Destination, MAX_ROWS, Term, product, tile_rows};
use super::pack::Packed;
use super::panel::{DenseColumns, DenseRows, Panels, QuantizedColumns, QuantizedRows};
use super::precision::{Precision, in_precision_of};
use super::{Direction, Threads, assert_len, few_rows, filled, one_term};
use crate::element::Element;
use crate::matrix::MatrixRef;
use crate::simd::Isa;

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
    let x = Packed::<P>::new(isa, x, k, tile_rows(isa, m), Threads::All);
    let inner = scaled(isa, &x, DenseColumns::new(a, rank), m, low_rank);
    joined(
        isa,
        &x,
        QuantizedRows(w),
        &inner,
        rank,
        DenseColumns::new(b, n),
        y,
    );
}

/// `y = x·W + inner·factor`, with `inner: [m, rank]`.
fn joined<P: Precision, W: Panels, L: Panels, E: Element>(
    isa: Isa,
    x: &Packed<P>,
    w: W,
    inner: &[f32],
    rank: usize,
    factor: L,
    y: &mut [MaybeUninit<E>],
) {
    let inner = Packed::new(isa, inner, rank, x.rows(), Threads::All);
    let second = Term {
        x: &inner,
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

/// `s·(x·W)`, `[m, rank]`.
fn scaled<P: Precision, W: Panels>(
    isa: Isa,
    x: &Packed<P>,
    w: W,
    m: usize,
    low_rank: LowRank<'_>,
) -> Vec<f32> {
    let mut out: Vec<f32> = filled(m, low_rank.rank, |out| {
        one_term(isa, x, w, Destination::New(out), Threads::All);
    });
    out.iter_mut().for_each(|value| *value *= low_rank.scale);
    out
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
    let rows = tile_rows(isa, m);

    // Each is let go of before the next is packed.
    let inner = {
        let x = Packed::<P>::new(isa, x, k, rows, Threads::All);
        scaled(isa, &x, DenseColumns::new(a, rank), m, low_rank)
    };
    let dinner = {
        let dy = Packed::<P>::new(isa, dy, n, rows, Threads::All);
        let dinner = scaled(isa, &dy, DenseRows::new(b, n), m, low_rank);
        if let Some(dx) = dx {
            joined(
                isa,
                &dy,
                QuantizedColumns(w),
                &dinner,
                rank,
                DenseRows::new(a, rank),
                dx,
            );
        }
        dinner
    };

    let mut transposed = vec![0.0; m * rank];
    for (small, large, outer, gradient) in [(inner, dy, n, db), (dinner, x, k, da_transposed)] {
        transpose(&small, rank, &mut transposed);
        let small = Packed::<P>::new(isa, &transposed, m, tile_rows(isa, rank), Threads::All);
        let large = DenseColumns::new(large, outer);
        one_term(isa, &small, large, Destination::Sum(gradient), Threads::All);
    }
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
