//! Weights on a device, references, recordings.

use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use cubecl::server::Handle;
use cubecl::std::tensor::TensorHandle;
use half::{bf16, f16};
use nf4::{Direction, QuantizedMatrix};
use qlora_cubecl::Weight;
use safetensors::SafeTensors;
use std::path::PathBuf;

pub const F32: ElemType = ElemType::Float(FloatKind::F32);
pub const F16: ElemType = ElemType::Float(FloatKind::F16);
pub const BF16: ElemType = ElemType::Float(FloatKind::BF16);

/// Numbers in -1..1 that depend on `seed` alone.
pub fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

pub fn upload(client: &Client, matrix: &QuantizedMatrix) -> Weight {
    Weight {
        packed: client.create_from_slice(u32::as_bytes(matrix.packed())),
        absmax: client.create_from_slice(u32::as_bytes(matrix.absmax())),
        layout: matrix.layout(),
    }
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

/// The product in f64 with the weight decoded by the host.
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

pub fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        assert!(
            error <= tolerance * largest,
            "{what}: entry {i} is {found}, not {expected}"
        );
    }
}

/// `m` rows of `k` elements, one after another.
pub fn rows(handle: Handle, dtype: ElemType, m: usize, k: usize) -> TensorHandle {
    TensorHandle::new_contiguous([m, k], handle, dtype)
}

/// `m` rows of `k` elements, `stride` elements apart.
pub fn strided_rows(
    handle: Handle,
    dtype: ElemType,
    [m, k]: [usize; 2],
    stride: usize,
) -> TensorHandle {
    TensorHandle::new(handle, [m, k], [stride, 1], dtype)
}

/// A recorded file of the workspace.
pub struct Recording(Vec<u8>);

impl Recording {
    pub fn open(name: &str) -> Self {
        let folder = std::env::var_os("QLORA_FIXTURES").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures")),
            PathBuf::from,
        );
        let path = folder.join(name);
        Self(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    pub fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).expect("a recording is a safetensors file")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.0).expect("a recording's index is JSON")
    }
}

pub fn f32s(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let (values, _) = bytes(file, name).as_chunks();
    values
        .iter()
        .map(|value| f32::from_le_bytes(*value))
        .collect()
}

pub fn f64s(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let (values, _) = bytes(file, name).as_chunks();
    values
        .iter()
        .map(|value| f64::from_le_bytes(*value))
        .collect()
}

pub fn bytes<'a>(file: &SafeTensors<'a>, name: &str) -> &'a [u8] {
    let tensor = file.tensor(name);
    tensor
        .unwrap_or_else(|error| panic!("{name}: {error}"))
        .data()
}

/// Device words of recorded bytes, whose high nibble comes first.
pub fn packed_words(recorded: &[u8]) -> Vec<u32> {
    let swapped: Vec<_> = recorded.iter().map(|byte| byte.rotate_left(4)).collect();
    byte_words(&swapped)
}

pub fn byte_words(bytes: &[u8]) -> Vec<u32> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let (words, _) = bytes.as_chunks();
    words.iter().map(|word| u32::from_le_bytes(*word)).collect()
}
