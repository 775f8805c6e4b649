//! Against what bitsandbytes 0.50.2 recorded.

use cubecl::client::Client;
use cubecl::prelude::*;
use nf4::{Codebook, Direction, Layout, QuantConfig, QuantizedMatrix};
use qlora_cubecl::matmul::matmul;
use qlora_cubecl::quantize::quantize;

use qlora_test_support::{Recording, bitsandbytes, json};

use crate::support::{F32, assert_close, read_values, read_words, rows, upload};

/// Returns the codes in words, with one zero where the codebook has two.
fn codes(words: &[u32], elements: usize, codebook: Codebook) -> Vec<u32> {
    let codes = bitsandbytes::codes(words, elements);
    match codebook {
        Codebook::Fp4 => bitsandbytes::with_one_zero(codes),
        _ => codes,
    }
}

pub fn quantized_words_match_bitsandbytes(client: &Client) {
    let recording = Recording::open("nf4_quantize.safetensors");
    let index = json("nf4_quantize.json");
    let mut variants = 0;
    for case in index["cases"].as_array().unwrap() {
        let shape = [0, 1].map(|i| case["shape"][i].as_u64().unwrap() as usize);
        let input = recording.f32(&format!("{}/input", case["case"].as_str().unwrap()));
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
            let expected = bitsandbytes::packed_words(
                recording.bytes(&format!("{prefix}/packed")),
                input.len(),
            );
            assert_eq!(
                codes(
                    &read_words(client, weight.packed),
                    input.len(),
                    config.codebook
                ),
                codes(&expected, input.len(), config.codebook),
                "{prefix}"
            );
            let absmax = recording.f32(&format!("{prefix}/absmax"));
            let absmax: Vec<_> = absmax.iter().map(|value| value.to_bits()).collect();
            assert_eq!(read_words(client, weight.absmax), absmax, "{prefix}");
            variants += 1;
        }
    }
    assert!(variants >= 8);
}

pub fn products_match_the_recording(client: &Client) {
    let recording = Recording::open("matmul.safetensors");
    let map = recording.f32("nested_code_map");
    for [m, k, n] in [[1, 64, 64], [5, 192, 96], [17, 256, 128]] {
        let part = |part: &str| format!("m{m}_k{k}_n{n}/{part}");
        let layout = Layout::new([n, k], QuantConfig::default()).unwrap();
        let absmax = bitsandbytes::scale_words(
            recording.bytes(&part("absmax_codes")),
            &recording.f32(&part("nested_absmax")),
            recording.f32(&part("nested_offset"))[0],
            &map,
        );
        let packed = bitsandbytes::packed_words(recording.bytes(&part("packed")), n * k);
        let matrix = QuantizedMatrix::from_parts(layout, packed, absmax).unwrap();
        let weight = upload(client, &matrix);
        for (input, output, direction, k) in [
            ("x", "y", Direction::Forward, k),
            ("dy", "dx", Direction::Transposed, n),
        ] {
            let x = client.create_from_slice(recording.bytes(&part(input)));
            let y = matmul(client, rows(x, F32, m, k), weight.clone(), direction).unwrap();
            assert_close(
                &read_values(client, y.handle, F32),
                &recording.f64(&part(output)),
                1e-5,
                &part(output),
            );
        }
    }
}
