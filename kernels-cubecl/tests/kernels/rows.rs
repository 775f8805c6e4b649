//! Norms by one more than their weight, gates and rotations of a part of a head, against their formulas.

use cubecl::client::Client;
use cubecl::std::tensor::TensorHandle;
use nf4::glu::Activation;
use nf4::rms_norm::RmsNormConfig;
use qlora_cubecl::KernelError;
use qlora_cubecl::fused::glu;
use qlora_cubecl::fused::rms_norm::{self, Saved};
use qlora_cubecl::fused::rope;
use qlora_test_support::random::uniform;

use crate::support::{F32, assert_close, read_values, rows, tolerance, upload_values};

fn tensor(client: &Client, values: &[f32], shape: [usize; 2]) -> TensorHandle {
    let [m, n] = shape;
    rows(upload_values(client, values, F32).0, F32, m, n)
}

fn read(client: &Client, tensor: TensorHandle) -> Vec<f32> {
    read_values(client, tensor.handle, F32)
}

pub fn norms_by_one_more_match_the_formula(client: &Client) {
    let [m, n] = [5, 72];
    let x = uniform(1, m * n);
    let [grad, grad_sum] = [2, 3].map(|seed| uniform(seed, m * n));
    let weight = uniform(4, n);
    let weight_tensor = || tensor(client, &weight, [1, n]);
    let config = RmsNormConfig::new(1e-3).with_unit_offset(true);
    let x_tensor = || tensor(client, &x, [m, n]);
    let [y, inv_rms] = rms_norm::forward(client, x_tensor(), weight_tensor(), config).unwrap();
    let zeros = tensor(client, &vec![0.0; m * n], [m, n]);
    let [sum, added_y, _] =
        rms_norm::add_forward(client, x_tensor(), zeros, weight_tensor(), config).unwrap();
    let saved = Saved {
        x: x_tensor(),
        weight: weight_tensor(),
        inv_rms,
    };
    let grad_tensor = || tensor(client, &grad, [m, n]);
    let of_sum = tensor(client, &grad_sum, [m, n]);
    let dx = rms_norm::backward(client, saved.clone(), grad_tensor(), None, config).unwrap();
    let added_dx = rms_norm::backward(client, saved, grad_tensor(), Some(of_sum), config).unwrap();

    let (mut expected_y, mut expected_dx) = (Vec::new(), Vec::new());
    for (x, grad) in x.chunks(n).zip(grad.chunks(n)) {
        let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let factor = |i: usize| 1.0 + f64::from(weight[i]);
        let r = (x.iter().map(|x| x * x).sum::<f64>() / n as f64 + 1e-3).powf(-0.5);
        let weighted: Vec<f64> = (0..n).map(|i| f64::from(grad[i]) * factor(i)).collect();
        let mean = weighted.iter().zip(&x).map(|(g, x)| g * x).sum::<f64>() / n as f64;
        expected_y.extend((0..n).map(|i| x[i] * r * factor(i)));
        expected_dx.extend((0..n).map(|i| r * (weighted[i] - x[i] * r * r * mean)));
    }
    let close = |found: TensorHandle, expected: &[f64], what: &str| {
        assert_close(&read(client, found), expected, tolerance(F32), what);
    };
    close(y, &expected_y, "y");
    close(added_y, &expected_y, "y of a sum");
    assert_eq!(read(client, sum), x);
    close(dx, &expected_dx, "dx");
    let with_sum = expected_dx.iter().zip(&grad_sum);
    let with_sum: Vec<f64> = with_sum.map(|(dx, g)| dx + f64::from(*g)).collect();
    close(added_dx, &with_sum, "dx of a sum");
}

/// Returns GELU's tanh form of `x` and its derivative.
fn gelu(x: f64) -> (f64, f64) {
    let root = (2.0 / std::f64::consts::PI).sqrt();
    let tanh = (root * (x + 0.044715 * x.powi(3))).tanh();
    let slope = root * (1.0 + 3.0 * 0.044715 * x * x);
    let derivative = 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope;
    (0.5 * x * (1.0 + tanh), derivative)
}

fn geglu(client: &Client, gate: &[f32], up: &[f32], grad: &[f32]) -> [Vec<f32>; 3] {
    let tensor = |values: &[f32]| tensor(client, values, [1, values.len()]);
    let activation = Activation::GeluTanh;
    let y = glu::forward(client, tensor(gate), tensor(up), activation).unwrap();
    let [dgate, dup] =
        glu::backward(client, tensor(gate), tensor(up), tensor(grad), activation).unwrap();
    [y, dgate, dup].map(|tensor| read(client, tensor))
}

pub fn gelu_gates_match_the_formula(client: &Client) {
    for len in [4096, 77] {
        let gate: Vec<f32> = uniform(1, len).iter().map(|x| 6.0 * x).collect();
        let [up, grad] = [2, 3].map(|seed| uniform(seed, len));
        let [y, dgate, dup] = geglu(client, &gate, &up, &grad);
        let expected = |f: &dyn Fn(usize, (f64, f64)) -> f64| -> Vec<f64> {
            (0..len).map(|i| f(i, gelu(f64::from(gate[i])))).collect()
        };
        let [up, grad] =
            [up, grad].map(|values| values.into_iter().map(f64::from).collect::<Vec<_>>());
        let close = |found: &[f32], expected: Vec<f64>, what: &str| {
            assert_close(
                found,
                &expected,
                tolerance(F32),
                &format!("{what} of {len}"),
            );
        };
        close(&y, expected(&|i, (value, _)| value * up[i]), "y");
        close(
            &dgate,
            expected(&|i, (_, slope)| grad[i] * up[i] * slope),
            "dgate",
        );
        close(&dup, expected(&|i, (value, _)| grad[i] * value), "dup");
    }
}

/// Where the cube or its power of e would be infinite, a gate is open or shut.
pub fn gelu_gates_saturate(client: &Client) {
    let gate = [1e4, -1e4, 1e15, -1e15, 12.0, -12.0];
    let ones = [1.0; 6];
    let [y, dgate, dup] = geglu(client, &gate, &ones, &ones);
    for (at, open) in [true, false, true, false, true, false]
        .into_iter()
        .enumerate()
    {
        let (value, slope) = if open { (gate[at], 1.0) } else { (0.0, 0.0) };
        assert!((y[at] - value).abs() < 1e-20, "{y:?}");
        assert!((dup[at] - value).abs() < 1e-20, "{dup:?}");
        assert!((dgate[at] - slope).abs() < 1e-20, "{dgate:?}");
    }
}

/// All of a head and parts of it, of widths that vectors divide and that they do not; forth and back again.
pub fn parts_of_heads_turn(client: &Client) {
    let [batch, seq, heads] = [2, 3, 5];
    for (d, n) in [(24, 24), (24, 8), (32, 16), (24, 18), (9, 4), (8, 0)] {
        let x = uniform(1, batch * seq * heads * d);
        let angles: Vec<f32> = uniform(2, seq * n / 2).iter().map(|x| 3.0 * x).collect();
        // Factors of the rotation are in its tables.
        let table = |f: fn(f32) -> f32| angles.iter().map(|a| 1.25 * f(*a)).collect::<Vec<_>>();
        let (cos, sin) = (table(f32::cos), table(f32::sin));
        let turned = |inverse| {
            let x = upload_values(client, &x, F32).0;
            let x = TensorHandle::new_contiguous([batch, seq, heads, d], x, F32);
            let [cos, sin] = [&cos, &sin].map(|table| tensor(client, table, [seq, n / 2]));
            read(client, rope::rotate(client, x, cos, sin, inverse).unwrap())
        };
        for (inverse, sign) in [(false, 1.0), (true, -1.0)] {
            let mut expected: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            for (row, head) in expected.chunks_mut(d).enumerate() {
                for i in 0..n / 2 {
                    let at = row / heads % seq * (n / 2) + i;
                    let (cos, sin) = (f64::from(cos[at]), sign * f64::from(sin[at]));
                    let (low, high) = (head[i], head[i + n / 2]);
                    head[i] = low * cos - high * sin;
                    head[i + n / 2] = high * cos + low * sin;
                }
            }
            let what = format!("{n} of {d}, inverse: {inverse}");
            assert_close(&turned(inverse), &expected, tolerance(F32), &what);
        }
    }
}

pub fn more_angles_than_a_head_has_are_refused(client: &Client) {
    let x = upload_values(client, &[0.0; 8], F32).0;
    let x = TensorHandle::new_contiguous([1, 1, 1, 8], x, F32);
    let angles = || tensor(client, &[0.0; 5], [1, 5]);
    let error = rope::rotate(client, x, angles(), angles(), false).unwrap_err();
    let expected = KernelError::ShapeMismatch {
        operation: "rope",
        what: "angles' last dimension",
        expected: 4,
        actual: 5,
    };
    assert_eq!(error, expected);
}
