//! Matrices in the blocks of llama.cpp's files.

use burn_nf4::{BlockwiseTensor, GgufFormat, nf4};
use qlora_test_support::random::normal;
use qlora_test_support::{Recording, tensor, values};

use crate::support::{TestDevice, assert_close, file_weight, multiply};

/// But for subnormal numbers, which a device may take for 0.
pub fn recorded_blocks_decode_to_the_recorded_bits(test: &TestDevice) {
    let file = Recording::open("gguf_blocks.safetensors");
    for format in GgufFormat::ALL {
        let blocks = file.bytes(&format!("{format}/blocks"));
        let expected = file.f32(&format!("{format}/values"));
        let matrix = nf4::gguf::read(format, [3, 512], blocks, |row| row).unwrap();
        let weight = BlockwiseTensor::upload(matrix.clone(), &test.device);
        let found = values(weight.dequantize());
        assert_eq!(found.len(), expected.len());
        for (i, (found, expected)) in found.into_iter().zip(expected).enumerate() {
            let is_decoded =
                found.to_bits() == expected.to_bits() || (expected.is_subnormal() && found == 0.0);
            assert!(is_decoded, "{format} at {i}: {found} is not {expected}");
        }
        assert_eq!(weight.into_host().unwrap(), matrix, "{format}");
    }
}

/// The gradient of the one product is the other.
pub fn every_format_multiplies_and_has_a_gradient(test: &TestDevice) {
    let autodiff = test.device.clone().autodiff();
    let [n, k] = [37, 256];
    for format in GgufFormat::ALL {
        let (weight, decoded) = file_weight(format, [n, k], &test.device);
        for m in [1, 11] {
            let (x, dy) = (normal(12, m * k, 1.0), normal(13, m * n, 1.0));
            let tracked = tensor(x.clone(), [m, k], &autodiff).require_grad();
            let y = weight.matmul(tracked.clone());
            let expected = multiply(&x, &decoded, [n, k], false);
            let what = format!("y of {m} in {format}");
            assert_close(&what, &values(y.clone()), &expected, test.tolerance);
            // The gradient of sum(y * dy) with respect to y is dy.
            let gradients = (y * tensor(dy.clone(), [m, n], &autodiff)).sum().backward();
            let dx = tracked.grad(&gradients).expect("a gradient of x");
            let expected = multiply(&dy, &decoded, [n, k], true);
            let what = format!("dx of {m} in {format}");
            assert_close(&what, &values(dx), &expected, test.tolerance);
        }
    }
}
