//! Quantizing and decoding against recordings of bitsandbytes 0.50.2, on every instruction set.

use nf4::{Codebook, FormatError, Layout, MatrixRef, QuantConfig};
use qlora_cpu::{Cpu, Isa, Threads};
use qlora_test_support::{Recording, bitsandbytes as recorded, json};

fn on(isa: Isa) -> Cpu {
    Cpu::new(isa, Threads::All)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The reference has the bits that were recorded (`nf4`'s tests); these are its bits on the recorded inputs, and the recorded
/// values of recorded words.
#[test]
fn every_recorded_matrix_quantizes_and_decodes_bit_for_bit() {
    let file = Recording::open("nf4_quantize.safetensors");
    let cases = json("nf4_quantize.json");
    let map = file.f32("nested_code_map");
    let mut recorded_values = 0;
    for case in cases["cases"].as_array().unwrap() {
        let shape = [0, 1].map(|i| case["shape"][i].as_u64().unwrap() as usize);
        let input = file.f32(&format!("{}/input", case["case"].as_str().unwrap()));
        for variant in case["variants"].as_array().unwrap() {
            let prefix = variant["prefix"].as_str().unwrap();
            let config = |double_quant| QuantConfig {
                codebook: variant["quant_type"].as_str().unwrap().parse().unwrap(),
                block_size: variant["blocksize"].as_u64().unwrap() as usize,
                double_quant,
            };
            for config in [false, true].map(config) {
                let expected = nf4::reference::quantize(&input, shape, config).unwrap();
                let decoded = nf4::reference::dequantize(expected.as_ref());
                for isa in Isa::available() {
                    let found = on(*isa).quantize(&input, shape, config).unwrap();
                    assert_eq!(found, expected, "{prefix} {isa:?}");
                    let found: Vec<f32> = on(*isa).dequantize_vec(found.as_ref());
                    assert_eq!(bits(&found), bits(&decoded), "{prefix} {isa:?}");
                }
            }
            if variant["has_dequant_dq"].as_bool().unwrap() {
                let part = |name: &str| format!("{prefix}/{name}");
                let packed = recorded::packed_words(file.bytes(&part("packed")), input.len());
                let nested = file.f32(&part("nested_absmax"));
                let offset = file.f32(&part("nested_offset"))[0];
                let codes = file.bytes(&part("absmax_codes"));
                let words = recorded::scale_words(codes, &nested, offset, &map);
                let layout = Layout::new(shape, config(true)).unwrap();
                let w = MatrixRef::new(layout, &packed, &words).unwrap();
                let expected = bits(&file.f32(&part("dequant_dq")));
                for isa in Isa::available() {
                    let found: Vec<f32> = on(*isa).dequantize_vec(w);
                    assert_eq!(bits(&found), expected, "{prefix} {isa:?}");
                    recorded_values += 1;
                }
            }
        }
    }
    assert!(recorded_values > 0);
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
        Err(FormatError::InputLength {
            len: 6,
            shape: [2, 4]
        })
    );
    values[4] = f32::INFINITY;
    assert_eq!(
        qlora_cpu::quantize(&values, [2, 3], config),
        Err(FormatError::NotFinite {
            index: 4,
            row: 1,
            column: 1
        })
    );
    assert!(matches!(
        qlora_cpu::quantize(&[3e38f32; 256], [4, 64], config),
        Err(FormatError::Magnitude { largest: 3e38, .. })
    ));
    let empty = qlora_cpu::quantize::<f32>(&[], [0, 4], config).unwrap();
    assert_eq!(empty.packed(), &[] as &[u32]);
    qlora_cpu::dequantize(empty.as_ref(), &mut []);
}
