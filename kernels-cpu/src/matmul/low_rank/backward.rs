//! The gradients of the product with a quantized matrix and a low-rank one.

use std::mem::MaybeUninit;

use nf4::{Direction, MatrixRef};

use super::super::check::assert_len;
use super::super::gemm::{MC, gemm, mr};
use super::super::output::Output;
use super::super::pack_b::{Blocks, DenseColumns, DenseRows, QuantizedColumns};
use super::super::packed_a::{PackedA, Packing};
use super::super::precision::{Precision, WordFormat, in_precisions_of};
use super::factors::LowRank;
use super::forward::{Projected, Projection};
use crate::buffer::written;
use crate::codebook::CodebookRef;
use crate::cpu::Cpu;
use crate::element::Element;

/// The gradients of a layer.
pub struct Gradients<E> {
    /// `dx: [m, in_features]`, if it was asked for.
    pub x: Option<Vec<E>>,
    /// `dA: [in_features, rank]`.
    pub a: Vec<f32>,
    /// `dB: [rank, out_features]`.
    pub b: Vec<f32>,
}

/// Returns the gradients of [`forward`](super::forward()) from `x` and the gradient of `y`, `dy: [m, out_features]`:
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
    Cpu::default().low_rank_backward(w, low_rank, x, dy, m, wants_dx)
}

impl Cpu {
    /// Returns the gradients of [`Cpu::low_rank_forward`]: [`low_rank::backward`](crate::low_rank::backward).
    ///
    /// # Panics
    /// If a length does not fit `m`, the rank and the matrix's shape.
    pub fn low_rank_backward<E: Element>(
        self,
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
        let mut sums = FactorGradients {
            a_transposed: vec![0.0; low_rank.a.len()],
            b: vec![0.0; low_rank.b.len()],
        };
        if m == 0 || k == 0 || n == 0 {
            return Gradients {
                x: wants_dx.then(|| vec![E::default(); m * k]),
                a: sums.a_transposed,
                b: sums.b,
            };
        }
        let mut rows = |start: usize, dx: Option<&mut [MaybeUninit<E>]>| {
            let end = (start + MC).min(m);
            let (x, dy) = (&x[start * k..end * k], &dy[start * n..end * n]);
            let layer = Layer {
                cpu: self,
                w,
                low_rank,
            };
            in_precisions_of!(self, E, P, Q => layer.add_rows::<P, Q, E>(x, dy, dx, &mut sums));
        };
        let starts = (0..m).step_by(MC);
        let dx = if wants_dx {
            // SAFETY: the products write every value of `dx`, some rows each.
            Some(unsafe {
                written(m * k, |dx| {
                    for (start, dx) in starts.zip(dx.chunks_mut(MC * k)) {
                        rows(start, Some(dx));
                    }
                })
            })
        } else {
            starts.for_each(|start| rows(start, None));
            None
        };
        let mut a = vec![0.0; sums.a_transposed.len()];
        transpose(&sums.a_transposed, k, &mut a);
        Gradients {
            x: dx,
            a,
            b: sums.b,
        }
    }
}

/// The sums of the gradients of the factors.
struct FactorGradients {
    /// `dAᵀ: [rank, in_features]`.
    a_transposed: Vec<f32>,
    /// `dB: [rank, out_features]`.
    b: Vec<f32>,
}

struct Layer<'a> {
    cpu: Cpu,
    w: MatrixRef<'a>,
    low_rank: LowRank<'a>,
}

impl Layer<'_> {
    /// Adds what some rows contribute to the gradients of the factors, and writes their `dx`.
    fn add_rows<P: WordFormat, Q: Precision, E: Element>(
        &self,
        x: &[E],
        dy: &[E],
        dx: Option<&mut [MaybeUninit<E>]>,
        sums: &mut FactorGradients,
    ) {
        let &Self { cpu, w, low_rank } = self;
        let [n, k] = w.layout().shape();
        let LowRank { a, b, rank, scale } = low_rank;
        let m = x.len() / k;
        let mr = mr(cpu.isa, m);
        let onto_b = Projection {
            cpu,
            factor: DenseRows::new(b, n),
            rank,
            scale,
            packing: Packing::<P>::new(mr, n),
        };
        let onto_a = Projection {
            cpu,
            factor: DenseColumns::new(a, rank),
            rank,
            scale,
            packing: Packing::<P>::new(mr, k),
        };
        let mut projected_dy = Projected::<P, Q>::unfilled(m, onto_b.packing, rank);
        let (_, projected_x) = cpu
            .threads
            .join(|| onto_b.fill(dy, &mut projected_dy), || onto_a.of_rows(x));

        // The two thin products keep the threads busy that the wide one leaves idle at its end.
        cpu.threads.join(
            || {
                if let Some(dx) = dx {
                    let a = DenseRows::new(a, rank);
                    match CodebookRef::of(w) {
                        Some(w) => projected_dy.multiply(cpu, QuantizedColumns(w), a, dx),
                        None => {
                            let w = Blocks::new(cpu, w, Direction::Transposed);
                            projected_dy.multiply(cpu, w, a, dx);
                        }
                    }
                }
            },
            || {
                add_thin::<P, E>(cpu, &projected_x, rank, dy, &mut sums.b);
                add_thin::<P, E>(cpu, &projected_dy.values, rank, x, &mut sums.a_transposed);
            },
        );
    }
}

/// Adds `projectedᵀ·rows` to `sums: [rank, n]` for `projected: [m, rank]` and `rows: [m, n]`.
fn add_thin<P: WordFormat, E: Element>(
    cpu: Cpu,
    projected: &[f32],
    rank: usize,
    rows: &[E],
    sums: &mut [f32],
) {
    let n = sums.len() / rank;
    let mr = mr(cpu.isa, rank);
    let packed = PackedA::<P>::of_columns(cpu.isa, projected, rank, 0..rank, mr);
    let rows = DenseColumns::new(rows, n);
    gemm(cpu, packed.as_ref(), rows, Output::Add(sums));
}

/// Writes the transpose of `from`, whose rows are `columns` long, to `to`.
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
