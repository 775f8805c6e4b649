//! The format against recordings of bitsandbytes 0.50.2: quantization, decoding, checkpoints, the 8-bit map.

use std::borrow::Cow;

use nf4::bitsandbytes::{self, Dtype, Entry};
use nf4::{Codebook, FormatError, MatrixRef, QuantConfig, QuantizedMatrix};
use qlora_test_support::{Recording, bitsandbytes as recorded, json};

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
            {
                let what = prefix;
                let matrix = nf4::reference::quantize(&input, shape, plain).unwrap();
                let expected = codes(&packed, input.len(), codebook);
                assert_eq!(
                    codes(matrix.packed(), input.len(), codebook),
                    expected,
                    "{what}"
                );
                assert_eq!(matrix.absmax(), bits(&absmax), "{what}");
                let decoded = nf4::reference::dequantize(matrix.as_ref());
                let expected = file.f32(&format!("{prefix}/dequant"));
                match codebook {
                    Codebook::Fp4 => assert_eq!(decoded, expected, "{what}"),
                    _ => assert_eq!(bits(&decoded), bits(&expected), "{what}"),
                }

                let double = QuantConfig {
                    double_quant: true,
                    ..plain
                };
                let doubled = nf4::reference::quantize(&input, shape, double).unwrap();
                let layout = doubled.layout();
                assert_eq!(doubled.packed(), matrix.packed(), "{what}");
                let offset = f32::from_bits(doubled.absmax()[layout.offset_word()]);
                let expected_offset = file.f32(&format!("{prefix}/nested_offset"))[0];
                // torch adds in another order: two units in the last place are the most that was seen.
                assert!(
                    (offset - expected_offset).abs() <= 2.4e-7 * expected_offset.abs(),
                    "{what}: {offset} {expected_offset}"
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
                    let decoded = nf4::reference::dequantize(w);
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

/// Scales that are small whole numbers have a sum that every order of adding gives, so that the offset is the correctly
/// rounded product of it and the reciprocal of their number, in whatever way torch sums.
#[test]
fn the_offset_is_the_mean_to_the_last_bit() {
    for (blocks, step) in [(1, 1), (7, 3), (256, 1), (300, 5), (1000, 2)] {
        let scales: Vec<f32> = (0..blocks)
            .map(|block| (1 + block % 97 * step) as f32)
            .collect();
        let values: Vec<f32> = scales
            .iter()
            .flat_map(|scale| [-scale / 2.0, *scale].repeat(16))
            .collect();
        let config = QuantConfig {
            block_size: 32,
            ..QuantConfig::default()
        };
        let matrix = nf4::reference::quantize(&values, [blocks, 32], config).unwrap();
        let offset = f32::from_bits(matrix.absmax()[matrix.layout().offset_word()]);
        let sum: f64 = scales.iter().copied().map(f64::from).sum();
        assert_eq!(
            offset,
            sum as f32 * (1.0 / blocks as f32),
            "{blocks} blocks"
        );
    }
}

#[test]
fn the_dynamic_maps_are_bit_exact() {
    let file = Recording::open("dynamic_map.safetensors");
    assert_eq!(bits(nf4::dynamic_map()), bits(&file.f32("dynamic_signed")));
    assert_eq!(
        bits(nf4::dynamic_map_unsigned()),
        bits(&file.f32("dynamic_unsigned"))
    );
    assert_eq!(bits(Codebook::Nf4.values()), bits(&file.f32("nf4")));
    assert_eq!(bits(Codebook::Fp4.values()), bits(&file.f32("fp4")));
}

fn entry<'a>(file: &'a Recording, name: &str) -> Option<Entry<'a>> {
    let tensor = file.get(name)?;
    let dtype = match tensor.dtype() {
        safetensors::Dtype::U8 => Dtype::U8,
        safetensors::Dtype::F32 => Dtype::F32,
        safetensors::Dtype::BF16 => Dtype::Bf16,
        safetensors::Dtype::F16 => Dtype::F16,
        _ => Dtype::Other("something else"),
    };
    Some(Entry {
        dtype,
        shape: tensor.shape().to_vec(),
        data: Cow::Borrowed(file.bytes(name)),
    })
}

#[test]
fn genuine_checkpoints_are_read_and_written_back_byte_for_byte() {
    for (directory, double_quant) in [
        ("tiny_llama_nf4", true),
        ("tiny_llama_tied_nf4_nodq", false),
    ] {
        let file = Recording::open(&format!("{directory}/model.safetensors"));
        let mut weights = 0;
        for name in file.names() {
            let Some((weight, _)) = name.split_once(".quant_state.") else {
                continue;
            };
            let read = bitsandbytes::read(weight, |name| entry(&file, name)).unwrap();
            assert_eq!(
                read.matrix.layout().config().unwrap().double_quant,
                double_quant
            );
            the_quant_state_tells_the_layout(weight, |name| entry(&file, name), &read.matrix);
            let written = bitsandbytes::write(weight, &read.matrix, &read.dtype).unwrap();
            assert_eq!(written.len(), if double_quant { 6 } else { 4 });
            for (name, written) in written {
                assert_eq!(Some(written), entry(&file, &name), "{name}");
            }
            weights += 1;
        }
        assert!(weights > 0, "{directory}");
    }
}

/// A valid state dict, one of whose tensors is replaced (or with `None` removed) by the attack.
/// The layout is read from the quant_state, with spaces behind it or not, and every other tensor is held to it by its length.
fn the_quant_state_tells_the_layout<'a>(
    weight: &str,
    get: impl Fn(&str) -> Option<Entry<'a>>,
    matrix: &QuantizedMatrix,
) {
    let state = bitsandbytes::quant_state_name(weight, Codebook::Nf4);
    let padded = |name: &str| {
        let mut entry = get(name).filter(|_| name == state)?;
        entry.data.to_mut().extend([b' '; 4096]);
        Some(entry)
    };
    let len = |name: &str| get(name).map(|entry| entry.data.len());
    let layout = bitsandbytes::layout(weight, padded, len).unwrap();
    assert_eq!(layout, matrix.layout());
    let names = bitsandbytes::companion_names(weight).into_iter();
    let others = names.filter(|name| *name != state && get(name).is_some());
    for other in others.chain([weight.to_owned()]) {
        let longer = |name: &str| len(name).map(|len| len + usize::from(name == other));
        let error = bitsandbytes::layout(weight, &get, longer).unwrap_err();
        assert!(
            matches!(&error, FormatError::TensorSize { name, .. } if *name == other),
            "{error}"
        );
        let missing = |name: &str| len(name).filter(|_| name != other);
        let error = bitsandbytes::layout(weight, &get, missing).unwrap_err();
        assert_eq!(error, FormatError::MissingTensor { name: other });
    }
}

fn attacked(name: &'static str, with: Option<Entry<'static>>, double_quant: bool) -> FormatError {
    let values: Vec<f32> = (0..33 * 51)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0)
        .collect();
    let config = QuantConfig {
        double_quant,
        ..QuantConfig::default()
    };
    let matrix = nf4::reference::quantize(&values, [33, 51], config).unwrap();
    let written = bitsandbytes::write("w", &matrix, "bfloat16").unwrap();
    let get = |wanted: &str| {
        if wanted == name {
            return with.clone();
        }
        written
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, entry)| entry.clone())
    };
    let error = bitsandbytes::read("w", get).unwrap_err();
    assert!(error.to_string().contains('w'));
    error
}

fn raw(dtype: Dtype, data: Vec<u8>) -> Option<Entry<'static>> {
    Some(Entry {
        dtype,
        shape: vec![data.len()],
        data: Cow::Owned(data),
    })
}

#[test]
fn hostile_state_dicts_are_refused() {
    const STATE: &str = "w.quant_state.bitsandbytes__nf4";
    let names = [
        "w",
        "w.absmax",
        "w.quant_map",
        "w.nested_absmax",
        "w.nested_quant_map",
        STATE,
    ];
    for name in names {
        assert_eq!(
            attacked(name, None, true),
            FormatError::MissingTensor {
                name: name.to_owned()
            }
        );
        assert!(matches!(
            attacked(name, raw(Dtype::U8, Vec::new()), true),
            FormatError::TensorSize { .. }
                | FormatError::TensorDtype { .. }
                | FormatError::QuantState { .. }
        ));
    }
    for name in ["w.absmax", "w.quant_map"] {
        let nan = f32::NAN
            .to_le_bytes()
            .repeat(if name == "w.absmax" { 27 } else { 16 });
        let error = attacked(name, raw(Dtype::F32, nan), false);
        assert_eq!(
            error,
            FormatError::TensorNotFinite {
                name: name.to_owned(),
                index: 0
            }
        );
        assert!(matches!(
            attacked(name, raw(Dtype::Bf16, vec![0; 8]), true),
            FormatError::TensorDtype { .. }
        ));
    }
    let other = Codebook::Fp4
        .values()
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    assert!(matches!(
        attacked("w.quant_map", raw(Dtype::F32, other), true),
        FormatError::QuantMap { index: 0, .. }
    ));

    let state = |json: &str| attacked(STATE, raw(Dtype::U8, json.as_bytes().to_vec()), true);
    let valid = |shape: &str, block: &str, nested: &str| {
        state(&format!(
            r#"{{"quant_type": "nf4", "blocksize": {block}, "dtype": "bfloat16", "shape": {shape}{nested}}}"#
        ))
    };
    let nested = r#", "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.5"#;
    assert!(matches!(state("[1, 2"), FormatError::QuantState { .. }));
    assert!(matches!(
        state(r#"{"quant_type": "fp4"}"#),
        FormatError::QuantState { .. }
    ));
    assert!(matches!(
        valid("[33, 51, 1]", "64", nested),
        FormatError::QuantState { .. }
    ));
    assert!(matches!(
        valid("[33, -51]", "64", nested),
        FormatError::QuantState { .. }
    ));
    assert!(matches!(
        valid("[33, 52]", "64", nested),
        FormatError::TensorSize { .. }
    ));
    assert!(matches!(
        valid("[33, 51]", "0", nested),
        FormatError::BlockSize { block_size: 0 }
    ));
    assert!(matches!(
        valid("[33, 51]", "128", nested),
        FormatError::TensorSize { .. }
    ));
    let huge = "[4294967296, 4294967296]";
    assert!(matches!(
        valid(huge, "64", nested),
        FormatError::TooLarge { .. }
    ));
    assert!(matches!(
        valid("[2147483648, 1048576]", "64", nested),
        FormatError::TensorSize { .. }
    ));
    assert!(matches!(
        valid("[33, 51]", "64", r#", "nested_blocksize": 256"#),
        FormatError::QuantState { .. }
    ));
    assert!(matches!(
        valid("[33, 51]", "64", &nested.replace("0.5", "1e300")),
        FormatError::QuantState { .. }
    ));
    assert!(matches!(
        valid("[33, 51]", "64", &nested.replace("256", "128")),
        FormatError::QuantState { .. }
    ));
    assert!(matches!(
        attacked(STATE, raw(Dtype::U8, vec![b' '; 1 << 20]), true),
        FormatError::QuantState { .. }
    ));
}

#[test]
fn every_format_survives_a_trip_through_a_state_dict() {
    let values: Vec<f32> = (0..33 * 51)
        .map(|i| ((i * 7919 % 1009) as f32 - 500.0) * 1e-3)
        .collect();
    for codebook in [Codebook::Nf4, Codebook::Fp4] {
        for (block_size, double_quant) in [(32, true), (64, false), (512, true), (4096, false)] {
            let config = QuantConfig {
                codebook,
                block_size,
                double_quant,
            };
            let matrix = nf4::reference::quantize(&values, [33, 51], config).unwrap();
            let written = bitsandbytes::write("a.b", &matrix, "float16").unwrap();
            let companions = bitsandbytes::companion_names("a.b");
            assert!(
                written[1..]
                    .iter()
                    .all(|(name, _)| companions.contains(name))
            );
            let get = |name: &str| {
                written
                    .iter()
                    .find(|(n, _)| n == name)
                    .map(|(_, entry)| entry.clone())
            };
            let read = bitsandbytes::read("a.b", get).unwrap();
            assert_eq!((read.matrix, read.dtype.as_str()), (matrix, "float16"));
        }
    }
    let config = QuantConfig {
        codebook: Codebook::Int4,
        ..QuantConfig::default()
    };
    let matrix = nf4::reference::quantize(&values, [33, 51], config).unwrap();
    let error = bitsandbytes::write("a.b", &matrix, "float16").unwrap_err();
    assert_eq!(error, FormatError::NotInBitsandbytes { format: "int4" });
}

#[test]
fn unusable_input_is_refused_and_an_empty_matrix_is_not() {
    let config = QuantConfig::default();
    let mut values = vec![1.0; 6];
    assert_eq!(
        nf4::reference::quantize(&values, [2, 4], config),
        Err(FormatError::InputLength {
            len: 6,
            shape: [2, 4]
        })
    );
    values[4] = f32::INFINITY;
    assert_eq!(
        nf4::reference::quantize(&values, [2, 3], config),
        Err(FormatError::NotFinite {
            index: 4,
            row: 1,
            column: 1
        })
    );
    // Scales whose sum or reciprocal is beyond f32; the largest that may be decodes to itself.
    let shape = [300, 64];
    for double_quant in [true, false] {
        let config = QuantConfig {
            double_quant,
            ..config
        };
        let layout = nf4::Layout::new(shape, config).unwrap();
        let limit = layout.largest_magnitude();
        assert!(limit > 1e35);
        let quantize = |value: f32| {
            let values = vec![value; layout.elements()];
            let matrix = nf4::reference::quantize(&values, shape, config)?;
            Ok(nf4::reference::dequantize(matrix.as_ref()))
        };
        let decoded = quantize(limit).unwrap();
        // The mean is a product with the rounded reciprocal of 300.
        assert!(
            decoded
                .iter()
                .all(|value| (value / limit - 1.0).abs() < 1e-6)
        );
        for largest in [f32::MAX, 3e38, limit * 1.001] {
            assert_eq!(
                quantize(largest),
                Err(FormatError::Magnitude { largest, limit })
            );
        }
    }
    let empty = nf4::reference::quantize(&[], [0, 4], config).unwrap();
    assert_eq!(empty.packed(), &[] as &[u32]);
    assert_eq!(nf4::reference::dequantize(empty.as_ref()), [0.0f32; 0]);
}
