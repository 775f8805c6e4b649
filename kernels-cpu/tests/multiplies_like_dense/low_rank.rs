//! Products with a quantized matrix and a low-rank one on top of it, and their gradients.

use half::{bf16, f16};
use nf4::QuantConfig;
use qlora_cpu::low_rank::{Gradients, LowRank};
use qlora_cpu::{Element, Isa};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{Float, dense, exactly, on, quantized, random};

/// `a·b` in f64 for row-major matrices, `a` transposed if `transpose`.
fn product(a: &[f64], b: &[f64], inner: usize, transpose: bool) -> Vec<f64> {
    let (rows, columns) = (a.len() / inner, b.len() / inner);
    let a_at = |i: usize, k: usize| {
        if transpose {
            a[k * rows + i]
        } else {
            a[i * inner + k]
        }
    };
    (0..rows * columns)
        .map(|at| {
            let (i, j) = (at / columns, at % columns);
            (0..inner).map(|k| a_at(i, k) * b[k * columns + j]).sum()
        })
        .collect()
}

fn transposed(a: &[f64], columns: usize) -> Vec<f64> {
    let rows = a.len() / columns;
    (0..a.len())
        .map(|at| a[at % rows * columns + at / rows])
        .collect()
}

/// The largest difference, relative to the root of the mean square.
fn difference<E: Float>(found: &[E], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = (expected.iter().map(|v| v * v).sum::<f64>() / expected.len() as f64).sqrt();
    let largest = |max: f64, (a, b): (&E, &f64)| max.max((f64::from(a.widen()) - b).abs());
    found.iter().zip(expected).fold(0.0, largest) / norm
}

fn low_rank_products<E: Element + Float>(rng: &mut ChaCha8Rng, tolerance: f64) {
    for ([n, k], rank) in [
        ([33, 50], 3),
        ([64, 96], 16),
        ([72, 176], 33),
        ([130, 24], 1),
        ([16, 800], 8),
    ] {
        let w = quantized(rng, [n, k], QuantConfig::default());
        let weights: Vec<f64> = dense(&w).into_iter().map(f64::from).collect();
        let (a, b) = (random(rng, k * rank), random(rng, rank * n));
        let scale = 0.5f32;
        let low_rank = LowRank::new(&a, &b, rank, scale);
        let wide = |values: &[f32]| -> Vec<f64> { values.iter().map(|v| f64::from(*v)).collect() };
        let (a64, b64) = (wide(&a), wide(&b));
        // [k, n], as everything of a LoRA layer is seen from x.
        let delta = product(&a64, &b64, rank, false);
        let whole: Vec<f64> = transposed(&weights, k)
            .iter()
            .zip(delta)
            .map(|(w, delta)| w + f64::from(scale) * delta)
            .collect();
        // More rows than are packed at once are part of it.
        for m in [1, 4, 7, 30, 1030] {
            let (x, x64) = exactly::<E>(&random(rng, m * k));
            let (dy, dy64) = exactly::<E>(&random(rng, m * n));
            let (x64, dy64) = (wide(&x64), wide(&dy64));
            let scaled = |values: Vec<f64>| -> Vec<f64> {
                values
                    .into_iter()
                    .map(|value| value * f64::from(scale))
                    .collect()
            };
            let y_expected = product(&x64, &whole, k, false);
            let dx_expected = product(&dy64, &transposed(&whole, n), n, false);
            let inner = scaled(product(&x64, &a64, k, false));
            let dinner = scaled(product(&dy64, &transposed(&b64, n), n, false));
            let da_expected = product(&x64, &dinner, m, true);
            let db_expected = product(&inner, &dy64, m, true);
            for isa in Isa::available() {
                let what = format!("{isa:?} m={m} n={n} k={k} rank={rank}");
                let y = on(isa).low_rank_forward(w.as_ref(), low_rank, &x, m);
                let backward = |wants_dx| {
                    on(isa).low_rank_backward(w.as_ref(), low_rank, &x, &dy, m, wants_dx)
                };
                let Gradients { x: dx, a, b } = backward(true);
                let dx = dx.expect("the gradient of x was asked for");
                for (name, error) in [
                    ("y", difference(&y, &y_expected)),
                    ("dx", difference(&dx, &dx_expected)),
                    ("da", difference(&a, &da_expected)),
                    ("db", difference(&b, &db_expected)),
                ] {
                    assert!(error <= tolerance, "{what}: {name} is off by {error}");
                }
                let alone = backward(false);
                let same = alone.a == a && alone.b == b && alone.x.is_none();
                assert!(same, "{what}: without dx");
            }
        }
    }
}

/// Relative to the typical element: f32 sums of some hundred terms are off by a few 1e-6, bf16 rounds operands and
/// results by up to 4e-3 each, f16 by an eighth of that.
#[test]
fn a_low_rank_matrix_on_top_is_part_of_the_product() {
    let rng = &mut ChaCha8Rng::seed_from_u64(7);
    low_rank_products::<f32>(rng, 1e-5);
    low_rank_products::<f16>(rng, 3e-3);
    low_rank_products::<bf16>(rng, 3e-2);
}
