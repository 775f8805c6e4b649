//! Quantizing and decoding against recordings of bitsandbytes 0.50.2, on every instruction set.

use std::path::PathBuf;

use nf4::{Codebook, Layout, MatrixRef, Nf4Error, QuantConfig, QuantizedMatrix};
use qlora_cpu::{Cpu, Isa, Threads};
use safetensors::SafeTensors;
use serde_json::Value;

fn on(isa: Isa) -> Cpu {
    Cpu::new(isa, Threads::All)
}

fn fixture(name: &str) -> Vec<u8> {
    let root = std::env::var_os("QLORA_FIXTURES").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures")),
        PathBuf::from,
    );
    let path = root.join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn f32s(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = file
        .tensor(name)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(tensor.dtype(), safetensors::Dtype::F32, "{name}");
    tensor
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

fn u8s<'a>(file: &SafeTensors<'a>, name: &str) -> &'a [u8] {
    file.tensor(name)
        .unwrap_or_else(|error| panic!("{name}: {error}"))
        .data()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The codes of bytes with the high nibble first.
fn codes_high_first(bytes: &[u8], elements: usize) -> Vec<u32> {
    let mut codes: Vec<_> = bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(u32::from)
        .collect();
    codes.truncate(elements);
    codes
}

/// The codes of device words, low nibble first.
fn codes_of(matrix: &QuantizedMatrix) -> Vec<u32> {
    let codes = matrix
        .packed()
        .iter()
        .flat_map(|word| (0..8).map(move |i| word >> (4 * i) & 15));
    codes.take(matrix.layout().elements()).collect()
}

/// FP4 has two zeros, and which one a small value gets is nobody's business.
fn fold_zeros(codes: Vec<u32>, codebook: Codebook) -> Vec<u32> {
    let fold = |code| {
        if codebook == Codebook::Fp4 && code == 8 {
            0
        } else {
            code
        }
    };
    codes.into_iter().map(fold).collect()
}

fn device_words(bytes: &[u8], elements: usize) -> Vec<u32> {
    let codes = codes_high_first(bytes, elements);
    codes
        .chunks(8)
        .map(|codes| codes.iter().rev().fold(0, |word, code| word << 4 | code))
        .collect()
}

/// `absmax` words of double quantization, put together from a file's tensors.
fn nested_words(
    layout: Layout,
    codes: &[u8],
    nested: &[f32],
    offset: f32,
    map: &[f32],
) -> Vec<u32> {
    let mut padded = codes.to_vec();
    padded.resize(codes.len().next_multiple_of(4), 0);
    let mut words: Vec<u32> = padded
        .as_chunks()
        .0
        .iter()
        .map(|bytes| u32::from_le_bytes(*bytes))
        .collect();
    words.extend(bits(nested));
    words.push(offset.to_bits());
    words.extend(bits(map));
    assert_eq!(words.len(), layout.absmax_words());
    words
}

#[test]
fn every_recorded_matrix_quantizes_and_decodes_bit_for_bit() {
    let file = fixture("nf4_quantize.safetensors");
    let file = SafeTensors::deserialize(&file).unwrap();
    let cases: Value = serde_json::from_slice(&fixture("nf4_quantize.json")).unwrap();
    let map = f32s(&file, "nested_code_map");
    let mut variants = 0;
    for case in cases["cases"].as_array().unwrap() {
        let shape = [0, 1].map(|i| case["shape"][i].as_u64().unwrap() as usize);
        let input = f32s(&file, &format!("{}/input", case["case"].as_str().unwrap()));
        for variant in case["variants"].as_array().unwrap() {
            let prefix = variant["prefix"].as_str().unwrap();
            let codebook: Codebook = variant["quant_type"].as_str().unwrap().parse().unwrap();
            let block_size = variant["blocksize"].as_u64().unwrap() as usize;
            let expected_map = f32s(&file, &format!("{codebook}/quant_map"));
            assert_eq!(bits(codebook.values()), bits(&expected_map));
            let plain = QuantConfig {
                codebook,
                block_size,
                double_quant: false,
            };
            let packed = u8s(&file, &format!("{prefix}/packed"));
            let absmax = f32s(&file, &format!("{prefix}/absmax"));
            for isa in Isa::available() {
                let what = format!("{prefix} {isa:?}");
                let matrix = on(*isa).quantize(&input, shape, plain).unwrap();
                let expected = fold_zeros(codes_high_first(packed, input.len()), codebook);
                assert_eq!(fold_zeros(codes_of(&matrix), codebook), expected, "{what}");
                assert_eq!(matrix.absmax(), bits(&absmax), "{what}");
                let mut decoded = vec![0.0; input.len()];
                on(*isa).dequantize(matrix.as_ref(), &mut decoded);
                let expected = f32s(&file, &format!("{prefix}/dequant"));
                match codebook {
                    Codebook::Fp4 => assert_eq!(decoded, expected, "{what}"),
                    _ => assert_eq!(bits(&decoded), bits(&expected), "{what}"),
                }

                let double = QuantConfig {
                    double_quant: true,
                    ..plain
                };
                let doubled = on(*isa).quantize(&input, shape, double).unwrap();
                let layout = doubled.layout();
                assert_eq!(doubled.packed(), matrix.packed(), "{what}");
                let offset = f32::from_bits(doubled.absmax()[layout.offset_word()]);
                let expected_offset = f32s(&file, &format!("{prefix}/nested_offset"))[0];
                assert!(
                    (offset - expected_offset).abs() <= 1e-6 * expected_offset.abs(),
                    "{what}"
                );
                let nested = f32s(&file, &format!("{prefix}/nested_absmax"));
                let nearest = u8s(&file, &format!("{prefix}/absmax_codes_nearest"));
                if offset == expected_offset {
                    let expected = nested_words(layout, nearest, &nested, offset, &map);
                    assert_eq!(doubled.absmax(), expected, "{what}");
                } else {
                    let words = &doubled.absmax()[layout.scale_words()];
                    let codes = words.iter().flat_map(|word| word.to_le_bytes());
                    let moved = codes.zip(nearest).filter(|(a, b)| a != *b).count();
                    assert!(
                        moved <= 1 + nearest.len() / 100,
                        "{what}: {moved} codes differ"
                    );
                    assert!(
                        words
                            .iter()
                            .flat_map(|w| w.to_le_bytes())
                            .zip(nearest)
                            .all(|(a, b)| a.abs_diff(*b) <= 1)
                    );
                }
                if variant["has_dequant_dq"].as_bool().unwrap() {
                    let codes = u8s(&file, &format!("{prefix}/absmax_codes"));
                    let words = nested_words(layout, codes, &nested, expected_offset, &map);
                    let packed = device_words(packed, input.len());
                    let w = MatrixRef::new(layout, &packed, &words).unwrap();
                    on(*isa).dequantize(w, &mut decoded);
                    assert_eq!(
                        bits(&decoded),
                        bits(&f32s(&file, &format!("{prefix}/dequant_dq"))),
                        "{what}"
                    );
                }
            }
            variants += 1;
        }
    }
    assert!(variants >= 8);
}

#[test]
fn half_precision_and_every_instruction_set_give_the_same_words() {
    let values: Vec<half::bf16> = (0..200 * 100)
        .map(|i| half::bf16::from_f32(((i * 7919 % 1009) as f32 - 500.0) * 1e-3))
        .collect();
    let wide: Vec<f32> = values.iter().map(|value| value.to_f32()).collect();
    let halves: Vec<half::f16> = wide
        .iter()
        .map(|value| half::f16::from_f32(*value))
        .collect();
    let halves_wide: Vec<f32> = halves.iter().map(|value| value.to_f32()).collect();
    for codebook in Codebook::ALL {
        for block_size in [32, 64, 4096] {
            let config = QuantConfig {
                codebook,
                block_size,
                double_quant: true,
            };
            let reference = on(Isa::portable())
                .quantize(&wide, [200, 100], config)
                .unwrap();
            for isa in Isa::available() {
                assert_eq!(
                    on(*isa).quantize(&wide, [200, 100], config).unwrap(),
                    reference
                );
            }
            assert_eq!(
                qlora_cpu::quantize(&values, [200, 100], config).unwrap(),
                reference
            );
            let reference = qlora_cpu::quantize(&halves_wide, [200, 100], config).unwrap();
            assert_eq!(
                qlora_cpu::quantize(&halves, [200, 100], config).unwrap(),
                reference
            );
        }
    }
}

#[test]
fn unusable_input_is_refused_and_an_empty_matrix_is_not() {
    let config = QuantConfig::default();
    let mut values = vec![1.0f32; 6];
    assert_eq!(
        qlora_cpu::quantize(&values, [2, 4], config),
        Err(Nf4Error::InputLength {
            len: 6,
            shape: [2, 4]
        })
    );
    values[4] = f32::INFINITY;
    assert_eq!(
        qlora_cpu::quantize(&values, [2, 3], config),
        Err(Nf4Error::NotFinite {
            index: 4,
            row: 1,
            column: 1
        })
    );
    let empty = qlora_cpu::quantize::<f32>(&[], [0, 4], config).unwrap();
    assert_eq!(empty.packed(), &[] as &[u32]);
    qlora_cpu::dequantize(empty.as_ref(), &mut []);
}
