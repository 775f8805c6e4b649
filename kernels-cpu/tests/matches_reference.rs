//! Quantizing and decoding against the plain loops of `nf4::reference`, bit for bit, and products within what the order of a
//! sum can change: in every codebook and block size, on every instruction set, with odd shapes.

use nf4::{Codebook, Direction, QuantConfig, reference};
use qlora_cpu::{Cpu, Isa, Threads};
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
