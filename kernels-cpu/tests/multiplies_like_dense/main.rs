//! Products against recordings in f64 and against decode-then-multiply, in both directions, in every number type and on
//! every instruction set.

mod dense;
mod int8;
mod low_rank;

use half::{bf16, f16};
use nf4::{Codebook, Direction, Layout, MatrixRef, QuantConfig, QuantizedMatrix};
use qlora_cpu::dense::FEW_ROWS;
use qlora_cpu::{Cpu, Element, Isa, Threads};
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

fn sweep(rng: &mut ChaCha8Rng, shape: [usize; 2], config: QuantConfig, rows: &[usize]) {
    let [n, k] = shape;
    let w = quantized(rng, shape, config);
    let decoded = dense(&w);
    for direction in [Direction::Forward, Direction::Transposed] {
        let (inner, outer) = widths([n, k], direction);
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
        let (inner, outer) = widths([n, k], direction);
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
