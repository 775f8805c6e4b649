//! Products of any shape, layout and dtype against decode-then-multiply in f64.

use burn_core::tensor::{DType, Tensor};
use burn_nf4::{BlockwiseTensor, BlockwiseTensorError};
use qlora_test_support::random::normal;
use qlora_test_support::{tensor, values};

use crate::support::{TestDevice, assert_close, configs, multiply, random_matrix, random_weight};

/// `(m, n, k)`: single rows and columns, below and above the edges of tiles, rows that are not whole
/// words, that are whole words but not whole blocks, and rows that straddle blocks.
const SHAPES: [(usize, usize, usize); 16] = [
    (1, 1, 1),
    (1, 5, 3),
    (1, 64, 64),
    (1, 130, 200),
    (2, 7, 72),
    (3, 33, 51),
    (4, 17, 176),
    (5, 96, 192),
    (8, 9, 1000),
    (9, 65, 63),
    (13, 31, 40),
    (16, 100, 8),
    (63, 66, 65),
    (64, 64, 128),
    (65, 129, 33),
    (130, 70, 96),
];

pub fn any_shape_multiplies_like_the_decoded_matrix(test: &TestDevice) {
    for (seed, (m, n, k)) in (100..).zip(SHAPES) {
        let (weight, decoded) = random_weight(seed, [n, k], &test.device);
        check(test, &format!("m {m} n {n} k {k}"), &weight, &decoded, m);
    }
}

pub fn every_config_multiplies_like_the_decoded_matrix(test: &TestDevice) {
    for config in configs() {
        let (matrix, decoded) = random_matrix(200, [48, 360], config);
        let weight = BlockwiseTensor::from_host(&matrix, &test.device);
        check(test, &format!("{config:?}"), &weight, &decoded, 12);
    }
}

fn check(test: &TestDevice, what: &str, weight: &BlockwiseTensor, decoded: &[f32], m: usize) {
    let [n, k] = weight.layout().shape();
    let x = normal(300, m * k, 1.0);
    let y = weight.matmul(tensor(x.clone(), [m, k], &test.device));
    let expected = multiply(&x, decoded, [n, k], false);
    assert_close(&format!("{what}: y"), &values(y), &expected, test.tolerance);
    let dy = normal(301, m * n, 1.0);
    let dx = weight.matmul_transposed(tensor(dy.clone(), [m, n], &test.device));
    let expected = multiply(&dy, decoded, [n, k], true);
    assert_close(
        &format!("{what}: dx"),
        &values(dx),
        &expected,
        test.tolerance,
    );
}

pub fn leading_dimensions_are_a_batch(test: &TestDevice) {
    let (weight, _) = random_weight(41, [24, 40], &test.device);
    let x = tensor(normal(42, 12 * 40, 1.0), [12, 40], &test.device);
    let flat = values(weight.matmul(x.clone()));
    let y = weight.matmul(x.clone().reshape([3, 4, 40]));
    assert_eq!(y.dims(), [3, 4, 24]);
    assert_eq!(values(y), flat);
    let y = weight.matmul(x.clone().reshape([2, 1, 6, 40]));
    assert_eq!(y.dims(), [2, 1, 6, 24]);
    assert_eq!(values(y), flat);
    let row = x.slice([0..1, 0..40]).reshape([40]);
    let y: Tensor<1> = weight.matmul(row.clone());
    assert_eq!(y.dims(), [24]);
    assert_eq!(values(y), values(weight.matmul(row.reshape([1, 40]))));
}

pub fn an_empty_batch_gives_an_empty_result(test: &TestDevice) {
    let (weight, _) = random_weight(51, [24, 40], &test.device);
    let x = tensor(vec![], [2, 0, 40], &test.device);
    assert_eq!(weight.matmul(x).dims(), [2, 0, 24]);
    let dy = tensor(vec![], [0, 24], &test.device);
    assert_eq!(weight.matmul_transposed(dy).dims(), [0, 40]);
}

pub fn an_empty_sum_is_zero(test: &TestDevice) {
    let (weight, _) = random_weight(55, [4, 0], &test.device);
    let x = tensor(vec![], [3, 0], &test.device);
    assert_eq!(values(weight.matmul(x)), [0.0; 12]);
    let dy = tensor(vec![1.0; 12], [3, 4], &test.device);
    assert_eq!(weight.matmul_transposed(dy).dims(), [3, 0]);
    assert_eq!(weight.dequantize().dims(), [4, 0]);
}

pub fn views_multiply_like_their_copies(test: &TestDevice) {
    let (weight, decoded) = random_weight(61, [24, 40], &test.device);
    let expect = |x: &[f32]| multiply(x, &decoded, [24, 40], false);
    let transpose = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
        (0..rows * columns)
            .map(|i| x[i % rows * columns + i / rows])
            .collect()
    };

    // A transposed matrix: no stride of 1 in the last dimension.
    let x = normal(62, 40 * 6, 1.0);
    let view = tensor(x.clone(), [40, 6], &test.device).transpose();
    assert_close(
        "transposed",
        &values(weight.matmul(view)),
        &expect(&transpose(&x, 40, 6)),
        test.tolerance,
    );

    // Columns 8..48 of a wider matrix: rows further apart than they are long.
    let x = normal(63, 6 * 56, 1.0);
    let view = tensor(x.clone(), [6, 56], &test.device).slice([0..6, 8..48]);
    let copy: Vec<f32> = x.chunks(56).flat_map(|row| row[8..48].to_vec()).collect();
    assert_close(
        "columns",
        &values(weight.matmul(view)),
        &expect(&copy),
        test.tolerance,
    );

    // Swapped leading dimensions, which do not fold into one.
    let x = normal(64, 2 * 3 * 40, 1.0);
    let view = tensor(x.clone(), [2, 3, 40], &test.device).swap_dims(0, 1);
    let copy: Vec<f32> = (0..6)
        .flat_map(|row| x[(row % 2 * 3 + row / 2) * 40..][..40].to_vec())
        .collect();
    assert_close(
        "swapped",
        &values(weight.matmul(view)),
        &expect(&copy),
        test.tolerance,
    );

    // One row for all: a stride of 0.
    let x = normal(65, 40, 1.0);
    let view = tensor(x.clone(), [1, 40], &test.device).expand([3, 40]);
    assert_close(
        "expanded",
        &values(weight.matmul(view)),
        &expect(&x.repeat(3)),
        test.tolerance,
    );
}

pub fn half_inputs_give_half_results(test: &TestDevice) {
    let (weight, decoded) = random_weight(71, [24, 40], &test.device);
    for (dtype, epsilon) in [(DType::F16, 2f64.powi(-11)), (DType::BF16, 2f64.powi(-8))] {
        if !test.device.supports_dtype(dtype) {
            continue;
        }
        for m in [1, 3, 20] {
            let x = tensor(normal(72, m * 40, 1.0), [m, 40], &test.device).cast(dtype);
            let rounded = values(x.clone().cast(DType::F32));
            let y = weight.matmul(x);
            assert_eq!(y.dtype(), dtype);
            // Accumulated in f32, so that only the result is rounded to half.
            let expected = multiply(&rounded, &decoded, [24, 40], false);
            let tolerance = test.tolerance + epsilon;
            assert_close(
                &format!("{dtype:?}"),
                &values(y.cast(DType::F32)),
                &expected,
                tolerance,
            );
        }
        let dense = weight.dequantize_to(dtype.into()).unwrap();
        assert_eq!(dense.dtype(), dtype);
    }
}

pub fn wrong_inputs_are_refused_by_name(test: &TestDevice) {
    let (weight, _) = random_weight(81, [24, 40], &test.device);
    let error = weight
        .try_matmul(tensor(vec![0.0; 48], [2, 24], &test.device))
        .unwrap_err();
    assert!(
        matches!(
            error,
            BlockwiseTensorError::ShapeMismatch {
                actual: 24,
                expected: 40,
                ..
            }
        ),
        "{error}"
    );
    if test.device.supports_dtype(DType::F64) {
        let x = tensor(vec![0.0; 80], [2, 40], &test.device).cast(DType::F64);
        let error = weight.try_matmul(x).unwrap_err().to_string();
        assert!(
            error.contains("blockwise matmul") && error.contains("F64") && error.contains("f32"),
            "{error}"
        );
    }
}
