//! Refusals, by type and with a name.

use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind, UIntKind};
use nf4::{Direction, GgufFormat, Layout, QuantConfig};
use qlora_cubecl::dequantize::{self, dequantize, dequantize_with};
use qlora_cubecl::matmul::{Kernel, Problem, matmul};
use qlora_cubecl::quantize::quantize;
use qlora_cubecl::{KernelError, Weight};

use qlora_test_support::random::uniform;

use crate::support::{F16, F32, rows, upload, upload_values};

fn weight(client: &Client, shape: [usize; 2]) -> Weight {
    let values = uniform(1, shape[0] * shape[1]);
    upload(
        client,
        &qlora_cpu::quantize(&values, shape, QuantConfig::default()).unwrap(),
    )
}

pub fn types_that_are_no_floats(client: &Client) {
    let weight = weight(client, [8, 64]);
    for dtype in [
        ElemType::UInt(UIntKind::U32),
        ElemType::Float(FloatKind::F64),
    ] {
        let (x, _) = upload_values(client, &[0.0; 128], F32);
        let x = rows(x, dtype, 1, 64);
        let error = matmul(client, x, weight.clone(), Direction::Forward).unwrap_err();
        assert_eq!(
            error,
            KernelError::UnsupportedType {
                operation: "matmul",
                dtype
            }
        );
        assert!(error.to_string().contains(&format!("{dtype:?}")), "{error}");
        let error = dequantize(client, &weight, dtype).unwrap_err();
        assert_eq!(
            error,
            KernelError::UnsupportedType {
                operation: "dequantize",
                dtype
            }
        );
    }
}

pub fn what_32_bits_cannot_index(client: &Client) {
    // The sizes are refused before the buffers are looked at.
    let small = weight(client, [8, 64]);
    let huge = Weight {
        packed: small.packed.clone(),
        absmax: small.absmax.clone(),
        layout: Layout::new([1 << 16, 1 << 15], QuantConfig::default()).unwrap(),
    };
    let weight_is_too_large = KernelError::TooLarge {
        what: "weight",
        elements: 1 << 31,
    };
    let error = dequantize(client, &huge, F32).unwrap_err();
    assert_eq!(error, weight_is_too_large);
    let (x, _) = upload_values(client, &[0.0; 64], F32);
    let row = rows(x.clone(), F32, 1, 1 << 15);
    let error = matmul(client, row, huge, Direction::Forward).unwrap_err();
    assert_eq!(error, weight_is_too_large);
    let error = matmul(client, rows(x, F32, 1 << 28, 64), small, Direction::Forward).unwrap_err();
    assert_eq!(
        error,
        KernelError::TooLarge {
            what: "output",
            elements: 1 << 31
        }
    );
}

/// None of the runtimes that the suite runs on multiplies matrices by instruction; and no device has the kernels for
/// few rows where there are many.
pub fn kernels_that_the_device_cannot_run(client: &Client) {
    let weight = weight(client, [8, 64]);
    for kernel in [Kernel::StagedMatrix, Kernel::Gemv, Kernel::Dots] {
        let (x, _) = upload_values(client, &uniform(2, 20 * 64), F32);
        let x = rows(x, F32, 20, 64);
        let problem = Problem::new(client, x, weight.clone(), Direction::Forward).unwrap();
        let result = problem.multiply(kernel);
        let Err(KernelError::Unavailable { operation, reason }) = result else {
            panic!("{kernel:?} should be refused, not {result:?}");
        };
        assert_eq!(operation, "matmul");
        assert!(!reason.is_empty());
    }
    let odd = self::weight(client, [3, 7]);
    let result = dequantize_with(client, &odd, F32, dequantize::Kernel::Staged);
    assert!(matches!(
        result,
        Err(KernelError::Unavailable {
            operation: "dequantize",
            ..
        })
    ));
}

pub fn operands_that_do_not_fit(client: &Client) {
    let weight = weight(client, [8, 64]);
    let (x, _) = upload_values(client, &[0.0; 63], F32);
    let x = rows(x, F32, 1, 63);
    let error = matmul(client, x.clone(), weight, Direction::Forward).unwrap_err();
    let mismatch = |operation, what, expected| KernelError::ShapeMismatch {
        operation,
        what,
        expected,
        actual: 63,
    };
    assert_eq!(error, mismatch("matmul", "input's last dimension", 64));
    let layout = Layout::new([8, 64], QuantConfig::default()).unwrap();
    let error = quantize(client, x, layout).unwrap_err();
    assert_eq!(error, mismatch("quantize", "matrix", 512));
    let (half, _) = upload_values(client, &[0.0; 512], F16);
    let error = quantize(client, rows(half, F16, 8, 64), layout).unwrap_err();
    assert!(
        matches!(error, KernelError::NotSingle { dtype: F16, .. }),
        "{error}"
    );
}

pub fn formats_that_files_have_are_not_quantized_to(client: &Client) {
    let (values, _) = upload_values(client, &[0.0; 64], F32);
    let layout = Layout::new([2, 32], GgufFormat::Q4_0).unwrap();
    let error = quantize(client, rows(values, F32, 2, 32), layout).unwrap_err();
    let expected = KernelError::UnservedFormat {
        operation: "quantize",
        format: GgufFormat::Q4_0.into(),
    };
    assert_eq!(error, expected);
    assert!(error.to_string().contains("Q4_0"), "{error}");
}
