//! Quantizing and decoding against the plain loops of `nf4::reference`, bit for bit, and products within what the order of a
//! sum can change: in every codebook and block size, on every instruction set, with odd shapes.

use std::fmt::Debug;

use half::{bf16, f16};
use nf4::{Codebook, Direction, GgufFormat, QuantConfig, QuantizedMatrix, gguf, reference};
use qlora_cpu::low_rank::{Layer, LowRank};
use qlora_cpu::{Cpu, Element, Isa, Threads};
use qlora_test_support::Recording;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SHAPES: [[usize; 2]; 8] = [
    [1, 1],
    [3, 5],
    [7, 9],
    [33, 50],
    [40, 24],
    [65, 136],
    [130, 257],
    [20, 1304],
];

fn configs() -> impl Iterator<Item = QuantConfig> {
    let block_sizes = [32, 64, 128, 256, 512, 1024, 2048, 4096];
    Codebook::ALL.into_iter().flat_map(move |codebook| {
        block_sizes.into_iter().flat_map(move |block_size| {
            [true, false].map(|double_quant| QuantConfig {
                codebook,
                block_size,
                double_quant,
            })
        })
    })
}

fn random(rng: &mut ChaCha8Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn words_and_decoded_values_are_those_of_the_reference() {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    for shape in SHAPES {
        let mut values = random(rng, shape[0] * shape[1]);
        // A block of zeros, and values on both sides of it whose reciprocal overflows.
        values.iter_mut().skip(70).take(64).for_each(|v| *v = 0.0);
        values.iter_mut().skip(140).take(8).for_each(|v| *v = 1e-40);
        for config in configs() {
            let expected = reference::quantize(&values, shape, config).unwrap();
            let decoded = reference::dequantize(expected.as_ref());
            for isa in Isa::available() {
                for threads in [Threads::All, Threads::Calling] {
                    let cpu = Cpu::new(*isa, threads);
                    let what = format!("{cpu:?} {shape:?} {config:?}");
                    let found = cpu.quantize(&values, shape, config).unwrap();
                    assert_eq!(found, expected, "{what}");
                    let mut out = vec![f32::NAN; values.len()];
                    cpu.dequantize(found.as_ref(), &mut out);
                    assert_eq!(bits(&out), bits(&decoded), "{what}");
                    // From within a block to within another.
                    let part = values.len() / 3..values.len() - values.len() / 7;
                    let mut out = vec![f32::NAN; part.len()];
                    cpu.dequantize_range(found.as_ref(), part.start, &mut out);
                    assert_eq!(bits(&out), bits(&decoded[part]), "{what}");
                    let halves: Vec<half::bf16> = cpu.dequantize_vec(found.as_ref());
                    let rounded = decoded.iter().map(|v| half::bf16::from_f32(*v));
                    assert!(halves.into_iter().eq(rounded), "{what}");
                }
            }
        }
    }
}

/// f32 rounds by 6e-8, a sum of `len` terms about `sqrt(len)` times as much, relative to the sum of their magnitudes; 4 is
/// slack.
#[test]
fn products_are_those_of_the_reference() {
    let rng = &mut ChaCha8Rng::seed_from_u64(2);
    for shape in SHAPES {
        let values = random(rng, shape[0] * shape[1]);
        for config in configs().filter(|config| config.block_size != 128) {
            let w = reference::quantize(&values, shape, config).unwrap();
            let largest = reference::dequantize(w.as_ref())
                .iter()
                .fold(0.0f32, |max, v| max.max(v.abs()));
            for direction in Direction::ALL {
                let [k, _] = direction.widths(shape);
                for m in [1, 5, 14] {
                    let x = random(rng, m * k);
                    let expected = reference::matmul(w.as_ref(), &x, direction);
                    let tolerance = 4.0 * 6e-8 * (k as f32).sqrt().max(2.0) * largest * k as f32;
                    for isa in Isa::available() {
                        let cpu = Cpu::new(*isa, Threads::All);
                        let found = cpu.matmul_vec(w.as_ref(), &x, m, direction);
                        assert_eq!(found.len(), expected.len());
                        for (found, expected) in found.iter().zip(&expected) {
                            assert!(
                                (found - expected).abs() <= tolerance,
                                "{isa:?} {direction:?} m={m} {shape:?} {config:?}: {found} is not {expected}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Returns a matrix of random blocks of a file, with scales about 0.01.
fn file_matrix(rng: &mut ChaCha8Rng, format: GgufFormat, shape: [usize; 2]) -> QuantizedMatrix {
    let size = format.file_block_bytes();
    let blocks = shape[0] * shape[1] / format.file_block();
    let mut bytes: Vec<u8> = (0..blocks * size).map(|_| rng.random()).collect();
    let halves: &[usize] = match format {
        GgufFormat::Q6_K => &[208],
        GgufFormat::MXFP4 => &[],
        GgufFormat::Q4_1 | GgufFormat::Q5_1 | GgufFormat::Q4_K | GgufFormat::Q5_K => &[0, 2],
        _ => &[0],
    };
    for block in bytes.chunks_exact_mut(size) {
        for at in halves {
            let half = f16::from_f32(rng.random_range(-0.02..0.02));
            block[*at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        if format == GgufFormat::MXFP4 {
            block[0] = rng.random_range(118..124);
        }
    }
    gguf::read(format, shape, &bytes, |row| row).unwrap()
}

/// Shapes whose rows are whole blocks: of odd numbers of them, and longer than what is packed at a time.
fn file_shapes(format: GgufFormat) -> [[usize; 2]; 3] {
    match format.file_block() {
        32 => [[3, 32], [65, 160], [20, 1312]],
        _ => [[3, 256], [65, 512], [20, 1792]],
    }
}

#[test]
fn recorded_blocks_of_files_decode_bit_for_bit() {
    let file = Recording::open("gguf_blocks.safetensors");
    for format in GgufFormat::ALL {
        let blocks = file.bytes(&format!("{format}/blocks"));
        let expected = bits(&file.f32(&format!("{format}/values")));
        let w = gguf::read(format, [3, 512], blocks, |row| row).unwrap();
        for isa in Isa::available() {
            let cpu = Cpu::new(*isa, Threads::All);
            let mut out = vec![f32::NAN; 3 * 512];
            cpu.dequantize(w.as_ref(), &mut out);
            assert_eq!(bits(&out), expected, "{format} on {isa}");
            let mut row = vec![f32::NAN; 100];
            cpu.dequantize_range(w.as_ref(), 500, &mut row);
            assert_eq!(bits(&row), expected[500..600], "{format} on {isa}");
        }
    }
}

/// Multiplied by the unit matrix a matrix stays itself, to the last bit.
#[test]
fn products_decode_the_blocks_of_files_exactly() {
    let rng = &mut ChaCha8Rng::seed_from_u64(5);
    for format in GgufFormat::ALL {
        for shape @ [n, k] in file_shapes(format) {
            let w = file_matrix(rng, format, shape);
            let decoded = reference::dequantize(w.as_ref());
            for isa in Isa::available() {
                let cpu = Cpu::new(*isa, Threads::All);
                let what = format!("{format} {shape:?} on {isa}");
                let unit = |len: usize| {
                    let ones = (0..len * len).map(|i| f32::from(u8::from(i % (len + 1) == 0)));
                    ones.collect::<Vec<_>>()
                };
                let columns = cpu.matmul_vec(w.as_ref(), &unit(k), k, Direction::Forward);
                for (i, value) in decoded.iter().enumerate() {
                    assert_eq!(columns[i % k * n + i / k], *value, "{what} at {i}");
                }
                if n > 5 {
                    let rows = cpu.matmul_vec(w.as_ref(), &unit(n), n, Direction::Transposed);
                    assert_eq!(rows, decoded, "{what}");
                }
            }
        }
    }
}

#[test]
fn products_with_blocks_of_files_are_those_of_the_reference() {
    let rng = &mut ChaCha8Rng::seed_from_u64(6);
    for format in GgufFormat::ALL {
        for shape in file_shapes(format) {
            let w = file_matrix(rng, format, shape);
            for direction in Direction::ALL {
                let [k, _] = direction.widths(shape);
                for m in [1, 3, 5, 14] {
                    // Exact in bf16.
                    let x = random(rng, m * k).into_iter().map(bf16::from_f32);
                    let halves: Vec<_> = x.collect();
                    let x: Vec<_> = halves.iter().map(|x| x.to_f32()).collect();
                    let expected = reference::matmul(w.as_ref(), &x, direction);
                    let largest = expected.iter().fold(0.0f32, |max, v| max.max(v.abs()));
                    for isa in Isa::available() {
                        let cpu = Cpu::new(*isa, Threads::All);
                        let what = format!("{format} {direction:?} m={m} {shape:?} on {isa}");
                        let found = cpu.matmul_vec(w.as_ref(), &x, m, direction);
                        let rounded = cpu.matmul_vec(w.as_ref(), &halves, m, direction);
                        for (i, expected) in expected.iter().enumerate() {
                            let error = (found[i] - expected).abs();
                            assert!(error <= 1e-5 * largest, "{what}: {error} of {largest}");
                            // Weights and results are rounded by 1/512.
                            let error = (rounded[i].to_f32() - expected).abs();
                            assert!(error <= 2e-2 * largest, "{what}: {error} of {largest}");
                        }
                    }
                }
            }
        }
    }
}

/// `x·A` for rows of `x` and `A: [x's width, columns]`, in f64.
fn thin(x: &[f64], a: &[f32], columns: usize) -> Vec<f64> {
    let rows = x.chunks(a.len() / columns);
    let sum = |row: &[f64], j: usize| {
        let terms = row.iter().zip(a.iter().skip(j).step_by(columns));
        terms.map(|(x, a)| x * f64::from(*a)).sum::<f64>()
    };
    rows.flat_map(|row| (0..columns).map(move |j| sum(row, j)))
        .collect()
}

#[test]
fn low_rank_matrices_on_blocks_of_files_are_part_of_the_product() {
    const RANK: usize = 4;
    let rng = &mut ChaCha8Rng::seed_from_u64(7);
    for format in GgufFormat::ALL {
        let shape @ [n, k] = file_shapes(format)[1];
        let w = file_matrix(rng, format, shape);
        let (a, b) = (random(rng, k * RANK), random(rng, RANK * n));
        let turned = |values: &[f32], columns: usize| -> Vec<f32> {
            let rows = values.len() / columns;
            let at = |i: usize| values[i % rows * columns + i / rows];
            (0..values.len()).map(at).collect()
        };
        let (a_turned, b_turned) = (turned(&a, RANK), turned(&b, n));
        let low_rank = LowRank::new(&a, &b, RANK, 1.0);
        for m in [3, 14] {
            let (x, dy) = (random(rng, m * k), random(rng, m * n));
            let expected = |x: &[f32], direction, first: &[f32], second: &[f32], width| {
                let of_w = reference::matmul(w.as_ref(), x, direction);
                let wide: Vec<_> = x.iter().map(|x| f64::from(*x)).collect();
                let of_factors = thin(&thin(&wide, first, RANK), second, width);
                let sums = of_w.iter().zip(of_factors);
                sums.map(|(w, factors)| f64::from(*w) + factors)
                    .collect::<Vec<_>>()
            };
            let y = expected(&x, Direction::Forward, &a, &b, n);
            let dx = expected(&dy, Direction::Transposed, &b_turned, &a_turned, k);
            for isa in Isa::available() {
                let cpu = Cpu::new(*isa, Threads::All);
                let found = [
                    cpu.low_rank_forward(w.as_ref(), low_rank, &x, m),
                    cpu.low_rank_backward(w.as_ref(), low_rank, &x, &dy, m, true)
                        .x
                        .expect("was asked for"),
                ];
                for (found, expected) in found.iter().zip([&y, &dx]) {
                    let largest = expected.iter().fold(0.0f64, |max, v| max.max(v.abs()));
                    for (found, expected) in found.iter().zip(expected) {
                        let error = (f64::from(*found) - expected).abs();
                        let what = format!("{format} m={m} on {isa}");
                        assert!(error <= 1e-5 * largest, "{what}: {error} of {largest}");
                    }
                }
            }
        }
    }
}

/// Matrices of several formats, adapted and not, in rows that are few and that are many.
fn layers_agree<E: Element + PartialEq + Debug>(
    convert: impl Fn(f32) -> E,
    widen: impl Fn(&E) -> f64,
    tolerance: f64,
) {
    let rng = &mut ChaCha8Rng::seed_from_u64(31);
    let k = 512;
    let nf4 = |rng: &mut ChaCha8Rng, n: usize| {
        qlora_cpu::quantize(&random(rng, n * k), [n, k], QuantConfig::default()).unwrap()
    };
    let matrices = [
        nf4(rng, 130),
        nf4(rng, 33),
        file_matrix(rng, GgufFormat::Q4_K, [40, k]),
        file_matrix(rng, GgufFormat::Q8_0, [600, k]),
        file_matrix(rng, GgufFormat::Q5_1, [17, k]),
        nf4(rng, 0),
    ];
    let ranks = [None, Some(3), Some(16), Some(5), None, Some(2)];
    let factors: Vec<_> = matrices
        .iter()
        .zip(ranks)
        .map(|(w, rank)| {
            let rank = rank?;
            let n = w.layout().out_features();
            Some((random(rng, k * rank), random(rng, rank * n), rank))
        })
        .collect();
    let layers: Vec<_> = matrices
        .iter()
        .zip(&factors)
        .map(|(w, factors)| Layer {
            w: w.as_ref(),
            low_rank: factors
                .as_ref()
                .map(|(a, b, rank)| LowRank::new(a, b, *rank, 0.75)),
        })
        .collect();
    for m in [0, 1, 2, 5, 8, 9, 30, 1100] {
        let mut operand =
            |width: usize| -> Vec<E> { random(rng, m * width).into_iter().map(&convert).collect() };
        let x = operand(k);
        let dys: Vec<_> = matrices
            .iter()
            .map(|w| operand(w.layout().out_features()))
            .collect();
        let dys: Vec<&[E]> = dys.iter().map(Vec::as_slice).collect();
        for isa in Isa::available() {
            let cpu = Cpu::new(*isa, Threads::All);
            assert!(cpu.layers_forward(&[], &x, m).is_empty());
            let together = cpu.layers_forward(&layers, &x, m);
            let gradients = cpu.layers_backward(&layers, &x, &dys, m, true);
            let mut dx_expected = vec![0.0; m * k];
            let of_layers = together.into_iter().zip(gradients.factors).zip(&dys);
            for (layer, ((y, factors), dy)) in layers.iter().zip(of_layers) {
                let what = format!("{isa} m={m} {:?}", layer.w.layout());
                let (y_alone, dx_alone) = match layer.low_rank {
                    Some(low_rank) => {
                        let y = cpu.low_rank_forward(layer.w, low_rank, &x, m);
                        let alone = cpu.low_rank_backward(layer.w, low_rank, &x, dy, m, true);
                        assert_eq!(factors, Some([alone.a, alone.b]), "{what}");
                        (y, alone.x.expect("the gradient of x was asked for"))
                    }
                    None => {
                        assert_eq!(factors, None, "{what}");
                        let product = |x: &[E], direction| cpu.matmul_vec(layer.w, x, m, direction);
                        let y = product(&x, Direction::Forward);
                        (y, product(dy, Direction::Transposed))
                    }
                };
                assert_eq!(y, y_alone, "{what}");
                let dx = dx_expected.iter_mut().zip(&dx_alone);
                dx.for_each(|(sum, dx)| *sum += widen(dx));
            }
            let dx = gradients.x.expect("the gradient of x was asked for");
            let largest = dx_expected.iter().fold(0f64, |most, dx| most.max(dx.abs()));
            for (found, expected) in dx.iter().zip(&dx_expected) {
                let off = (widen(found) - expected).abs();
                assert!(
                    off <= tolerance * largest,
                    "{isa} m={m}: {off} of {largest}"
                );
            }
            let alone = cpu.layers_backward(&layers, &x, &dys, m, false);
            assert!(alone.x.is_none());
        }
    }
}

/// Results, and gradients of factors; that of the input is the sum of theirs: of f32 in another order of additions, of bf16 rounded
/// five times more, by up to 2^-8 each.
#[test]
fn layers_of_one_input_have_the_bits_that_they_have_alone() {
    layers_agree(|value| value, |value| f64::from(*value), 1e-5);
    layers_agree(bf16::from_f32, |value| value.to_f64(), 2e-2);
}
