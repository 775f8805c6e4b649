use burn_core::tensor::{Device, Tensor};
use burn_fused::rope;
use qlora_test_support::values;

use crate::common::{assert_close, devices, leaf, loss, tensor};

fn tables(seq: usize, half: usize, device: &Device) -> (Tensor<2>, Tensor<2>) {
    let angles = tensor::<2>(7, [seq, half], device) * 3.0;
    (angles.clone().cos(), angles.sin())
}

fn reference(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let [_, seq, _, d] = x.dims();
    let [_, half] = cos.dims();
    let cos = cos.reshape([1, seq, 1, half]);
    let sin = sin.reshape([1, seq, 1, half]);
    let part = |from, to| x.clone().narrow(3, from, to - from);
    let (low, high) = (part(0, half), part(half, 2 * half));
    let mut parts = vec![
        low.clone() * cos.clone() - high.clone() * sin.clone(),
        high * cos + low * sin,
    ];
    if 2 * half < d {
        parts.push(part(2 * half, d));
    }
    Tensor::cat(parts, 3)
}

/// Turns `pairs` of every head, with tables that carry a factor.
fn check(shape: [usize; 4], pairs: usize, factor: f64, device: &Device) {
    let device = device.clone().autodiff();
    let (cos, sin) = tables(shape[1], pairs, &device);
    let (cos, sin) = (cos * factor, sin * factor);
    let run = |f: &dyn Fn(Tensor<4>, Tensor<2>, Tensor<2>) -> Tensor<4>| {
        let x = leaf(1, shape, &device);
        let y = f(x.clone(), cos.clone(), sin.clone());
        let grads = loss(y.clone()).backward();
        (y, x.grad(&grads).unwrap())
    };
    let actual = run(&rope);
    let expected = run(&reference);
    assert_close("y", actual.0, expected.0);
    assert_close("dx", actual.1, expected.1);
}

#[test]
fn equals_the_composed_form() {
    for device in devices() {
        check([1, 1, 1, 2], 1, 1.0, &device);
        check([2, 3, 5, 6], 3, 1.0, &device);
        check([1, 7, 3, 80], 40, 1.3, &device);
        check([4, 50, 9, 64], 32, 1.0, &device);
    }
}

#[test]
fn what_does_not_turn_passes() {
    for device in devices() {
        check([1, 1, 1, 3], 1, 1.0, &device);
        check([2, 3, 5, 6], 1, 1.3, &device);
        check([1, 7, 3, 80], 16, 1.0, &device);
        check([4, 50, 9, 64], 24, 1.3, &device);

        let x = tensor::<4>(1, [2, 3, 2, 8], &device);
        let none = Tensor::<2>::empty([3, 0], &device);
        let y = rope(x.clone(), none.clone(), none);
        assert_eq!(values(y), values(x));
    }
}

/// Every row of the batch at positions of its own, against one row at a time.
#[test]
fn rows_may_have_positions_of_their_own() {
    for device in devices() {
        let device = device.autodiff();
        let (batch, seq, half) = (3, 50, 16);
        let (cos, sin) = tables(batch * seq, half, &device);
        let run = |f: &dyn Fn(Tensor<4>) -> Tensor<4>| {
            let x = leaf(1, [batch, seq, 5, 2 * half], &device);
            let y = f(x.clone());
            let grads = loss(y.clone()).backward();
            (y, x.grad(&grads).unwrap())
        };
        let actual = run(&|x| rope(x, cos.clone(), sin.clone()));
        let expected = run(&|x| {
            let rows = (0..batch).map(|row| {
                let table = |t: &Tensor<2>| t.clone().narrow(0, row * seq, seq);
                reference(x.clone().narrow(0, row, 1), table(&cos), table(&sin))
            });
            Tensor::cat(rows.collect(), 0)
        });
        assert_close("y", actual.0, expected.0);
        assert_close("dx", actual.1, expected.1);
    }
}

#[test]
fn a_view_and_its_source_are_left_alone() {
    for device in devices() {
        let source = tensor::<4>(1, [2, 9, 3, 8], &device);
        let (cos, sin) = tables(4, 4, &device);
        let view = source.clone().narrow(1, 3, 4);
        let actual = rope(view.clone(), cos.clone(), sin.clone());
        assert_close("y", actual, reference(view, cos, sin));
        assert_close("source", source, tensor(1, [2, 9, 3, 8], &device));
    }
}

#[test]
#[should_panic(expected = "rope: cos and sin must be")]
fn tables_of_another_length_are_refused() {
    let device = devices().remove(0);
    let (cos, sin) = tables(5, 4, &device);
    rope(tensor(1, [2, 4, 3, 8], &device), cos, sin);
}

#[test]
#[should_panic(expected = "rope: cos and sin turn 10 values of a head, which has 8")]
fn more_columns_than_a_head_has_are_refused() {
    let device = devices().remove(0);
    let (cos, sin) = tables(4, 5, &device);
    rope(tensor(1, [2, 4, 3, 8], &device), cos, sin);
}
