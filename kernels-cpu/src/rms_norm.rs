//! Root-mean-square normalization of rows.
//!
//! Bound by memory: forward reads `x` and writes `y`, backward reads `x` and rewrites `grad`; with a
//! residual, forward reads that too and rewrites `x`, backward reads the sum's gradient too. A
//! row fits the first-level cache, so its second pass costs no traffic.

use std::{borrow::Cow, mem::MaybeUninit};

use nf4::rms_norm::RmsNormConfig;
use rayon::prelude::*;

use crate::buffer::written;
use crate::element::Element;
use crate::pieces::{PIECE, for_each};
use crate::simd::math::{LANES, mul_add, sum};
use crate::simd::{Isa, kernel};

/// Rows whose weight gradients are added up before they are added to the others'. Fixed, so that the order of additions
/// is.
const ROWS: usize = 64;

/// Returns the number of rows that a thread takes at a time.
fn rows_at_a_time(n: usize) -> usize {
    (PIECE / n.max(1)).max(1)
}

/// Returns the factors of a row, `[n]`.
fn factors(config: RmsNormConfig, weight: &[f32]) -> Cow<'_, [f32]> {
    if config.unit_offset {
        weight.iter().map(|weight| 1.0 + weight).collect()
    } else {
        Cow::Borrowed(weight)
    }
}

/// A thread's memory for half-precision operands in f32.
type Scratch = [Vec<f32>; 2];

/// Returns the bytes that are kept for the backward pass of `rows` rows of `n` elements: `x`, or its sum with a residual, and one
/// f32 a row.
pub fn saved_bytes(rows: usize, n: usize, element_bytes: usize) -> u128 {
    rows as u128 * (n as u128 * element_bytes as u128 + size_of::<f32>() as u128)
}

/// Returns `x / rms · weight` for every row, and `1 / rms` with `rms = sqrt(mean(x²) + eps)`; the weight is what
/// `config` makes of it.
///
/// `x: [rows, n]`, `weight: [n]`; returns `([rows, n], [rows])`.
///
/// # Panics
/// If `x` is not made of whole rows.
pub fn forward<E: Element>(
    isa: Isa,
    x: &[E],
    weight: &[f32],
    config: RmsNormConfig,
) -> (Vec<E>, Vec<f32>) {
    let size = rows_at_a_time(weight.len()) * weight.len().max(1);
    normalized(isa, x.len(), x.chunks(size), |_, x, _| x, weight, config)
}

/// Returns the sum of `x` and `residual`, which takes the place of `x`, and [`forward`] of it.
///
/// `x` and `residual`: `[rows, n]`, `weight: [n]`; returns `([rows, n], [rows])`.
///
/// # Panics
/// If `x` and `residual` are not made of as many whole rows.
pub fn add_forward<E: Element>(
    isa: Isa,
    x: &mut [E],
    residual: &[E],
    weight: &[f32],
    config: RmsNormConfig,
) -> (Vec<E>, Vec<f32>) {
    assert_eq!(x.len(), residual.len(), "rms_norm: x and residual differ");
    let size = rows_at_a_time(weight.len()) * weight.len().max(1);
    let len = x.len();
    normalized(
        isa,
        len,
        x.chunks_mut(size),
        |i, x, [a, b]| {
            let residual = E::read(isa, &residual[i * size..][..x.len()], a);
            E::modify(isa, x, b, |x| add_to(isa, x, residual));
            // What is normalized is the sum as it is kept, rounded.
            &*x
        },
        weight,
        config,
    )
}

/// Returns [`forward`] of `len` elements in pieces of whole rows: of what `load` makes of piece `i` of `pieces`.
fn normalized<'a, E: Element, P: Send + 'a>(
    isa: Isa,
    len: usize,
    pieces: impl Iterator<Item = P>,
    load: impl Fn(usize, P, &mut Scratch) -> &'a [E] + Sync,
    weight: &[f32],
    config: RmsNormConfig,
) -> (Vec<E>, Vec<f32>) {
    let n = weight.len();
    let (weight, eps) = (&*factors(config, weight), config.eps as f32);
    let step = rows_at_a_time(n);
    let count = count(len, n);
    let mut inv_rms = vec![0f32; count];
    // SAFETY: the rows make up the whole, and `normalize` writes every element of its rows.
    let y = unsafe {
        written(count * n, |y| {
            let to = y.chunks_mut(step * n.max(1)).zip(inv_rms.chunks_mut(step));
            for_each(
                len,
                pieces.zip(to),
                |scratch, i, (x, (y, inv_rms)): (P, (&mut [MaybeUninit<E>], &mut [f32]))| {
                    let x = load(i, x, scratch);
                    let [a, b] = scratch;
                    let x = E::read(isa, x, a);
                    E::write(isa, y, b, |y| normalize(isa, x, weight, eps, y, inv_rms));
                },
            );
        })
    };
    (y, inv_rms)
}

/// Returns the number of rows of `n` elements in `len` elements.
fn count(len: usize, n: usize) -> usize {
    assert!(
        len.is_multiple_of(n),
        "rms_norm: {len} elements are not rows of {n}"
    );
    len / n.max(1)
}

/// Turns `grad`, the gradient of [`forward`]'s result, into that of `x`.
///
/// `x` and `grad`: `[rows, n]`, `weight: [n]`, `inv_rms: [rows]`, as [`forward`] returned it.
///
/// # Panics
/// If the lengths do not fit each other.
pub fn backward<E: Element>(
    isa: Isa,
    x: &[E],
    weight: &[f32],
    inv_rms: &[f32],
    grad: &mut [E],
    config: RmsNormConfig,
) {
    let weight = &*factors(config, weight);
    by_rows(x, weight, inv_rms, grad, |[a, b], _, x, inv_rms, grad| {
        let x = E::read(isa, x, a);
        E::modify(isa, grad, b, |grad| {
            denormalize(isa, x, weight, inv_rms, grad)
        });
    });
}

/// Does the [`backward`] of [`add_forward`]: `grad` becomes the gradient of both addends, that of the `sum` itself
/// included.
///
/// `sum`, `grad_sum` and `grad`: `[rows, n]`, `weight: [n]`, `inv_rms: [rows]`.
///
/// # Panics
/// If the lengths do not fit each other.
pub fn add_backward<E: Element>(
    isa: Isa,
    sum: &[E],
    weight: &[f32],
    inv_rms: &[f32],
    grad_sum: &[E],
    grad: &mut [E],
    config: RmsNormConfig,
) {
    let weight = &*factors(config, weight);
    assert_eq!(
        sum.len(),
        grad_sum.len(),
        "rms_norm: sum and its gradient differ"
    );
    by_rows(
        sum,
        weight,
        inv_rms,
        grad,
        |[a, b], first, sum, inv_rms, grad| {
            let grad_sum = &grad_sum[first..][..grad.len()];
            E::modify(isa, grad, b, |grad| {
                denormalize(isa, E::read(isa, sum, a), weight, inv_rms, grad);
                add_to(isa, grad, E::read(isa, grad_sum, a));
            });
        },
    );
}

/// Runs `f` on pieces of whole rows: scratch, the index of the first element, and the piece of `x`, of `inv_rms` and
/// of `grad`.
fn by_rows<E: Element>(
    x: &[E],
    weight: &[f32],
    inv_rms: &[f32],
    grad: &mut [E],
    f: impl Fn(&mut Scratch, usize, &[E], &[f32], &mut [E]) + Sync,
) {
    let n = weight.len();
    let step = rows_at_a_time(n);
    let rows = count(x.len(), n);
    assert_eq!(
        [grad.len(), inv_rms.len()],
        [x.len(), rows],
        "rms_norm: operands of the backward pass differ"
    );
    let size = step * n.max(1);
    let pieces = x.chunks(size).zip(inv_rms.chunks(step));
    for_each(
        x.len(),
        pieces.zip(grad.chunks_mut(size)),
        |scratch, i, ((x, inv_rms), grad)| f(scratch, i * size, x, inv_rms, grad),
    );
}

/// Returns the gradient of the weight, `[n]`: the sum over all rows of `grad · x / rms`.
///
/// `x` and `grad`: `[rows, n]`, `inv_rms: [rows]`.
///
/// # Panics
/// If the lengths do not fit each other.
pub fn backward_weight(isa: Isa, x: &[f32], inv_rms: &[f32], grad: &[f32], n: usize) -> Vec<f32> {
    let rows = count(x.len(), n);
    assert_eq!(
        [grad.len(), inv_rms.len()],
        [x.len(), rows],
        "rms_norm: operands of the backward pass differ"
    );
    let partials: Vec<Vec<f32>> = (0..rows.div_ceil(ROWS))
        .into_par_iter()
        .map(|i| {
            let range = i * ROWS * n..((i + 1) * ROWS).min(rows) * n;
            let mut total = vec![0f32; n];
            let (x, grad) = (&x[range.clone()], &grad[range]);
            add_products(isa, x, grad, &inv_rms[i * ROWS..], &mut total);
            total
        })
        .collect();
    let mut total = vec![0f32; n];
    for partial in partials {
        for (total, value) in total.iter_mut().zip(partial) {
            *total += value;
        }
    }
    total
}

kernel! {
    /// Computes `y = x / rms(x) · weight` and `1 / rms(x)` for every row.
    fn normalize<S: Simd>(
        x: &[f32],
        weight: &[f32],
        eps: f32,
        y: &mut [MaybeUninit<f32>],
        inv_rms: &mut [f32],
    ) {
        let n = weight.len();
        for ((x, y), inv_rms) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)).zip(inv_rms) {
            let squares = sum::<LANES>(n, |total, i| mul_add::<S>(x[i], x[i], total));
            let inv = 1.0 / (squares / n as f32 + eps).sqrt();
            *inv_rms = inv;
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                y.write(x * inv * w);
            }
        }
    }

    /// Turns `grad` into `r · (g·w − x · r² · mean(g·w·x))`.
    fn denormalize<S: Simd>(x: &[f32], weight: &[f32], inv_rms: &[f32], grad: &mut [f32]) {
        let n = weight.len();
        for ((x, grad), inv) in x.chunks_exact(n).zip(grad.chunks_exact_mut(n)).zip(inv_rms) {
            let dot = sum::<LANES>(n, |total, i| mul_add::<S>(grad[i] * weight[i], x[i], total));
            let factor = inv * inv * dot / n as f32;
            for ((g, x), w) in grad.iter_mut().zip(x).zip(weight) {
                *g = inv * mul_add::<S>(-*x, factor, *g * w);
            }
        }
    }

    /// Adds `from` to `to`.
    fn add_to<S: Simd>(to: &mut [f32], from: &[f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to += from;
        }
    }

    /// Adds `Σ_rows g · x · r` to `total`.
    fn add_products<S: Simd>(x: &[f32], grad: &[f32], inv_rms: &[f32], total: &mut [f32]) {
        let n = total.len();
        for ((x, grad), inv) in x.chunks_exact(n).zip(grad.chunks_exact(n)).zip(inv_rms) {
            for ((total, x), g) in total.iter_mut().zip(x).zip(grad) {
                *total = mul_add::<S>(x * inv, *g, *total);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(len: usize, step: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * step).sin()).collect()
    }

    /// Rows of 64 elements and of a width that no vector divides, more than one piece and more than one thread's.
    #[test]
    fn every_instruction_set_is_near_the_formula() {
        for (rows, n, unit_offset) in [(3, 64, false), (700, 77, false), (700, 77, true)] {
            let eps = 1e-5;
            let config = RmsNormConfig::new(eps).with_unit_offset(unit_offset);
            let (x, residual) = (wave(rows * n, 0.3), wave(rows * n, 0.7));
            let (weight, grad) = (wave(n, 0.9), wave(rows * n, 1.1));
            for isa in Isa::available() {
                let mut sum = x.clone();
                let (y, inv) = add_forward(*isa, &mut sum, &residual, &weight, config);
                assert_eq!(
                    (y.clone(), inv.clone()),
                    forward(*isa, &sum, &weight, config)
                );
                let (mut dx, mut dsum) = (grad.clone(), grad.clone());
                backward(*isa, &sum, &weight, &inv, &mut dx, config);
                add_backward(*isa, &sum, &weight, &inv, &residual, &mut dsum, config);
                let dweight = backward_weight(*isa, &sum, &inv, &grad, n);
                let mut expected_dweight = vec![0f64; n];
                for row in 0..rows {
                    let range = row * n..(row + 1) * n;
                    let sum: Vec<f64> = range
                        .clone()
                        .map(|i| f64::from(x[i] + residual[i]))
                        .collect();
                    let square = sum.iter().map(|x| x * x).sum::<f64>() / n as f64;
                    let r = 1.0 / (square + 1e-5).sqrt();
                    let g: Vec<f64> = range.clone().map(|i| f64::from(grad[i])).collect();
                    let one = f64::from(unit_offset as u8);
                    let w: Vec<f64> = weight.iter().map(|w| f64::from(*w) + one).collect();
                    let dot: f64 = (0..n).map(|i| g[i] * w[i] * sum[i]).sum::<f64>() / n as f64;
                    for (i, at) in range.enumerate() {
                        let near =
                            |found: f32, expected: f64| (f64::from(found) - expected).abs() < 1e-5;
                        let expected = r * (g[i] * w[i] - sum[i] * r * r * dot);
                        assert!(near(y[at], sum[i] * r * w[i]), "{isa:?}");
                        assert!(near(dx[at], expected), "{isa:?}");
                        assert!(
                            near(dsum[at], expected + f64::from(residual[at])),
                            "{isa:?}"
                        );
                        expected_dweight[i] += g[i] * sum[i] * r;
                    }
                }
                let pairs = dweight.iter().zip(&expected_dweight);
                assert!(
                    pairs
                        .into_iter()
                        .all(|(a, b)| (f64::from(*a) - b).abs() < 1e-3),
                    "{isa:?}"
                );
            }
        }
    }
}
