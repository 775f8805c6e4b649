use burn_core::tensor::{Device, Tensor};
use burn_fused::rope;

use crate::common::{assert_close, devices, leaf, loss, tensor};

fn tables(seq: usize, half: usize, device: &Device) -> (Tensor<2>, Tensor<2>) {
    let angles = tensor::<2>(7, [seq, half], device) * 3.0;
    (angles.clone().cos(), angles.sin())
}

fn reference(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let [_, seq, _, d] = x.dims();
    let half = d / 2;
    let cos = cos.reshape([1, seq, 1, half]);
    let sin = sin.reshape([1, seq, 1, half]);
    let (low, high) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    Tensor::cat(
        vec![
            low.clone() * cos.clone() - high.clone() * sin.clone(),
            high * cos + low * sin,
        ],
        3,
    )
}

fn check(shape: [usize; 4], device: &Device) {
    let device = device.clone().autodiff();
    let (cos, sin) = tables(shape[1], shape[3] / 2, &device);
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
        check([1, 1, 1, 2], &device);
        check([2, 3, 5, 6], &device);
        check([1, 7, 3, 80], &device);
        check([4, 50, 9, 64], &device);
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
