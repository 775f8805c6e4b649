//! Against what bitsandbytes 0.50.2 recorded.

use cubecl::client::Client;
use cubecl::prelude::*;
use nf4::{Codebook, Direction, Layout, QuantConfig, QuantizedMatrix};
use qlora_cubecl::matmul::matmul;
use qlora_cubecl::quantize::quantize;

use crate::support::{
    F32, Recording, assert_close, byte_words, bytes, f32s, f64s, packed_words, read_values,
    read_words, rows, upload,
};

/// FP4 has two zeros, and which one a small value gets is nobody's business; nor is what fills the last word.
fn codes(words: &[u32], elements: usize, codebook: Codebook) -> Vec<u32> {
    let codes = words
        .iter()
        .flat_map(|word| (0..8).map(move |i| (word >> (4 * i)) & 15));
    let fold = |code| {
        if codebook == Codebook::Fp4 && code == 8 {
            0
        } else {
            code
        }
    };
    codes.take(elements).map(fold).collect()
}

pub fn quantized_words_match_bitsandbytes(client: &Client) {
    let recording = Recording::open("nf4_quantize.safetensors");
    let file = recording.tensors();
    let index = Recording::open("nf4_quantize.json").json();
    let mut variants = 0;
    for case in index["cases"].as_array().unwrap() {
        let shape = [0, 1].map(|i| case["shape"][i].as_u64().unwrap() as usize);
        let input = f32s(&file, &format!("{}/input", case["case"].as_str().unwrap()));
        for variant in case["variants"].as_array().unwrap() {
            let prefix = variant["prefix"].as_str().unwrap();
            let config = QuantConfig {
                codebook: variant["quant_type"].as_str().unwrap().parse().unwrap(),
                block_size: variant["blocksize"].as_u64().unwrap() as usize,
                double_quant: false,
            };
            let values = client.create_from_slice(f32::as_bytes(&input));
            let values = rows(values, F32, shape[0], shape[1]);
            let weight = quantize(client, values, Layout::new(shape, config).unwrap()).unwrap();
            let expected = packed_words(bytes(&file, &format!("{prefix}/packed")));
            assert_eq!(
                codes(
                    &read_words(client, weight.packed),
                    input.len(),
                    config.codebook
                ),
                codes(&expected, input.len(), config.codebook),
                "{prefix}"
            );
            let absmax = f32s(&file, &format!("{prefix}/absmax"));
            let absmax: Vec<_> = absmax.iter().map(|value| value.to_bits()).collect();
            assert_eq!(read_words(client, weight.absmax), absmax, "{prefix}");
            variants += 1;
        }
    }
    assert!(variants >= 8);
}

pub fn products_match_the_recording(client: &Client) {
    let recording = Recording::open("matmul.safetensors");
    let file = recording.tensors();
    let map = f32s(&file, "nested_code_map");
    for [m, k, n] in [[1, 64, 64], [5, 192, 96], [17, 256, 128]] {
        let part = |part: &str| format!("m{m}_k{k}_n{n}/{part}");
        let layout = Layout::new([n, k], QuantConfig::default()).unwrap();
        let mut absmax = byte_words(bytes(&file, &part("absmax_codes")));
        absmax.extend(
            f32s(&file, &part("nested_absmax"))
                .iter()
                .map(|v| v.to_bits()),
        );
        absmax.extend(
            f32s(&file, &part("nested_offset"))
                .iter()
                .map(|v| v.to_bits()),
        );
        absmax.extend(map.iter().map(|v| v.to_bits()));
        let packed = packed_words(bytes(&file, &part("packed")));
        let matrix = QuantizedMatrix::from_parts(layout, packed, absmax).unwrap();
        let weight = upload(client, &matrix);
        for (input, output, direction, k) in [
            ("x", "y", Direction::Forward, k),
            ("dy", "dx", Direction::Transposed, n),
        ] {
            let x = client.create_from_slice(bytes(&file, &part(input)));
            let y = matmul(client, rows(x, F32, m, k), weight.clone(), direction).unwrap();
            assert_close(
                &read_values(client, y.handle, F32),
                &f64s(&file, &part(output)),
                1e-5,
                &part(output),
            );
        }
    }
}
