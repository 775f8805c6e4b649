//! Products and gradients against those that were recorded in f64.

use burn_core::tensor::Device;
use burn_nf4::{BlockwiseTensor, QuantConfig};
use qlora_test_support::bitsandbytes::{packed_words, scale_words};
use qlora_test_support::{Recording, tensor, values};

use crate::support::{TestDevice, assert_close, matrix_of};

struct Case {
    name: String,
    weight: BlockwiseTensor,
    m: usize,
    shape: [usize; 2],
}

fn cases(recording: &Recording, device: &Device) -> Vec<Case> {
    let map = recording.f32("nested_code_map");
    let mut cases = Vec::new();
    for name in recording.names() {
        let Some(name) = name.strip_suffix("/x") else {
            continue;
        };
        let part = |part: &str| format!("{name}/{part}");
        let [m, k] = recording.shape(&part("x"))[..] else {
            panic!("x is a matrix")
        };
        let n = recording.shape(&part("dy"))[1];
        let matrix = matrix_of(
            [n, k],
            QuantConfig::default(),
            packed_words(recording.bytes(&part("packed")), n * k),
            scale_words(
                recording.bytes(&part("absmax_codes")),
                &recording.f32(&part("nested_absmax")),
                recording.f32(&part("nested_offset"))[0],
                &map,
            ),
        );
        cases.push(Case {
            name: name.to_string(),
            weight: BlockwiseTensor::from_host(&matrix, device),
            m,
            shape: [n, k],
        });
    }
    assert!(!cases.is_empty());
    cases
}

pub fn products_match_the_recording(test: &TestDevice) {
    let recording = Recording::open("matmul.safetensors");
    for Case {
        name,
        weight,
        m,
        shape: [n, k],
    } in cases(&recording, &test.device)
    {
        let part = |part: &str| format!("{name}/{part}");
        let y = weight.matmul(tensor(recording.f32(&part("x")), [m, k], &test.device));
        assert_close(
            &part("y"),
            &values(y),
            &recording.f64(&part("y")),
            test.tolerance,
        );
        let dx = weight.matmul_transposed(tensor(recording.f32(&part("dy")), [m, n], &test.device));
        assert_close(
            &part("dx"),
            &values(dx),
            &recording.f64(&part("dx")),
            test.tolerance,
        );
    }
}

pub fn the_gradient_matches_the_recording(test: &TestDevice) {
    let recording = Recording::open("matmul.safetensors");
    let device = test.device.clone().autodiff();
    for Case {
        name,
        weight,
        m,
        shape: [n, k],
    } in cases(&recording, &test.device)
    {
        let part = |part: &str| format!("{name}/{part}");
        let x = tensor(recording.f32(&part("x")), [m, k], &device).require_grad();
        let dy = tensor(recording.f32(&part("dy")), [m, n], &device);
        // The gradient of sum(y * dy) with respect to y is dy.
        let gradients = (weight.matmul(x.clone()) * dy).sum().backward();
        let dx = x.grad(&gradients).expect("a gradient of x");
        assert_close(
            &part("dx"),
            &values(dx),
            &recording.f64(&part("dx")),
            test.tolerance,
        );
    }
}
