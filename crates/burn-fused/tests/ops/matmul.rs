use burn_core::tensor::{DType, Device, Tensor};
use burn_fused::matmul;
use qlora_test_support::random::uniform;
use qlora_test_support::{Tolerance, assert_close, values};

use crate::common::{devices, leaf, loss, tensor};

/// A matrix of f64 numbers, row-major, and its width.
type Matrix = (Vec<f64>, usize);

fn of(seed: u64, [rows, columns]: [usize; 2]) -> Matrix {
    let numbers = uniform(seed, rows * columns);
    (numbers.into_iter().map(f64::from).collect(), columns)
}

fn transposed((values, columns): &Matrix) -> Matrix {
    let rows = values.len() / columns;
    let at = |i: usize| values[i % rows * columns + i / rows];
    ((0..values.len()).map(at).collect(), rows)
}

fn product((lhs, k): &Matrix, (rhs, n): &Matrix) -> Matrix {
    let sum = |row: &[f64], column: usize| -> f64 {
        let column = rhs.iter().skip(column).step_by(*n);
        row.iter().zip(column).map(|(a, b)| a * b).sum()
    };
    let rows = lhs.chunks(*k);
    let y = rows.flat_map(|row| (0..*n).map(move |column| sum(row, column)));
    (y.collect(), *n)
}

/// An f32 sum of a few hundred terms is right to 1e-6; operands rounded to TF32 make it wrong by more than 1e-4.
#[track_caller]
fn assert_f32(what: &str, found: Tensor<2>, expected: &Matrix) {
    let tolerance = Tolerance::of_largest(1e-5, "the order of an f32 sum");
    assert_close(what, &values(found), &expected.0, tolerance);
}

fn check([m, k, n]: [usize; 3], device: &Device) {
    let (lhs, rhs, dy) = (of(1, [m, k]), of(2, [k, n]), of(99, [m, n]));
    let name = |part: &str| format!("{part} of {m} x {k} x {n} on {device:?}");
    let device = device.clone().autodiff();
    let [left, right] = [leaf(1, [m, k], &device), leaf(2, [k, n], &device)];
    let y = matmul(left.clone(), right.clone());
    let grads = loss(y.clone()).backward();
    assert_f32(&name("y"), y, &product(&lhs, &rhs));
    let [dleft, dright] = [left, right].map(|operand| operand.grad(&grads).unwrap());
    assert_f32(&name("dlhs"), dleft, &product(&dy, &transposed(&rhs)));
    assert_f32(&name("drhs"), dright, &product(&transposed(&lhs), &dy));
}

#[test]
fn f32_is_computed_in_f32() {
    for device in devices() {
        for sizes in [
            [1, 64, 40],
            [3, 7, 5],
            [17, 1, 33],
            [40, 130, 9],
            [33, 70, 130],
        ] {
            check(sizes, &device);
        }
    }
}

#[test]
fn views_are_multiplied_where_they_lie() {
    for device in devices() {
        let lhs = tensor::<2>(1, [20, 12], &device)
            .narrow(1, 3, 9)
            .transpose();
        let rhs = tensor::<2>(2, [7, 20], &device).transpose();
        let numbers = of(1, [20, 12]).0;
        let cut = numbers.chunks(12).flat_map(|row| row[3..].iter().copied());
        let left = transposed(&(cut.collect(), 9));
        let right = transposed(&of(2, [7, 20]));
        assert_f32("y", matmul(lhs, rhs.clone()), &product(&left, &right));

        // Without gaps in neither axis.
        let lhs = tensor::<3>(3, [9, 20, 2], &device).slice([0..9, 0..20, 1..2]);
        let numbers = of(3, [9, 40]).0;
        let left = (numbers.into_iter().skip(1).step_by(2).collect(), 20);
        let y = matmul(lhs.squeeze_dim(2), rhs);
        assert_f32("y of gaps", y, &product(&left, &right));
    }
}

/// Sums are of f32 whatever the operands are: one rounding of the result is left.
#[test]
fn operands_of_sixteen_bits_are_added_up_in_f32() {
    for device in devices() {
        for (dtype, rounding) in [(DType::F16, 1e-3), (DType::BF16, 8e-3)] {
            if !device.supports_dtype(dtype) {
                continue;
            }
            let operand = |seed, shape| tensor::<2>(seed, shape, &device).cast(dtype);
            let wide = |operand: &Tensor<2>| -> Matrix {
                let numbers = values(operand.clone().cast(DType::F32));
                (
                    numbers.into_iter().map(f64::from).collect(),
                    operand.dims()[1],
                )
            };
            let tolerance = Tolerance::of_largest(rounding, "one rounding of the result");
            // The second one lies as a head does, each of whose rows gives one logit.
            for rhs in [operand(2, [300, 40]), operand(2, [40, 300]).transpose()] {
                for rows in [1, 5, 6] {
                    let lhs = operand(1, [rows, 300]);
                    let expected = product(&wide(&lhs), &wide(&rhs));
                    let y = matmul(lhs, rhs.clone());
                    assert_eq!(y.dtype(), dtype);
                    assert_close("y", &values(y.cast(DType::F32)), &expected.0, tolerance);
                }
            }
        }
    }
}

#[test]
fn a_frozen_operand_gets_no_gradient() {
    for device in devices() {
        let device = device.autodiff();
        let (frozen, tracked) = (tensor(2, [4, 3], &device), leaf(1, [2, 4], &device));
        let grads = loss(matmul(tracked.clone(), frozen.clone())).backward();
        assert!(frozen.grad(&grads).is_none() && tracked.grad(&grads).is_some());

        let (frozen, tracked) = (tensor(2, [4, 3], &device), leaf(1, [3, 2], &device));
        let grads = loss(matmul(frozen.clone(), tracked.clone())).backward();
        assert!(frozen.grad(&grads).is_none() && tracked.grad(&grads).is_some());
    }
}

#[test]
#[should_panic(expected = "matmul: [2, 3] and [4, 5] do not multiply")]
fn inner_dimensions_that_differ_are_refused() {
    let device = devices().remove(0);
    matmul(tensor(1, [2, 3], &device), tensor(2, [4, 5], &device));
}
