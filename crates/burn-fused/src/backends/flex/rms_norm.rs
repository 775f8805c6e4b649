//! Bound by memory: forward reads `x` and writes `y`, backward reads `x` and rewrites `grad`; with a
//! residual, forward reads that too and rewrites `x`, backward reads the sum's gradient too. A
//! row fits the first-level cache, so its second pass costs no traffic.

use burn_core::backend::TensorMetadata;
use burn_core::tensor::{DType, Shape, bf16, f16};
use burn_flex::FlexTensor;
use core::mem::MaybeUninit;
use rayon::prelude::*;

use super::{
    buffer::{PARALLEL, PIECE, Typed, Values, cast, create, rows, update, written},
    number::{Number, with_number},
    simd::{LANES, mul_add, sum, vectorised},
};

/// Rows whose weight gradients are added up before they are added to the others'. Fixed, so that the order of additions
/// is.
const ROWS: usize = 64;

/// Rows that a thread takes at a time.
fn step(n: usize) -> usize {
    (PIECE / n.max(1)).max(1)
}

pub(super) fn forward(x: FlexTensor, weight: FlexTensor, eps: f64) -> (FlexTensor, FlexTensor) {
    with_number!(x.dtype(), E => forward_as::<E>(x, weight, eps))
}

fn forward_as<E: Number>(x: FlexTensor, weight: FlexTensor, eps: f64) -> (FlexTensor, FlexTensor) {
    let shape = x.shape();
    let (count, n) = rows(&x);
    let (x, weight) = (Typed::new(x), Values::new(weight));
    let x = x.slice::<E>();

    let mut inv_rms = vec![0f32; count];
    // SAFETY: the rows make up the whole, and `normalize` writes every element of its rows.
    let y = unsafe {
        written(count * n, |y| {
            by_rows(
                count,
                n,
                y.chunks_mut(step(n) * n.max(1))
                    .zip(inv_rms.chunks_mut(step(n))),
                |[a, b], i, (y, inv): (&mut [MaybeUninit<E>], _)| {
                    let x = E::read(&x[i * step(n) * n..][..y.len()], a);
                    E::write(y, b, |y| normalize(x, &weight, eps as f32, y, inv));
                },
            );
        })
    };
    (create(shape.clone(), y), create(one_a_row(shape), inv_rms))
}

/// The shape of one number for each row.
fn one_a_row(mut shape: Shape) -> Shape {
    let last = shape.num_dims() - 1;
    shape[last] = 1;
    shape
}

/// The sum, its normalized rows and `1 / rms`.
pub(super) fn add_forward(
    x: FlexTensor,
    residual: FlexTensor,
    weight: FlexTensor,
    eps: f64,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    with_number!(x.dtype(), E => add_forward_as::<E>(x, residual, weight, eps))
}

fn add_forward_as<E: Number>(
    x: FlexTensor,
    residual: FlexTensor,
    weight: FlexTensor,
    eps: f64,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let shape = x.shape();
    let (count, n) = rows(&x);
    let (residual, weight) = (Typed::new(residual), Values::new(weight));
    let residual = residual.slice::<E>();

    let mut inv_rms = vec![0f32; count];
    let mut y = Vec::new();
    let sum = update(x, |x: &mut [E]| {
        // SAFETY: the rows make up the whole, and `normalize` writes every element of its rows.
        y = unsafe {
            written(count * n, |y| {
                let size = step(n) * n.max(1);
                let pieces = x.chunks_mut(size).zip(y.chunks_mut(size));
                by_rows(
                    count,
                    n,
                    pieces.zip(inv_rms.chunks_mut(step(n))),
                    |[a, b], i, ((x, y), inv): ((&mut [E], &mut [MaybeUninit<E>]), _)| {
                        let residual = E::read(&residual[i * step(n) * n..][..x.len()], a);
                        E::modify(x, b, |x| add_to(x, residual));
                        // Read again: what is normalized is the sum as it is kept, rounded.
                        let sum = E::read(x, a);
                        E::write(y, b, |y| normalize(sum, &weight, eps as f32, y, inv));
                    },
                );
            })
        };
    });
    let inv_rms = create(one_a_row(shape.clone()), inv_rms);
    (sum, create(shape, y), inv_rms)
}

pub(super) fn backward(
    x: FlexTensor,
    weight: FlexTensor,
    inv_rms: FlexTensor,
    grad: FlexTensor,
) -> FlexTensor {
    with_number!(x.dtype(), E => backward_as::<E>(x, weight, inv_rms, grad))
}

fn backward_as<E: Number>(
    x: FlexTensor,
    weight: FlexTensor,
    inv_rms: FlexTensor,
    grad: FlexTensor,
) -> FlexTensor {
    let (count, n) = rows(&x);
    let (x, weight, inv_rms) = (Typed::new(x), Values::new(weight), Values::new(inv_rms));
    let x = x.slice::<E>();
    update(grad, |grad: &mut [E]| {
        let pieces = grad.chunks_mut(step(n) * n.max(1));
        by_rows(count, n, pieces, |[a, b], i, grad| {
            let x = E::read(&x[i * step(n) * n..][..grad.len()], a);
            E::modify(grad, b, |grad| {
                denormalize(x, &weight, &inv_rms[i * step(n)..], grad);
            });
        });
    })
}

/// [`backward`] plus the sum's own gradient.
pub(super) fn add_backward(
    sum: FlexTensor,
    weight: FlexTensor,
    inv_rms: FlexTensor,
    grad_sum: FlexTensor,
    grad: FlexTensor,
) -> FlexTensor {
    with_number!(sum.dtype(), E => add_backward_as::<E>(sum, weight, inv_rms, grad_sum, grad))
}

fn add_backward_as<E: Number>(
    sum: FlexTensor,
    weight: FlexTensor,
    inv_rms: FlexTensor,
    grad_sum: FlexTensor,
    grad: FlexTensor,
) -> FlexTensor {
    let (count, n) = rows(&sum);
    let (sum, grad_sum) = (Typed::new(sum), Typed::new(grad_sum));
    let (sum, grad_sum) = (sum.slice::<E>(), grad_sum.slice::<E>());
    let (weight, inv_rms) = (Values::new(weight), Values::new(inv_rms));
    update(grad, |grad: &mut [E]| {
        let pieces = grad.chunks_mut(step(n) * n.max(1));
        by_rows(count, n, pieces, |[a, b], i, grad| {
            let range = i * step(n) * n..i * step(n) * n + grad.len();
            E::modify(grad, b, |grad| {
                let sum = E::read(&sum[range.clone()], a);
                denormalize(sum, &weight, &inv_rms[i * step(n)..], grad);
                add_to(grad, E::read(&grad_sum[range], a));
            });
        });
    })
}

pub(super) fn backward_weight(x: FlexTensor, inv_rms: FlexTensor, grad: FlexTensor) -> FlexTensor {
    let dtype = x.dtype();
    let (count, n) = rows(&x);
    let (x, inv_rms, grad) = (Values::new(x), Values::new(inv_rms), Values::new(grad));
    let partials: Vec<Vec<f32>> = (0..count.div_ceil(ROWS))
        .into_par_iter()
        .map(|i| {
            let range = i * ROWS * n..((i + 1) * ROWS).min(count) * n;
            let mut total = vec![0f32; n];
            add_products(
                &x[range.clone()],
                &grad[range],
                &inv_rms[i * ROWS..],
                &mut total,
            );
            total
        })
        .collect();
    let mut total = vec![0f32; n];
    for partial in partials {
        for (total, value) in total.iter_mut().zip(partial) {
            *total += value;
        }
    }
    cast(create(Shape::new([n]), total), dtype)
}

/// What a thread widens half-precision operands into.
type Scratch = [Vec<f32>; 2];

/// Runs `f` on every chunk with its index, on all threads if there are enough elements.
fn by_rows<T: Send>(
    count: usize,
    n: usize,
    chunks: impl Iterator<Item = T> + Send,
    f: impl Fn(&mut Scratch, usize, T) + Sync,
) {
    if n == 0 {
        return;
    }
    if count * n < PARALLEL {
        let mut scratch = Scratch::default();
        chunks
            .enumerate()
            .for_each(|(i, chunk)| f(&mut scratch, i, chunk));
    } else {
        let chunks: Vec<_> = chunks.enumerate().collect();
        chunks
            .into_par_iter()
            .for_each_init(Scratch::default, |scratch, (i, chunk)| f(scratch, i, chunk));
    }
}

vectorised! {
    /// `y = x / rms(x) · weight` and `1 / rms(x)` for every row.
    fn normalize(
        x: &[f32],
        weight: &[f32],
        eps: f32,
        y: &mut [MaybeUninit<f32>],
        inv_rms: &mut [f32],
    ) {
        let n = weight.len();
        for ((x, y), inv_rms) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)).zip(inv_rms) {
            let squares = sum::<LANES>(n, |total, i| mul_add::<FMA>(x[i], x[i], total));
            let inv = 1.0 / (squares / n as f32 + eps).sqrt();
            *inv_rms = inv;
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                y.write(x * inv * w);
            }
        }
    }

    /// `grad` becomes `r · (g·w − x · r² · mean(g·w·x))`.
    fn denormalize(x: &[f32], weight: &[f32], inv_rms: &[f32], grad: &mut [f32]) {
        let n = weight.len();
        for ((x, grad), inv) in x.chunks_exact(n).zip(grad.chunks_exact_mut(n)).zip(inv_rms) {
            let dot = sum::<LANES>(n, |total, i| mul_add::<FMA>(grad[i] * weight[i], x[i], total));
            let factor = inv * inv * dot / n as f32;
            for ((g, x), w) in grad.iter_mut().zip(x).zip(weight) {
                *g = inv * mul_add::<FMA>(-*x, factor, *g * w);
            }
        }
    }

    /// `to += from`.
    fn add_to(to: &mut [f32], from: &[f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to += from;
        }
    }

    /// `total += Σ_rows g · x · r`.
    fn add_products(x: &[f32], grad: &[f32], inv_rms: &[f32], total: &mut [f32]) {
        let n = total.len();
        for ((x, grad), inv) in x.chunks_exact(n).zip(grad.chunks_exact(n)).zip(inv_rms) {
            for ((total, x), g) in total.iter_mut().zip(x).zip(grad) {
                *total = mul_add::<FMA>(x * inv, *g, *total);
            }
        }
    }
}
