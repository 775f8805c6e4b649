//! Quantizing and decoding, bit for bit as the host does.

use cubecl::client::Client;
use cubecl::prelude::*;
use nf4::{Codebook, Layout, QuantConfig};
use qlora_cubecl::dequantize::{Kernel, dequantize_with};
use qlora_cubecl::matmul::DeviceKind;
use qlora_cubecl::quantize::quantize;

use crate::support::{BF16, F16, F32, random, read_values, read_words, rows, upload};

/// Short last blocks and words, several nested blocks, a zero block, every block size class.
fn cases() -> Vec<([usize; 2], QuantConfig)> {
    let with = |codebook, block_size, double_quant| QuantConfig {
        codebook,
        block_size,
        double_quant,
    };
    vec![
        ([1, 1], QuantConfig::default()),
        ([37, 51], QuantConfig::default()),
        ([320, 192], QuantConfig::default()),
        ([75, 104], with(Codebook::Nf4, 32, true)),
        ([64, 128], with(Codebook::Fp4, 64, false)),
        ([70, 128], with(Codebook::Int4, 4096, true)),
    ]
}

fn input(shape: [usize; 2]) -> Vec<f32> {
    let mut values = random(shape[1] as u64, shape[0] * shape[1]);
    let zeros = values.len().min(128);
    values[zeros / 2..zeros].fill(0.0);
    values
}

pub fn words_have_the_bits_of_the_host(client: &Client) {
    for (shape, config) in cases() {
        let input = input(shape);
        let expected = qlora_cpu::quantize(&input, shape, config).unwrap();
        let values = client.create_from_slice(f32::as_bytes(&input));
        let values = rows(values, F32, shape[0], shape[1]);
        let found = quantize(client, values, Layout::new(shape, config).unwrap()).unwrap();
        let what = format!("{shape:?} {config:?}");
        let last = input.len().div_ceil(8) - 1;
        let (found_packed, packed) = (read_words(client, found.packed), expected.packed());
        assert_eq!(found_packed[..last], packed[..last], "{what}");
        let stored = u32::MAX >> (4 * (8 * (last + 1) - input.len()));
        assert_eq!(found_packed[last] & stored, packed[last] & stored, "{what}");
        assert_eq!(
            read_words(client, found.absmax),
            expected.absmax(),
            "{what}"
        );
    }
}

/// The kernels that can decode so many elements, but where a CPU's cores would wait for each other at barriers.
fn kernels(client: &Client, elements: usize) -> &'static [Kernel] {
    if DeviceKind::of(client) == DeviceKind::Cpu || !elements.is_multiple_of(32) {
        &[Kernel::Streamed]
    } else {
        &[Kernel::Streamed, Kernel::Staged]
    }
}

pub fn decoded_values_have_the_bits_of_the_host(client: &Client) {
    for (shape, config) in cases() {
        let matrix = qlora_cpu::quantize(&input(shape), shape, config).unwrap();
        let weight = upload(client, &matrix);
        let mut expected = vec![0.0; shape[0] * shape[1]];
        qlora_cpu::dequantize(matrix.as_ref(), &mut expected);
        for dtype in [F32, F16, BF16] {
            let expected: Vec<_> = expected
                .iter()
                .map(|value| match dtype {
                    F16 => half::f16::from_f32(*value).to_f32(),
                    BF16 => half::bf16::from_f32(*value).to_f32(),
                    _ => *value,
                })
                .collect();
            for &kernel in kernels(client, expected.len()) {
                // bf16 is what not every device has.
                let Ok(values) = dequantize_with(client, &weight, dtype, kernel) else {
                    assert_eq!(dtype, BF16);
                    continue;
                };
                assert_eq!(
                    read_values(client, values.handle, dtype),
                    expected,
                    "{shape:?} {config:?} {dtype:?} {kernel:?}"
                );
            }
        }
    }
}
