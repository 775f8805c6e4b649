//! Products against recordings in f64 and against decode-then-multiply, in both directions and on every instruction set.

use std::path::PathBuf;

use nf4::{Codebook, Direction, Isa, Layout, MatrixRef, QuantConfig, QuantizedMatrix};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;

fn random(rng: &mut ChaCha8Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn quantized(rng: &mut ChaCha8Rng, shape: [usize; 2], config: QuantConfig) -> QuantizedMatrix {
    nf4::quantize(&random(rng, shape[0] * shape[1]), shape, config).unwrap()
}

fn dense(w: &QuantizedMatrix) -> Vec<f32> {
    let mut dense = vec![0.0; w.layout().elements()];
    nf4::dequantize(w.as_ref(), &mut dense);
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

/// f32 rounds by 6e-8; a sum of `len` terms rounds about `sqrt(len)` times as much, and 4 is slack.
fn assert_close(found: &[f32], expected: &[(f64, f64)], len: usize, what: &str) {
    let tolerance = 4.0 * 6e-8 * (len as f64).sqrt().max(2.0);
    assert_eq!(found.len(), expected.len());
    for (i, (found, (expected, magnitude))) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        assert!(
            error <= tolerance * magnitude,
            "{what}: element {i} is {found}, not {expected}"
        );
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
                nf4::matmul_on(*isa, w.as_ref(), &x, m, &mut y, direction);
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
            &[0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 27],
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
    let root = std::env::var_os("QLORA_FIXTURES").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")),
        PathBuf::from,
    );
    let file = std::fs::read(root.join("matmul.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let bytes = |name: &str| {
        file.tensor(name)
            .unwrap_or_else(|error| panic!("{name}: {error}"))
            .data()
    };
    let words = |name: &str| -> Vec<u32> {
        let bytes = bytes(name);
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| u32::from_le_bytes(*bytes))
            .collect()
    };
    let f32s = |name: &str| -> Vec<f32> { words(name).into_iter().map(f32::from_bits).collect() };
    let f64s = |name: &str| -> Vec<f64> {
        bytes(name)
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f64::from_le_bytes(*bytes))
            .collect()
    };
    let mut cases = 0;
    for case in file
        .names()
        .iter()
        .filter_map(|name| name.strip_suffix("/packed"))
    {
        let x_shape = file.tensor(&format!("{case}/x")).unwrap().shape().to_vec();
        let (m, k) = (x_shape[0], x_shape[1]);
        let n = file.tensor(&format!("{case}/dy")).unwrap().shape()[1];
        let layout = Layout::new([n, k], QuantConfig::default()).unwrap();
        let packed: Vec<u32> = words(&format!("{case}/packed"))
            .into_iter()
            .map(|word| word >> 4 & 0x0f0f_0f0f | (word & 0x0f0f_0f0f) << 4)
            .collect();
        let mut absmax = words(&format!("{case}/absmax_codes"));
        for rest in ["/nested_absmax", "/nested_offset"] {
            absmax.extend(words(&format!("{case}{rest}")));
        }
        absmax.extend(words("nested_code_map"));
        let w = MatrixRef::new(layout, &packed, &absmax).unwrap();
        for isa in Isa::available() {
            for (x, y, direction) in [
                ("x", "y", Direction::Forward),
                ("dy", "dx", Direction::Transposed),
            ] {
                let expected = f64s(&format!("{case}/{y}"));
                let mut found = vec![0.0; expected.len()];
                nf4::matmul_on(
                    *isa,
                    w,
                    &f32s(&format!("{case}/{x}")),
                    m,
                    &mut found,
                    direction,
                );
                let error = found
                    .iter()
                    .zip(&expected)
                    .map(|(a, b)| (f64::from(*a) - b).abs())
                    .fold(0.0, f64::max);
                let largest = expected
                    .iter()
                    .fold(0.0f64, |max, value| max.max(value.abs()));
                assert!(
                    error <= 1e-5 * largest,
                    "{case}/{y} on {isa:?}: off by {error}"
                );
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
                    pool.install(|| nf4::matmul(w.as_ref(), &x, m, &mut y, direction));
                    let again =
                        pool.install(|| nf4::quantize(&matrix, [n, k], QuantConfig::default()));
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
        nf4::matmul(w.as_ref(), &x, 40, &mut y, Direction::Forward);
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
    let w = nf4::quantize(&[0.5f32; 16], [2, 8], QuantConfig::default()).unwrap();
    nf4::matmul(w.as_ref(), &[0.0; 16], 3, &mut [0.0; 6], Direction::Forward);
}
