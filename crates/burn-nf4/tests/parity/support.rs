//! Devices, recordings and seeded inputs.

use std::path::PathBuf;

use burn_core::tensor::{Device, Tensor, TensorData};
use burn_nf4::nf4::NESTED_MAP;
use burn_nf4::{Codebook, Layout, Nf4Tensor, QuantConfig, QuantizedMatrix};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::{Dtype, SafeTensors};

/// A device and how exactly it must multiply.
pub struct TestDevice {
    pub device: Device,
    /// Largest error of a product relative to its largest entry. An f32 sum of a few hundred terms
    /// is right to 1e-6; the rest is room for another order of summation, and on GPUs for
    /// contraction and approximate conversions.
    pub tolerance: f64,
}

#[cfg(feature = "flex")]
pub fn flex() -> TestDevice {
    TestDevice {
        device: Device::flex(),
        tolerance: 1e-5,
    }
}

#[cfg(feature = "wgpu")]
pub fn wgpu() -> TestDevice {
    TestDevice {
        device: Device::wgpu(burn_core::tensor::DeviceKind::DefaultDevice),
        tolerance: 1e-4,
    }
}

#[cfg(feature = "cpu")]
pub fn cubecl_cpu() -> TestDevice {
    TestDevice {
        device: Device::cpu(),
        tolerance: 1e-4,
    }
}

/// A recorded safetensors file of the folder that `QLORA_FIXTURES` names, else of the workspace.
pub struct Recording(Vec<u8>);

impl Recording {
    pub fn open(name: &str) -> Self {
        let folder = std::env::var_os("QLORA_FIXTURES").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")),
            PathBuf::from,
        );
        let path = folder.join(name);
        Self(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    /// The names of all tensors.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .tensors()
            .names()
            .iter()
            .map(ToString::to_string)
            .collect();
        names.sort();
        names
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors().tensor(name).is_ok()
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.tensors().tensor(name).expect(name).shape().to_vec()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.tensors().tensor(name).expect(name).data().to_vec()
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        assert_eq!(self.tensors().tensor(name).expect(name).dtype(), Dtype::F32);
        let bytes = self.bytes(name);
        bytes
            .as_chunks()
            .0
            .iter()
            .copied()
            .map(f32::from_le_bytes)
            .collect()
    }

    pub fn f64(&self, name: &str) -> Vec<f64> {
        assert_eq!(self.tensors().tensor(name).expect(name).dtype(), Dtype::F64);
        let bytes = self.bytes(name);
        bytes
            .as_chunks()
            .0
            .iter()
            .copied()
            .map(f64::from_le_bytes)
            .collect()
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).expect("recorded safetensors file")
    }
}

/// bitsandbytes' bytes, high nibble first, as words.
pub fn words_of_packed(bytes: &[u8], elements: usize) -> Vec<u32> {
    let mut words = vec![0; elements.div_ceil(8)];
    for element in 0..elements {
        let byte = bytes[element / 2];
        let code = if element % 2 == 0 {
            byte >> 4
        } else {
            byte & 15
        };
        words[element / 8] |= u32::from(code) << (4 * (element % 8));
    }
    words
}

/// The scale words of double quantization from their recorded parts.
pub fn words_of_scales(codes: &[u8], nested: &[f32], offset: f32, map: &[f32]) -> Vec<u32> {
    assert_eq!(map.len(), NESTED_MAP);
    let mut words: Vec<u32> = codes
        .chunks(4)
        .map(|codes| {
            codes
                .iter()
                .rev()
                .fold(0, |word, code| word << 8 | u32::from(*code))
        })
        .collect();
    words.extend(
        nested
            .iter()
            .chain([&offset])
            .chain(map)
            .map(|value| value.to_bits()),
    );
    words
}

/// `len` values of about N(0, scale) (the sum of four uniform ones).
pub fn normal(seed: u64, len: usize, scale: f32) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len)
        .map(|_| (0..4).map(|_| rng.random_range(-1.0f32..1.0)).sum::<f32>() * scale)
        .collect()
}

pub fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .into_data()
        .as_slice::<f32>()
        .expect("an f32 tensor")
        .to_vec()
}

/// A random matrix quantized on the host, and what it decodes to.
pub fn random_matrix(
    seed: u64,
    shape: [usize; 2],
    config: QuantConfig,
) -> (QuantizedMatrix, Vec<f32>) {
    let dense = normal(seed, shape[0] * shape[1], 0.05);
    let matrix = burn_nf4::nf4::reference::quantize(&dense, shape, config).expect("finite weights");
    let decoded = burn_nf4::nf4::reference::dequantize(matrix.as_ref());
    (matrix, decoded)
}

/// A random default matrix on a device, and what it decodes to.
pub fn random_weight(seed: u64, shape: [usize; 2], device: &Device) -> (Nf4Tensor, Vec<f32>) {
    let (matrix, decoded) = random_matrix(seed, shape, QuantConfig::default());
    (Nf4Tensor::from_host(&matrix, device), decoded)
}

/// A matrix from its recorded parts.
pub fn matrix_of(
    shape: [usize; 2],
    config: QuantConfig,
    packed: Vec<u32>,
    absmax: Vec<u32>,
) -> QuantizedMatrix {
    let layout = Layout::new(shape, config).expect("a recorded layout");
    QuantizedMatrix::from_parts(layout, packed, absmax).expect("recorded words")
}

/// `x · Wᵀ` in f64 from f32 operands; `x · W` if `transposed`.
pub fn multiply(x: &[f32], w: &[f32], [n, k]: [usize; 2], transposed: bool) -> Vec<f64> {
    let (inner, outer) = if transposed { (n, k) } else { (k, n) };
    let rows = x.len().checked_div(inner).unwrap_or(0);
    let mut y = vec![0.0; rows * outer];
    for (x, y) in x.chunks(inner.max(1)).zip(y.chunks_mut(outer.max(1))) {
        for (column, y) in y.iter_mut().enumerate() {
            let weight = |i: usize| {
                if transposed {
                    w[i * k + column]
                } else {
                    w[column * k + i]
                }
            };
            *y = (0..inner)
                .map(|i| f64::from(x[i]) * f64::from(weight(i)))
                .sum();
        }
    }
    y
}

/// Asserts that the largest error is at most `tolerance` times the largest expected entry.
pub fn assert_close(what: &str, actual: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    let largest = expected
        .iter()
        .fold(0.0f64, |max, value| max.max(value.abs()));
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(*actual) - expected).abs();
        assert!(
            error <= tolerance * largest,
            "{what}: element {i} is {actual}, expected {expected} (largest {largest})"
        );
    }
}

/// Every codebook with and without double quantization, block sizes from end to end.
pub fn configs() -> Vec<QuantConfig> {
    let mut configs = Vec::new();
    for (codebook, block_size) in [
        (Codebook::Nf4, 32),
        (Codebook::Fp4, 64),
        (Codebook::Int4, 4096),
    ] {
        for double_quant in [true, false] {
            configs.push(QuantConfig {
                codebook,
                block_size,
                double_quant,
            });
        }
    }
    configs
}
