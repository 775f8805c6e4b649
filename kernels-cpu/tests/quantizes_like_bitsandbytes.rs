//! Quantizing and decoding against recordings of bitsandbytes 0.50.2, on every instruction set.

use nf4::{Codebook, MatrixRef, Nf4Error, QuantConfig};
use qlora_cpu::{Cpu, Isa, Threads};
use qlora_test_support::{Recording, bitsandbytes as recorded, json};

fn on(isa: Isa) -> Cpu {
    Cpu::new(isa, Threads::All)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The codes of a matrix, with one zero where the codebook has two.
fn codes(packed: &[u32], elements: usize, codebook: Codebook) -> Vec<u32> {
    let codes = recorded::codes(packed, elements);
    match codebook {
        Codebook::Fp4 => recorded::with_one_zero(codes),
        _ => codes,
    }
}

#[test]
fn every_recorded_matrix_quantizes_and_decodes_bit_for_bit() {
    let file = Recording::open("nf4_quantize.safetensors");
    let cases = json("nf4_quantize.json");
    let map = file.f32("nested_code_map");
    let mut variants = 0;
    for case in cases["cases"].as_array().unwrap() {
        let shape = [0, 1].map(|i| case["shape"][i].as_u64().unwrap() as usize);
        let input = file.f32(&format!("{}/input", case["case"].as_str().unwrap()));
        for variant in case["variants"].as_array().unwrap() {
            let prefix = variant["prefix"].as_str().unwrap();
            let codebook: Codebook = variant["quant_type"].as_str().unwrap().parse().unwrap();
            let block_size = variant["blocksize"].as_u64().unwrap() as usize;
            let expected_map = file.f32(&format!("{codebook}/quant_map"));
            assert_eq!(bits(codebook.values()), bits(&expected_map));
            let plain = QuantConfig {
                codebook,
                block_size,
                double_quant: false,
            };
            let packed = file.bytes(&format!("{prefix}/packed"));
            let packed = recorded::packed_words(packed, input.len());
            let absmax = file.f32(&format!("{prefix}/absmax"));
            for isa in Isa::available() {
                let what = format!("{prefix} {isa:?}");
                let matrix = on(*isa).quantize(&input, shape, plain).unwrap();
                let expected = codes(&packed, input.len(), codebook);
                assert_eq!(
                    codes(matrix.packed(), input.len(), codebook),
                    expected,
                    "{what}"
                );
                assert_eq!(matrix.absmax(), bits(&absmax), "{what}");
                let mut decoded = vec![0.0; input.len()];
                on(*isa).dequantize(matrix.as_ref(), &mut decoded);
                let expected = file.f32(&format!("{prefix}/dequant"));
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
                let expected_offset = file.f32(&format!("{prefix}/nested_offset"))[0];
                assert!(
                    (offset - expected_offset).abs() <= 1e-6 * expected_offset.abs(),
                    "{what}"
                );
                let nested = file.f32(&format!("{prefix}/nested_absmax"));
                let nearest = file.bytes(&format!("{prefix}/absmax_codes_nearest"));
                if offset == expected_offset {
                    let expected = recorded::scale_words(nearest, &nested, offset, &map);
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
                    let codes = file.bytes(&format!("{prefix}/absmax_codes"));
                    let words = recorded::scale_words(codes, &nested, expected_offset, &map);
                    let w = MatrixRef::new(layout, &packed, &words).unwrap();
                    on(*isa).dequantize(w, &mut decoded);
                    assert_eq!(
                        bits(&decoded),
                        bits(&file.f32(&format!("{prefix}/dequant_dq"))),
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
    assert!(matches!(
        qlora_cpu::quantize(&[3e38f32; 256], [4, 64], config),
        Err(Nf4Error::Magnitude { largest: 3e38, .. })
    ));
    let empty = qlora_cpu::quantize::<f32>(&[], [0, 4], config).unwrap();
    assert_eq!(empty.packed(), &[] as &[u32]);
    qlora_cpu::dequantize(empty.as_ref(), &mut []);
}
