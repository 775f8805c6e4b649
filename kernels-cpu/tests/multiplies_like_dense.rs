//! Products against recordings in f64 and against decode-then-multiply, in both directions, in every number type and on
//! every instruction set.

use half::{bf16, f16};
use nf4::{Codebook, Direction, Layout, MatrixRef, QuantConfig, QuantizedMatrix};
use qlora_cpu::dense::{Beta, DenseRef, FEW_ROWS};
use qlora_cpu::low_rank::{Gradients, LowRank};
use qlora_cpu::{Cpu, Element, Isa, QuantizedProducts, Threads};
use qlora_test_support::{Recording, Tolerance, assert_within, bitsandbytes};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn on(isa: &Isa) -> Cpu {
    Cpu::new(*isa, Threads::All)
}

fn random(rng: &mut ChaCha8Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn quantized(rng: &mut ChaCha8Rng, shape: [usize; 2], config: QuantConfig) -> QuantizedMatrix {
    qlora_cpu::quantize(&random(rng, shape[0] * shape[1]), shape, config).unwrap()
}

fn dense(w: &QuantizedMatrix) -> Vec<f32> {
    let mut dense = vec![0.0; w.layout().elements()];
    qlora_cpu::dequantize(w.as_ref(), &mut dense);
    dense
}

/// The product in f64, and the sum of the magnitudes of its terms, which rounding errors are relative to.
fn reference(
    w: &[f32],
    [n, k]: [usize; 2],
    x: &[f32],
    m: usize,
    direction: Direction,
) -> Vec<(f64, f64)> {
    let term = |i: usize, row: usize, column: usize| match direction {
        Direction::Forward => f64::from(x[i * k + column]) * f64::from(w[row * k + column]),
        Direction::Transposed => f64::from(x[i * n + row]) * f64::from(w[row * k + column]),
    };
    let sum = |terms: &mut dyn Iterator<Item = f64>| {
        terms.fold((0.0, 0.0), |(s, a), t| (s + t, a + t.abs()))
    };
    let mut out = Vec::new();
    for i in 0..m {
        match direction {
            Direction::Forward => {
                out.extend((0..n).map(|r| sum(&mut (0..k).map(|c| term(i, r, c)))))
            }
            Direction::Transposed => {
                out.extend((0..k).map(|c| sum(&mut (0..n).map(|r| term(i, r, c)))))
            }
        }
    }
    out
}

/// Rounding errors of a sum of `len` terms, of the sum of their magnitudes: f32 rounds by 6e-8; a sum rounds about `sqrt(len)`
/// times as much, and 4 is slack.
fn rounding(len: usize) -> f64 {
    4.0 * 6e-8 * (len as f64).sqrt().max(2.0)
}

fn assert_close(found: &[f32], expected: &[(f64, f64)], len: usize, what: &str) {
    let (values, magnitudes): (Vec<f64>, Vec<f64>) = expected.iter().copied().unzip();
    let reason = "the rounding of a sum in f32";
    assert_within(what, found, &values, reason, |i| {
        rounding(len) * magnitudes[i]
    });
}

/// [`assert_close`] for a result that was rounded to a type with `digits` bits after the leading one.
fn assert_close_rounded(
    found: &[f32],
    expected: &[(f64, f64)],
    len: usize,
    digits: i32,
    what: &str,
) {
    let (values, magnitudes): (Vec<f64>, Vec<f64>) = expected.iter().copied().unzip();
    // Half a unit of the last place, and as much for the sum having fallen on the other side of the middle.
    let reason = "the rounding of a sum in f32, and that of its result";
    assert_within(what, found, &values, reason, |i| {
        rounding(len) * magnitudes[i] + values[i].abs() * 2f64.powi(-digits) + 1e-7
    });
}

/// Values that `E` holds exactly, as it and as f32.
fn exactly<E: Element + Float>(values: &[f32]) -> (Vec<E>, Vec<f32>) {
    let narrow: Vec<E> = values.iter().map(|value| E::narrow(*value)).collect();
    let wide = narrow.iter().map(|value| value.widen()).collect();
    (narrow, wide)
}

trait Float: Copy {
    /// Bits after the leading one.
    const DIGITS: i32;
    fn narrow(value: f32) -> Self;
    fn widen(self) -> f32;
}

impl Float for f32 {
    const DIGITS: i32 = 23;
    fn narrow(value: f32) -> Self {
        value
    }
    fn widen(self) -> f32 {
        self
    }
}

impl Float for f16 {
    const DIGITS: i32 = 10;
    fn narrow(value: f32) -> Self {
        f16::from_f32(value)
    }
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Float for bf16 {
    const DIGITS: i32 = 7;
    fn narrow(value: f32) -> Self {
        bf16::from_f32(value)
    }
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// Rows from which on bf16 products round the weights too.
const BLOCKED: usize = FEW_ROWS + 1;

/// Returns the weights with the value of each code rounded to bf16, as bitsandbytes' `kgemv_4bit_inference_naive` has them. Rows
/// are whole words.
fn with_rounded_codes(w: &QuantizedMatrix, exact: &[f32]) -> Vec<f32> {
    let values = Codebook::Nf4.values();
    let code = |i: usize| w.packed()[i / 8] >> (4 * (i % 8)) & 15;
    let rounded = |(i, weight): (usize, &f32)| match values[code(i) as usize] {
        0.0 => 0.0,
        value => {
            let factor = f64::from(bf16::from_f32(value)) / f64::from(value);
            (f64::from(*weight) * factor) as f32
        }
    };
    exact.iter().enumerate().map(rounded).collect()
}

fn half_precision<E: Element + Float>(rng: &mut ChaCha8Rng, rounds_weights: bool) {
    for shape in [
        [1, 1],
        [3, 5],
        [33, 50],
        [65, 136],
        [130, 257],
        [20, 1304],
        [1300, 9],
        [70, 1600],
    ] {
        let [n, k] = shape;
        let w = quantized(rng, shape, QuantConfig::default());
        let exact = dense(&w);
        let (_, rounded) = exactly::<bf16>(&exact);
        for direction in [Direction::Forward, Direction::Transposed] {
            let (inner, outer) = widths(shape, direction);
            for m in [1, 2, 3, 5, 7, 8, 9, 13, 40] {
                let (x, wide) = exactly::<E>(&random(rng, m * inner));
                let rounds = rounds_weights && (m >= BLOCKED || k % 8 != 0);
                let weights = if rounds { &rounded } else { &exact };
                let expected = reference(weights, [n, k], &wide, m, direction);
                let in_pairs = rounds_weights && !rounds && direction == Direction::Forward;
                let expected_in_pairs = in_pairs.then(|| {
                    let weights = with_rounded_codes(&w, &exact);
                    reference(&weights, [n, k], &wide, m, direction)
                });
                for isa in Isa::available() {
                    let expected = match &expected_in_pairs {
                        Some(in_pairs) if isa.name() == "avx512bf16" => in_pairs,
                        _ => &expected,
                    };
                    let mut y = vec![E::narrow(f32::NAN); m * outer];
                    on(isa).matmul(w.as_ref(), &x, m, &mut y, direction);
                    let y: Vec<f32> = y.into_iter().map(Float::widen).collect();
                    let what = format!("{isa:?} {direction:?} m={m} n={n} k={k}");
                    assert_close_rounded(&y, expected, inner, E::DIGITS, &what);
                }
            }
        }
    }
}

fn widths([n, k]: [usize; 2], direction: Direction) -> (usize, usize) {
    match direction {
        Direction::Forward => (k, n),
        Direction::Transposed => (n, k),
    }
}

#[test]
fn half_precision_multiplies_like_the_decoded_matrix() {
    let rng = &mut ChaCha8Rng::seed_from_u64(5);
    half_precision::<bf16>(rng, true);
    half_precision::<f16>(rng, false);
}

fn dense_products<W: Element + Float>(rng: &mut ChaCha8Rng) {
    for shape in [
        [1, 1],
        [3, 5],
        [17, 16],
        [33, 50],
        [130, 257],
        [300, 40],
        [40, 1300],
    ] {
        let (values, weights) = exactly::<W>(&random(rng, shape[0] * shape[1]));
        let gap = [W::narrow(f32::NAN); 3];
        let strided: Vec<W> = values
            .chunks(shape[1])
            .flat_map(|row| row.iter().copied().chain(gap))
            .collect();
        let strided = DenseRef::with_stride(&strided, shape, shape[1] + gap.len());
        let w = DenseRef::new(&values, shape);
        for direction in [Direction::Forward, Direction::Transposed] {
            let (inner, outer) = widths(shape, direction);
            for m in [0, 1, 5, 13, 40] {
                let (x, wide) = exactly::<W>(&random(rng, m * inner));
                let mut expected = reference(&weights, shape, &wide, m, direction);
                for isa in Isa::available() {
                    for threads in [Threads::All, Threads::Calling] {
                        let mut y = vec![f32::NAN; m * outer];
                        Cpu::new(*isa, threads).dense_matmul(
                            w,
                            &x,
                            m,
                            &mut y,
                            direction,
                            Beta::Zero,
                        );
                        let what = format!("{isa:?} {direction:?} m={m} {shape:?} {threads:?}");
                        assert_close(&y, &expected, inner, &what);
                    }
                }
                let mut y = vec![f32::NAN; m * outer];
                let calling = Cpu::calling_thread();
                calling.dense_matmul(strided, &x, m, &mut y, direction, Beta::Zero);
                let what = format!("{direction:?} m={m} {shape:?} strided");
                assert_close(&y, &expected, inner, &what);
                if direction == Direction::Transposed {
                    let columns: Vec<f32> = (0..inner * m)
                        .map(|i| wide[i % m * inner + i / m])
                        .collect();
                    for isa in Isa::available() {
                        let mut y = vec![f32::NAN; m * outer];
                        Cpu::new(*isa, Threads::Calling).dense_transposed_matmul(
                            strided,
                            &columns,
                            m,
                            &mut y,
                            Beta::Zero,
                        );
                        let what = format!("{isa:?} m={m} {shape:?} from columns");
                        assert_close(&y, &expected, inner, &what);
                    }
                }
                // The operand may be wider than the matrix; it is rounded on the way.
                let mut y = vec![2.0f32; m * outer];
                Cpu::default().dense_matmul(w, &wide, m, &mut y, direction, Beta::One);
                expected.iter_mut().for_each(|(sum, _)| *sum += 2.0);
                expected
                    .iter_mut()
                    .for_each(|(_, magnitude)| *magnitude += 2.0);
                assert_close(
                    &y,
                    &expected,
                    inner,
                    &format!("{direction:?} m={m} {shape:?} added"),
                );
            }
        }
    }
}

#[test]
fn dense_matrices_are_multiplied() {
    let rng = &mut ChaCha8Rng::seed_from_u64(6);
    dense_products::<f32>(rng);
    dense_products::<f16>(rng);
    dense_products::<bf16>(rng);
}

/// `a·b` in f64 for row-major matrices, `a` transposed if `transpose`.
fn few_rows_of_dense_products<E: Element + Float>(rng: &mut ChaCha8Rng) {
    for shape in [[1, 1], [3, 5], [17, 16], [33, 50], [300, 257], [900, 96]] {
        let [n, k] = shape;
        let (values, weights) = exactly::<E>(&random(rng, n * k));
        let gap = [E::narrow(f32::NAN); 3];
        let rows = values.chunks(k);
        let strided: Vec<E> = rows
            .flat_map(|row| row.iter().copied().chain(gap))
            .collect();
        let strided = DenseRef::with_stride(&strided, shape, k + gap.len());
        let (x, wide) = exactly::<E>(&random(rng, FEW_ROWS * k));
        let expected = reference(&weights, shape, &wide, FEW_ROWS, Direction::Forward);
        for isa in Isa::available() {
            let product = |x: &[E], w| {
                let m = x.len() / k;
                let mut y = vec![E::narrow(f32::NAN); m * n];
                on(isa).dense_matmul_few_rows(w, x, m, &mut y);
                y.into_iter().map(Float::widen).collect::<Vec<_>>()
            };
            let all = product(&x, DenseRef::new(&values, shape));
            let what = format!("{isa:?} {shape:?}");
            assert_close_rounded(&all, &expected, k, E::DIGITS, &what);
            assert_eq!(all, product(&x, strided), "{what} strided");
            for m in 0..FEW_ROWS {
                let alone = product(&x[m * k..][..k], strided);
                assert_eq!(alone, all[m * n..][..n], "{what} row {m} alone");
                let some = product(&x[..m * k], strided);
                assert_eq!(some, all[..m * n], "{what} {m} rows");
            }
        }
    }
}

#[test]
fn a_row_of_few_has_the_bits_that_it_has_alone() {
    let rng = &mut ChaCha8Rng::seed_from_u64(8);
    few_rows_of_dense_products::<f32>(rng);
    few_rows_of_dense_products::<f16>(rng);
    few_rows_of_dense_products::<bf16>(rng);
    for shape in [[70, 576], [40, 136], [33, 24]] {
        let [n, k] = shape;
        let w = quantized(rng, shape, QuantConfig::default());
        let x = random(rng, FEW_ROWS * k);
        for isa in Isa::available() {
            let product =
                |x: &[f32]| on(isa).matmul_vec(w.as_ref(), x, x.len() / k, Direction::Forward);
            let all = product(&x);
            for (x, row) in x.chunks(k).zip(all.chunks(n)) {
                assert_eq!(product(x), row, "{isa:?} {shape:?}");
            }
        }
    }
}

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

fn sweep(rng: &mut ChaCha8Rng, shape: [usize; 2], config: QuantConfig, rows: &[usize]) {
    let [n, k] = shape;
    let w = quantized(rng, shape, config);
    let decoded = dense(&w);
    for direction in [Direction::Forward, Direction::Transposed] {
        let (inner, outer) = if direction == Direction::Forward {
            (k, n)
        } else {
            (n, k)
        };
        for &m in rows {
            let x = random(rng, m * inner);
            let expected = reference(&decoded, shape, &x, m, direction);
            for isa in Isa::available() {
                let mut y = vec![f32::NAN; m * outer];
                on(isa).matmul(w.as_ref(), &x, m, &mut y, direction);
                let what = format!("{isa:?} {direction:?} m={m} n={n} k={k} {config:?}");
                assert_close(&y, &expected, inner, &what);
            }
        }
    }
}

#[test]
fn odd_shapes_multiply_like_the_decoded_matrix() {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let shapes = [
        [1, 1],
        [1, 8],
        [3, 5],
        [7, 9],
        [31, 33],
        [32, 32],
        [33, 50],
        [16, 176],
        [40, 24],
        [65, 136],
        [100, 200],
        [130, 257],
        [20, 1304],
        [5, 1300],
        [700, 40],
        [1300, 9],
        [48, 656],
    ];
    for shape in shapes {
        sweep(
            rng,
            shape,
            QuantConfig::default(),
            &[0, 1, 2, 3, 4, 6, 7, 8, 9, 12, 13, 27],
        );
    }
}

#[test]
fn every_format_multiplies_like_the_decoded_matrix() {
    let rng = &mut ChaCha8Rng::seed_from_u64(2);
    for codebook in Codebook::ALL {
        for (block_size, double_quant) in [
            (32, true),
            (128, false),
            (256, true),
            (1024, true),
            (4096, true),
        ] {
            let config = QuantConfig {
                codebook,
                block_size,
                double_quant,
            };
            for shape in [[70, 176], [33, 51], [40, 256], [96, 1024]] {
                sweep(rng, shape, config, &[1, 3, 14]);
            }
        }
    }
}

#[test]
fn recorded_products_are_met() {
    let file = Recording::open("matmul.safetensors");
    let map = file.f32("nested_code_map");
    let tolerance = Tolerance::of_largest(
        1e-5,
        "an f32 sum of a few hundred terms is right to 1e-6, in any order to 1e-5",
    );
    let mut cases = 0;
    for case in file
        .names()
        .iter()
        .filter_map(|name| name.strip_suffix("/packed"))
    {
        let part = |name: &str| format!("{case}/{name}");
        let x_shape = file.shape(&part("x"));
        let (m, k) = (x_shape[0], x_shape[1]);
        let n = file.shape(&part("dy"))[1];
        let layout = Layout::new([n, k], QuantConfig::default()).unwrap();
        let packed = bitsandbytes::packed_words(file.bytes(&part("packed")), n * k);
        let absmax = bitsandbytes::scale_words(
            file.bytes(&part("absmax_codes")),
            &file.f32(&part("nested_absmax")),
            file.f32(&part("nested_offset"))[0],
            &map,
        );
        let w = MatrixRef::new(layout, &packed, &absmax).unwrap();
        for isa in Isa::available() {
            for (x, y, direction) in [
                ("x", "y", Direction::Forward),
                ("dy", "dx", Direction::Transposed),
            ] {
                let expected = file.f64(&part(y));
                let mut found = vec![0.0; expected.len()];
                on(isa).matmul(w, &file.f32(&part(x)), m, &mut found, direction);
                let what = format!("{case}/{y} on {isa:?}");
                qlora_test_support::assert_close(&what, &found, &expected, tolerance);
            }
        }
        cases += 1;
    }
    assert!(cases >= 3);
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    let [n, k] = [520, 1360];
    let w = quantized(rng, [n, k], QuantConfig::default());
    let matrix = random(rng, n * k);
    for direction in [Direction::Forward, Direction::Transposed] {
        let (inner, outer) = if direction == Direction::Forward {
            (k, n)
        } else {
            (n, k)
        };
        for m in [1, 5, 30] {
            let x = random(rng, m * inner);
            let results: Vec<_> = [1, 2, 3, 7]
                .into_iter()
                .map(|threads| {
                    let pool = rayon::ThreadPoolBuilder::new()
                        .num_threads(threads)
                        .build()
                        .unwrap();
                    let mut y = vec![0.0; m * outer];
                    pool.install(|| qlora_cpu::matmul(w.as_ref(), &x, m, &mut y, direction));
                    let again = pool
                        .install(|| qlora_cpu::quantize(&matrix, [n, k], QuantConfig::default()));
                    (
                        y.iter().map(|y| y.to_bits()).collect::<Vec<_>>(),
                        again.unwrap(),
                    )
                })
                .collect();
            assert!(
                results.iter().all(|result| *result == results[0]),
                "{direction:?} m={m}"
            );
        }
    }
}

#[test]
fn products_that_wait_inside_other_products_do_not_share_scratch() {
    use rayon::prelude::*;
    let rng = &mut ChaCha8Rng::seed_from_u64(4);
    let [n, k] = [160, 320];
    let w = quantized(rng, [n, k], QuantConfig::default());
    let x = random(rng, 40 * k);
    let product = || {
        let mut y = vec![0.0; 40 * n];
        qlora_cpu::matmul(w.as_ref(), &x, 40, &mut y, Direction::Forward);
        y
    };
    let alone = product();
    assert!(
        (0..64)
            .into_par_iter()
            .map(|_| product())
            .all(|y| y == alone)
    );
}

#[test]
#[should_panic(expected = "`x` must hold [3, 8] values")]
fn a_wrong_number_of_rows_is_refused() {
    let w = qlora_cpu::quantize(&[0.5f32; 16], [2, 8], QuantConfig::default()).unwrap();
    qlora_cpu::matmul(w.as_ref(), &[0.0; 16], 3, &mut [0.0; 6], Direction::Forward);
}
