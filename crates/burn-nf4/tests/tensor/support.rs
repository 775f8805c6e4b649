//! Devices, seeded inputs and comparison.

use burn_core::tensor::Device;
use burn_nf4::{BlockwiseTensor, Codebook, GgufFormat, Layout, QuantConfig, QuantizedMatrix, nf4};
use qlora_test_support::Tolerance;
use qlora_test_support::random::{gguf_blocks, normal};

/// A device and how exactly it must multiply.
pub struct TestDevice {
    pub device: Device,
    /// Largest error of a product relative to its largest entry. An f32 sum of a few hundred terms
    /// is right to 1e-6; the rest is room for another order of summation, and on GPUs for
    /// contraction and approximate conversions.
    pub tolerance: f64,
}

/// Runs `test` on a device.
pub fn run(device: qlora_test_support::TestDevice, test: fn(&TestDevice)) {
    let tolerance = if device.is_flex() { 1e-5 } else { 1e-4 };
    test(&TestDevice {
        device: device.device,
        tolerance,
    });
}

/// A random matrix quantized on the host, and what it decodes to.
pub fn random_matrix(
    seed: u64,
    shape: [usize; 2],
    config: QuantConfig,
) -> (QuantizedMatrix, Vec<f32>) {
    let dense = normal(seed, shape[0] * shape[1], 0.05);
    let matrix = nf4::reference::quantize(&dense, shape, config).expect("finite weights");
    let decoded = nf4::reference::dequantize(matrix.as_ref());
    (matrix, decoded)
}

/// A random default matrix on a device, and what it decodes to.
pub fn random_weight(seed: u64, shape: [usize; 2], device: &Device) -> (BlockwiseTensor, Vec<f32>) {
    let (matrix, decoded) = random_matrix(seed, shape, QuantConfig::default());
    (BlockwiseTensor::from_host(&matrix, device), decoded)
}

/// A matrix of random blocks of a file on a device, and what it decodes to.
pub fn file_weight(
    format: GgufFormat,
    shape: [usize; 2],
    device: &Device,
) -> (BlockwiseTensor, Vec<f32>) {
    let blocks = shape[0] * shape[1] / format.file_block();
    let bytes = gguf_blocks(11, format.name(), format.file_block_bytes(), blocks);
    let matrix = nf4::gguf::read(format, shape, &bytes, |row| row).expect("finite scales");
    let decoded = nf4::reference::dequantize(matrix.as_ref());
    (BlockwiseTensor::upload(matrix, device), decoded)
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

/// Within `tolerance` of the largest expected entry.
#[track_caller]
pub fn assert_close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    let reason = "the order of an f32 sum, on GPUs also contraction and approximate conversions, and the dtype's rounding";
    let tolerance = Tolerance::of_largest(tolerance, reason);
    qlora_test_support::assert_close(what, found, expected, tolerance);
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
