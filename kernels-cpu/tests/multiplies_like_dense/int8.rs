//! Products in integers of 8 bits.

use half::bf16;
use nf4::{Direction, QuantConfig};
use qlora_cpu::low_rank::LowRank;
use qlora_cpu::{Cpu, Isa, QuantizedProducts};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{BLOCKED, exactly, on, quantized, random};

fn in_int8(isa: &Isa) -> Cpu {
    on(isa).with_products(QuantizedProducts::Int8)
}

#[test]
fn int8_products_keep_what_is_no_number() {
    let shape = [40, 128];
    let w = quantized(
        &mut ChaCha8Rng::seed_from_u64(9),
        shape,
        QuantConfig::default(),
    );
    for (lost, value) in [(3, f32::NAN), (5, f32::INFINITY)] {
        let mut x = vec![bf16::from_f32(0.25); BLOCKED * 128];
        x[lost * 128 + 70] = bf16::from_f32(value);
        for isa in Isa::available() {
            let mut y = vec![bf16::ZERO; BLOCKED * 40];
            in_int8(isa).matmul(w.as_ref(), &x, BLOCKED, &mut y, Direction::Forward);
            for (row, y) in y.chunks(40).enumerate() {
                let all_numbers = y.iter().all(|y| y.is_finite());
                let none = y.iter().all(|y| !y.is_finite());
                assert!(
                    if row == lost { none } else { all_numbers },
                    "{isa:?} {value} row {row}"
                );
            }
        }
    }
}

/// The gradients of a low-rank matrix are the same bits. A result is a product in int8 and what the matrix adds, rounded to bf16
/// once: 8e-3 of the larger of both.
#[test]
fn int8_is_the_quantized_products_alone() {
    let rng = &mut ChaCha8Rng::seed_from_u64(10);
    let ([n, k], rank, m) = ([72, 176], 16, 1030);
    let w = quantized(rng, [n, k], QuantConfig::default());
    let (a, b) = (random(rng, k * rank), random(rng, rank * n));
    let low_rank = LowRank::new(&a, &b, rank, 0.5);
    let (x, _) = exactly::<bf16>(&random(rng, m * k));
    let (dy, _) = exactly::<bf16>(&random(rng, m * n));
    for isa in Isa::available() {
        let products = |cpu: Cpu| {
            let y = cpu.low_rank_forward(w.as_ref(), low_rank, &x, m);
            let back = cpu.low_rank_backward(w.as_ref(), low_rank, &x, &dy, m, true);
            let base_y = cpu.matmul_vec(w.as_ref(), &x, m, Direction::Forward);
            let base_dx = cpu.matmul_vec(w.as_ref(), &dy, m, Direction::Transposed);
            let dx = back.x.expect("the gradient of x was asked for");
            let added = |whole: Vec<bf16>, base: &[bf16]| -> Vec<f64> {
                let difference = |(whole, base): (&bf16, &bf16)| whole.to_f64() - base.to_f64();
                whole.iter().zip(base).map(difference).collect()
            };
            let largest = |values: &[bf16]| {
                let magnitudes = values.iter().map(|value| value.to_f64().abs());
                magnitudes.fold(0.0, f64::max)
            };
            let bounds = [
                largest(&y).max(largest(&base_y)),
                largest(&dx).max(largest(&base_dx)),
            ];
            (
                [added(y, &base_y), added(dx, &base_dx)],
                bounds,
                back.a,
                back.b,
                base_y,
            )
        };
        let (added, bounds, da, db, base) = products(in_int8(isa));
        let (added_float, _, da_float, db_float, base_float) = products(on(isa));
        assert!(da == da_float && db == db_float, "{isa:?}");
        assert_ne!(base, base_float, "{isa:?}: int8 should round");
        for ((found, expected), bound) in added.iter().zip(&added_float).zip(bounds) {
            let error = found
                .iter()
                .zip(expected)
                .fold(0.0, |worst: f64, (a, b)| worst.max((a - b).abs()));
            assert!(
                error <= 2.0 * 8e-3 * bound,
                "{isa:?}: off by {error} of {bound}"
            );
        }
    }
}
