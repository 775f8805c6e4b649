//! The format: bits, not tolerances.

use burn_nf4::{BlockwiseTensor, BlockwiseTensorError, Codebook, QuantConfig};
use qlora_test_support::bitsandbytes::{packed_words, scale_words};
use qlora_test_support::random::normal;
use qlora_test_support::{Recording, block_on, tensor, values};

use crate::support::{TestDevice, configs, matrix_of};

/// One quantization of one recorded matrix.
struct Variant {
    input: Vec<f32>,
    shape: [usize; 2],
    prefix: String,
    config: QuantConfig,
}

fn variants(recording: &Recording) -> Vec<Variant> {
    let mut variants = Vec::new();
    for name in recording.names() {
        let Some(prefix) = name.strip_suffix("/packed") else {
            continue;
        };
        let (case, variant) = prefix.split_once('/').expect("case/variant/packed");
        let (codebook, block_size) = variant.split_once("_bs").expect("codebook_bsN");
        let shape = recording.shape(&format!("{case}/input"));
        variants.push(Variant {
            input: recording.f32(&format!("{case}/input")),
            shape: [shape[0], shape[1]],
            prefix: prefix.to_string(),
            config: QuantConfig {
                codebook: codebook.parse().expect("a codebook"),
                block_size: block_size.parse().expect("a block size"),
                double_quant: false,
            },
        });
    }
    assert!(!variants.is_empty());
    variants
}

/// Replaces code 8 by code 0, FP4's other zero, which bitsandbytes chooses by another rule.
fn without_second_zero(words: &[u32], codebook: Codebook) -> Vec<u32> {
    if codebook != Codebook::Fp4 {
        return words.to_vec();
    }
    let fold = |word: &u32| {
        (0..8).fold(0, |folded, i| {
            let code = word >> (4 * i) & 15;
            folded | (if code == 8 { 0 } else { code }) << (4 * i)
        })
    };
    words.iter().map(fold).collect()
}

/// As bits, except that zeros of either sign are equal (FP4's two zeros decode to both).
fn assert_same_bits(what: &str, actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let same = actual.to_bits() == expected.to_bits() || (*actual == 0.0 && *expected == 0.0);
        assert!(
            same,
            "{what}: element {i} is {actual:e}, expected {expected:e}"
        );
    }
}

pub fn codes_and_scales_are_those_of_bitsandbytes(test: &TestDevice) {
    let recording = Recording::open("nf4_quantize.safetensors");
    let map = recording.f32("nested_code_map");
    for Variant {
        input,
        shape,
        prefix,
        config,
    } in variants(&recording)
    {
        let part = |name: &str| format!("{prefix}/{name}");
        let weight = tensor(input.clone(), shape, &test.device);
        let plain = BlockwiseTensor::quantize(weight.clone(), config).unwrap();
        assert_same_bits(
            &part("dequant"),
            &values(plain.dequantize()),
            &recording.f32(&part("dequant")),
        );
        let plain = plain.into_host().unwrap();
        let packed = packed_words(recording.bytes(&part("packed")), input.len());
        assert_eq!(
            without_second_zero(plain.packed(), config.codebook),
            without_second_zero(&packed, config.codebook),
            "{prefix}: codes"
        );
        let absmax: Vec<u32> = recording
            .f32(&part("absmax"))
            .iter()
            .map(|x| x.to_bits())
            .collect();
        assert_eq!(plain.absmax(), absmax, "{prefix}: absmax");

        let double = QuantConfig {
            double_quant: true,
            ..config
        };
        let double = BlockwiseTensor::quantize(weight, double)
            .unwrap()
            .into_host()
            .unwrap();
        let (layout, words) = (double.layout(), double.absmax());
        assert_eq!(
            double.packed(),
            plain.packed(),
            "{prefix}: codes under double quantization"
        );
        let recorded_offset = recording.f32(&part("nested_offset"))[0];
        let offset = f32::from_bits(words[layout.offset_word()]);
        assert!(
            (offset - recorded_offset).abs() <= 1e-6 * recorded_offset.abs(),
            "{prefix}: offset {offset}, recorded {recorded_offset}"
        );
        // The order of the sum behind the offset is not fixed. Where it came out with the same
        // bits, so must everything that follows from it.
        if offset.to_bits() == recorded_offset.to_bits() {
            let expected = scale_words(
                recording.bytes(&part("absmax_codes_nearest")),
                &recording.f32(&part("nested_absmax")),
                recorded_offset,
                &map,
            );
            assert_eq!(
                words, expected,
                "{prefix}: nested codes, scales, offset and map"
            );
        }
    }
}

pub fn every_config_quantizes_as_on_the_host(test: &TestDevice) {
    // 640 blocks of 64: three nested blocks, the last one short; 37 columns: no row is aligned.
    for shape in [[1107, 37], [3, 5], [1, 1], [0, 8]] {
        let input = normal(7, shape[0] * shape[1], 0.02);
        for config in configs().into_iter().chain([QuantConfig::default()]) {
            let on_device =
                BlockwiseTensor::quantize(tensor(input.clone(), shape, &test.device), config)
                    .unwrap()
                    .into_host()
                    .unwrap();
            let on_host = burn_nf4::nf4::reference::quantize(&input, shape, config).unwrap();
            assert_eq!(on_device, on_host, "{shape:?} {config:?}");
        }
    }
}

pub fn extreme_scales_quantize_as_on_the_host(test: &TestDevice) {
    // Every mantissa pattern of the reciprocal's long division, over most of the exponents.
    let blocks = 2048;
    let mut input = normal(11, blocks * 32, 1.0);
    for (block, values) in input.chunks_mut(32).enumerate() {
        let exponent = (block % 200) as i32 - 100;
        values
            .iter_mut()
            .for_each(|value| *value *= 2f32.powi(exponent));
    }
    let config = QuantConfig {
        block_size: 32,
        double_quant: false,
        ..QuantConfig::default()
    };
    let shape = [blocks, 32];
    let on_device =
        BlockwiseTensor::quantize(tensor(input.clone(), shape, &test.device), config).unwrap();
    let on_host = burn_nf4::nf4::reference::quantize(&input, shape, config).unwrap();
    assert_eq!(on_device.into_host().unwrap(), on_host);
}

pub fn recorded_words_decode_to_the_recorded_bits(test: &TestDevice) {
    let recording = Recording::open("nf4_quantize.safetensors");
    let map = recording.f32("nested_code_map");
    for Variant {
        input,
        shape,
        prefix,
        config,
    } in variants(&recording)
    {
        let part = |name: &str| format!("{prefix}/{name}");
        if !recording.has(&part("dequant_dq")) {
            continue;
        }
        let config = QuantConfig {
            double_quant: true,
            ..config
        };
        let matrix = matrix_of(
            shape,
            config,
            packed_words(recording.bytes(&part("packed")), input.len()),
            scale_words(
                recording.bytes(&part("absmax_codes")),
                &recording.f32(&part("nested_absmax")),
                recording.f32(&part("nested_offset"))[0],
                &map,
            ),
        );
        let decoded = BlockwiseTensor::from_host(&matrix, &test.device).dequantize();
        assert_same_bits(
            &prefix,
            &values(decoded),
            &recording.f32(&part("dequant_dq")),
        );
    }
}

pub fn values_whose_scales_are_beyond_f32_are_refused(test: &TestDevice) {
    for double_quant in [true, false] {
        let config = QuantConfig {
            double_quant,
            ..QuantConfig::default()
        };
        let layout = burn_nf4::nf4::Layout::new([4, 64], config).unwrap();
        let limit = layout.largest_magnitude();
        let quantize = |value: f32| {
            let input = tensor(vec![value; 4 * 64], [4, 64], &test.device);
            BlockwiseTensor::quantize(input, config)
        };
        let decoded = values(quantize(-limit).unwrap().dequantize());
        assert_eq!(decoded, vec![-limit; 4 * 64]);
        let error = quantize(1.5 * limit).unwrap_err();
        assert!(error.to_string().contains("too large"), "{error}");
    }
}

pub fn values_that_are_not_finite_are_refused(test: &TestDevice) {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut input = normal(3, 64 * 4, 1.0);
        input[77] = bad;
        let error =
            BlockwiseTensor::quantize(tensor(input, [4, 64], &test.device), QuantConfig::default());
        assert!(
            matches!(
                error,
                Err(BlockwiseTensorError::NotFinite { shape: [4, 64] })
            ),
            "{bad}: {error:?}"
        );
    }
}

pub fn what_is_awaited_is_what_is_waited_for(test: &TestDevice) {
    let config = QuantConfig::default();
    let input = || tensor(normal(5, 64 * 4, 1.0), [4, 64], &test.device);
    let waited = BlockwiseTensor::quantize(input(), config).unwrap();
    let awaited = block_on(BlockwiseTensor::quantize_async(input(), config)).unwrap();
    let awaited = block_on(awaited.into_host_async()).unwrap();
    assert_eq!(awaited, waited.into_host().unwrap());

    let limit = awaited.layout().largest_magnitude();
    for (bad, says) in [(f32::NAN, "finite"), (1.5 * limit, "too large")] {
        let input = tensor(vec![bad; 4 * 64], [4, 64], &test.device);
        let error = block_on(BlockwiseTensor::quantize_async(input, config)).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}
