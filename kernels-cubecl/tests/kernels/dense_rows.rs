//! A few rows times a dense matrix, against the sums in f64.

use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::std::tensor::TensorHandle;
use nf4::rms_norm::RmsNormConfig;
use qlora_cubecl::check_float;
use qlora_cubecl::matmul::dense_rows::{multiply, serves};
use qlora_cubecl::matmul::{DeviceKind, GEMV_MAX_ROWS, Norm};
use qlora_test_support::random::uniform;

use crate::support::{
    BF16, F16, F32, assert_close, read_values, rows, strided_rows, tolerance, upload_values,
};

const EPS: f64 = 1e-2;

/// Multiplies `m` rows of `k`, `padding` elements apart, by `n` rows, with and without a norm before.
fn check(client: &Client, dtype: ElemType, [m, n, k]: [usize; 3], padding: usize) {
    let stride = k + padding;
    let (x, x_values) = upload_values(client, &uniform(1, m * stride), dtype);
    let (weight, weight_values) = upload_values(client, &uniform(2, n * k), dtype);
    let (factors, factor_values) = upload_values(client, &uniform(3, k), F32);
    let x = strided_rows(x, dtype, [m, k], stride);
    let weight = rows(weight, dtype, n, k);
    let is_served = DeviceKind::of(client) != DeviceKind::Cpu;
    assert_eq!(serves(client, &x, None, &weight), is_served);
    if !is_served {
        return;
    }
    for normalizes in [false, true] {
        let norm = normalizes.then(|| Norm {
            weight: TensorHandle::new_contiguous([k], factors.clone(), F32),
            config: RmsNormConfig::new(EPS).with_unit_offset(true),
        });
        assert!(serves(client, &x, norm.as_ref(), &weight));
        let y = multiply(client, x.clone(), norm, &weight).unwrap();
        assert_eq!(y.shape()[..], [m, n]);
        let mut expected = Vec::new();
        for x in x_values.chunks(stride) {
            let x: Vec<f64> = x[..k].iter().map(|x| f64::from(*x)).collect();
            let square = x.iter().map(|x| x * x).sum::<f64>() / k as f64;
            let factor = |i: usize| match normalizes {
                true => (square + EPS).powf(-0.5) * (1.0 + f64::from(factor_values[i])),
                false => 1.0,
            };
            let sum =
                |row: &[f32]| -> f64 { (0..k).map(|i| x[i] * factor(i) * f64::from(row[i])).sum() };
            expected.extend(weight_values.chunks(k).map(sum));
        }
        let found = read_values(client, y.handle, dtype);
        let what = format!("{m} rows of {k} by {n}, {dtype:?}, normalized: {normalizes}");
        assert_close(&found, &expected, tolerance(dtype), &what);
    }
}

pub fn a_few_rows_match_their_sums(client: &Client) {
    for (sizes, padding) in [
        ([1, 1003, 576], 0),
        ([1, 7, 51], 0),
        ([2, 70, 128], 4),
        ([5, 33, 104], 3),
        ([8, 130, 320], 0),
    ] {
        check(client, F32, sizes, padding);
    }
}

/// On a GPU a cube has four rows of the matrix for eight of `x`, so that Gemma's head of 262144 takes 65536 cubes, one more than a
/// dimension has.
pub fn more_cubes_than_a_dimension_has_are_spread(client: &Client) {
    let limit = client.properties().hardware.max_cube_count.0 as usize;
    // Eight units of two rows each; where the limit is far beyond, nothing has to be spread.
    let n = 16 * limit + 5;
    if n < 1 << 21 {
        check(client, F32, [8, n, 4], 0);
    }
}

pub fn half_rows_are_summed_in_single(client: &Client) {
    let mut checked = 0;
    for dtype in [F16, BF16] {
        if check_float(client, "matmul", dtype).is_ok() {
            check(client, dtype, [1, 70, 576], 0);
            check(client, dtype, [3, 9, 100], 4);
            checked += 1;
        }
    }
    assert!(checked > 0, "both runtimes have f16");
}

pub fn what_dense_rows_do_not_serve_is_known(client: &Client) {
    let matrix = |m, k, dtype| {
        rows(
            upload_values(client, &uniform(1, 16 * 64), dtype).0,
            dtype,
            m,
            k,
        )
    };
    let weight = matrix(16, 64, F32);
    let x = |m| matrix(m, 64, F32);
    assert!(!serves(client, &x(GEMV_MAX_ROWS + 1), None, &weight));
    assert!(!serves(client, &matrix(1, 64, F16), None, &weight));
    let transposed = TensorHandle::new(weight.handle, [16, 64], [1, 16], F32);
    assert!(!serves(client, &x(1), None, &transposed));
    let (handle, _) = upload_values(client, &[0.0], F32);
    assert!(!serves(client, &x(1), None, &rows(handle, F32, 0, 64)));
}
