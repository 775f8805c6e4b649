//! The blocks of llama.cpp's files, decoded and multiplied.

use cubecl::client::Client;
use cubecl::ir::ElemType;
use nf4::{Direction, GgufFormat, gguf};
use qlora_cubecl::check_float;
use qlora_cubecl::dequantize::{self, dequantize_with};
use qlora_cubecl::matmul::{DeviceKind, Kernel};
use qlora_test_support::Recording;

use crate::products::{Product, kernels, takes};
use crate::support::{BF16, F16, F32, file_matrix, read_values, upload};

/// Rows of an odd number of blocks or superblocks, whose scales begin anywhere in a word.
fn shape(format: GgufFormat) -> [usize; 2] {
    match format.file_block() {
        32 => [37, 160],
        _ => [37, 768],
    }
}

/// Codes of 4 bits with minima, and of 8 bits with blocks of 16: how a kernel walks through the words depends on no more.
const TOLD_APART: [GgufFormat; 2] = [GgufFormat::Q4_K, GgufFormat::Q6_K];

/// A subnormal number may be 0 to a device.
fn is_decoded(found: f32, expected: f32) -> bool {
    found.to_bits() == expected.to_bits() || (expected.is_subnormal() && found == 0.0)
}

pub fn recorded_blocks_decode_bit_for_bit(client: &Client) {
    let file = Recording::open("gguf_blocks.safetensors");
    let kernels: &[_] = match DeviceKind::of(client) {
        // Its cores would wait for each other at the other's barrier.
        DeviceKind::Cpu => &[dequantize::Kernel::Streamed],
        _ => &[dequantize::Kernel::Streamed, dequantize::Kernel::Staged],
    };
    for format in GgufFormat::ALL {
        let blocks = file.bytes(&format!("{format}/blocks"));
        let expected = file.f32(&format!("{format}/values"));
        let matrix = gguf::read(format, [3, 512], blocks, |row| row).unwrap();
        let weight = upload(client, &matrix);
        for &kernel in kernels {
            let values = dequantize_with(client, &weight, F32, kernel).unwrap();
            let values = read_values(client, values.handle, F32);
            assert_eq!(values.len(), expected.len());
            for (i, (found, expected)) in values.into_iter().zip(&expected).enumerate() {
                let what = format!("{format} by {kernel:?} at {i}");
                assert!(
                    is_decoded(found, *expected),
                    "{what}: {found} is not {expected}"
                );
            }
        }
    }
}

/// Every format by few rows, and by many those that are told apart.
pub fn every_kernel_multiplies_every_format(client: &Client) {
    let few = GgufFormat::ALL.map(|format| (3, format));
    let many = TOLD_APART.map(|format| (20, format));
    for (m, format) in few.into_iter().chain(many) {
        let matrix = file_matrix(format, shape(format));
        for direction in Direction::ALL {
            let product = Product::of(client, F32, (m, &matrix), 0, direction);
            let class = product.problem.class();
            for &kernel in kernels(class.device) {
                if takes(kernel, m, class.alignment, direction) {
                    product.check(client, kernel);
                }
            }
        }
    }
}

pub fn half_precision_multiplies_every_format(client: &Client) {
    let mut checked = 0;
    let types = [F16, BF16].into_iter();
    for dtype in types.filter(|dtype| check_float(client, "matmul", *dtype).is_ok()) {
        let formats = match dtype {
            F16 => &GgufFormat::ALL[..],
            _ => &TOLD_APART,
        };
        for &format in formats {
            multiply_by_chosen(client, dtype, format);
            checked += 1;
        }
    }
    assert!(checked > 0, "every runtime has f16");
}

/// By matrix instructions where there are any.
fn multiply_by_chosen(client: &Client, dtype: ElemType, format: GgufFormat) {
    let matrix = file_matrix(format, shape(format));
    for direction in Direction::ALL {
        let product = Product::of(client, dtype, (20, &matrix), 0, direction);
        let class = product.problem.class();
        product.check(
            client,
            match class.has_matrix_instructions {
                true => Kernel::StagedMatrix,
                false => product.problem.candidates()[0],
            },
        );
    }
}
