//! Weights on a device, references, comparison.

use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use cubecl::server::Handle;
use cubecl::std::tensor::TensorHandle;
use half::{bf16, f16};
use nf4::{Direction, GgufFormat, QuantizedMatrix, gguf};
use qlora_cubecl::Weight;
use qlora_test_support::random::gguf_blocks;
use qlora_test_support::{Tolerance, runtime};

pub const F32: ElemType = ElemType::Float(FloatKind::F32);
pub const F16: ElemType = ElemType::Float(FloatKind::F16);
pub const BF16: ElemType = ElemType::Float(FloatKind::BF16);

/// Runs `test` on the runtime of that feature.
pub fn run(feature: &str, test: fn(&Client)) {
    test(&runtime(feature).client());
}

pub fn upload(client: &Client, matrix: &QuantizedMatrix) -> Weight {
    Weight {
        packed: client.create_from_slice(u32::as_bytes(matrix.packed())),
        absmax: client.create_from_slice(u32::as_bytes(matrix.absmax())),
        layout: matrix.layout(),
    }
}

/// A matrix of random blocks of a file.
pub fn file_matrix(format: GgufFormat, shape: [usize; 2]) -> QuantizedMatrix {
    let blocks = shape[0] * shape[1] / format.file_block();
    let bytes = gguf_blocks(11, format.name(), format.file_block_bytes(), blocks);
    gguf::read(format, shape, &bytes, |row| row).expect("whole blocks of finite scales")
}

pub fn read(client: &Client, handle: Handle) -> cubecl::bytes::Bytes {
    client.read_one(handle).expect("the device should answer")
}

pub fn read_words(client: &Client, handle: Handle) -> Vec<u32> {
    u32::from_bytes(&read(client, handle)).to_vec()
}

/// `values` as `dtype` on the device, and what they are after rounding to it.
pub fn upload_values(client: &Client, values: &[f32], dtype: ElemType) -> (Handle, Vec<f32>) {
    if dtype == F16 {
        let values: Vec<_> = values.iter().map(|value| f16::from_f32(*value)).collect();
        let rounded = values.iter().map(|value| value.to_f32()).collect();
        (client.create_from_slice(f16::as_bytes(&values)), rounded)
    } else if dtype == BF16 {
        let values: Vec<_> = values.iter().map(|value| bf16::from_f32(*value)).collect();
        let rounded = values.iter().map(|value| value.to_f32()).collect();
        (client.create_from_slice(bf16::as_bytes(&values)), rounded)
    } else {
        (
            client.create_from_slice(f32::as_bytes(values)),
            values.to_vec(),
        )
    }
}

pub fn read_values(client: &Client, handle: Handle, dtype: ElemType) -> Vec<f32> {
    let bytes = read(client, handle);
    if dtype == F16 {
        let values = f16::from_bytes(&bytes);
        values.iter().map(|value| value.to_f32()).collect()
    } else if dtype == BF16 {
        let values = bf16::from_bytes(&bytes);
        values.iter().map(|value| value.to_f32()).collect()
    } else {
        f32::from_bytes(&bytes).to_vec()
    }
}

/// Returns the product in f64 with the weight decoded by the host.
pub fn reference(
    matrix: &QuantizedMatrix,
    x: &[f32],
    m: usize,
    x_stride: usize,
    direction: Direction,
) -> Vec<f64> {
    let [n, k] = matrix.layout().shape();
    let mut dense = vec![0.0; n * k];
    qlora_cpu::dequantize(matrix.as_ref(), &mut dense);
    let [inner, outer] = direction.widths([n, k]);
    let mut y = vec![0.0; m * outer];
    for row in 0..m {
        for column in 0..outer {
            y[row * outer + column] = (0..inner)
                .map(|i| {
                    let w = match direction {
                        Direction::Forward => dense[column * k + i],
                        Direction::Transposed => dense[i * k + column],
                    };
                    f64::from(x[row * x_stride + i]) * f64::from(w)
                })
                .sum();
        }
    }
    y
}

/// Largest error relative to the largest entry. An f32 sum of a few hundred terms is right to 1e-6, and 1e-5 leaves
/// room for any order of summation. Half precision rounds the result, and on matrix instructions the decoded weight, by
/// half a unit of its last place: 2^-12 and 2^-9 of a value; four times that is allowed.
pub fn tolerance(dtype: ElemType) -> f64 {
    match dtype {
        F16 => 1e-3,
        BF16 => 8e-3,
        _ => 1e-5,
    }
}

/// Asserts that all entries are within `tolerance` of the largest entry.
#[track_caller]
pub fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    let reason = "the order of an f32 sum, and in half precision the rounding of what goes into it and comes out";
    let tolerance = Tolerance::of_largest(tolerance, reason);
    qlora_test_support::assert_close(what, found, expected, tolerance);
}

/// Returns `m` rows of `k` elements, one after another.
pub fn rows(handle: Handle, dtype: ElemType, m: usize, k: usize) -> TensorHandle {
    TensorHandle::new_contiguous([m, k], handle, dtype)
}

/// Returns `m` rows of `k` elements, `stride` elements apart.
pub fn strided_rows(
    handle: Handle,
    dtype: ElemType,
    [m, k]: [usize; 2],
    stride: usize,
) -> TensorHandle {
    TensorHandle::new(handle, [m, k], [stride, 1], dtype)
}
