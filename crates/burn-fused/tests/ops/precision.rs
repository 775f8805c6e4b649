//! f16 and bf16 operands are computed in f32, f64 ones in f64; results have the operand's dtype.

use burn_core::tensor::{DType, Device, Tensor};
use burn_fused::{
    Activation, AttentionConfig, LogitsConfig, RmsNormConfig, add_rms_norm, causal_attention, glu,
    linear_cross_entropy, rms_norm, rope,
};

use crate::{
    common::{assert_close_within, devices, fast_devices, is_flex, loss, tensor},
    cross_entropy::targets,
};

/// The dtypes a device has beside f32, and one rounding of each, with room for the few roundings
/// between the loss and a gradient; of f64, what f32 differs from it. Vulkan has no exponential
/// and no logarithm of f64.
fn dtypes(device: &Device) -> Vec<(DType, f32)> {
    [(DType::F16, 4e-3), (DType::BF16, 3e-2), (DType::F64, 1e-5)]
        .into_iter()
        .filter(|(dtype, _)| device.supports_dtype(*dtype))
        .filter(|(dtype, _)| *dtype != DType::F64 || is_flex(device))
        .collect()
}

/// `f` on `x` rounded to `dtype`, and on the rounded values in f32: results and gradients.
fn check<const D: usize, const E: usize>(
    name: &str,
    shape: [usize; D],
    out_dtype: impl Fn(DType) -> DType,
    f: impl Fn(Tensor<D>, DType) -> Tensor<E>,
) {
    let large = shape.iter().product::<usize>() > 4096;
    for device in if large { fast_devices() } else { devices() } {
        for (dtype, tolerance) in dtypes(&device) {
            let device = device.clone().autodiff();
            let run = |x: Tensor<D>, dtype| {
                let x = x.require_grad();
                let y = f(x.clone(), dtype);
                let grads = loss(y.clone().cast(DType::F32)).backward();
                (y, x.grad(&grads).unwrap())
            };
            let x = tensor(1, shape, &device).cast(dtype);
            let (y, dx) = run(x.clone(), dtype);
            let (expected, expected_dx) = run(x.cast(DType::F32), DType::F32);
            assert_eq!(y.dtype(), out_dtype(dtype), "{name}");
            assert_eq!(dx.dtype(), dtype, "{name}");
            let name = format!("{name} in {dtype:?}");
            assert_close_within(&name, y.cast(DType::F32), expected, tolerance);
            let name = format!("gradient of {name}");
            assert_close_within(&name, dx.cast(DType::F32), expected_dx, tolerance);
        }
    }
}

fn rms_norm_of(shape: [usize; 2]) {
    check(
        "rms_norm",
        shape,
        |dtype| dtype,
        |x, dtype| {
            let weight = tensor(2, [shape[1]], &x.device()).cast(dtype);
            rms_norm(x, weight, RmsNormConfig::new(1e-5))
        },
    );
    check(
        "rms_norm with a unit offset",
        shape,
        |dtype| dtype,
        |x, dtype| {
            let weight = tensor(2, [shape[1]], &x.device()).cast(dtype);
            rms_norm(x, weight, RmsNormConfig::new(1e-5).with_unit_offset(true))
        },
    );
}

fn add_rms_norm_of(shape: [usize; 2]) {
    check(
        "add_rms_norm",
        shape,
        |dtype| dtype,
        |x, dtype| {
            let residual = tensor(3, shape, &x.device()).cast(dtype);
            let weight = tensor(2, [shape[1]], &x.device()).cast(dtype);
            let (sum, y) = add_rms_norm(x, residual, weight, RmsNormConfig::new(1e-5));
            sum * 0.5 + y
        },
    );
}

fn glu_of(shape: [usize; 2]) {
    for activation in [Activation::Silu, Activation::GeluTanh] {
        check(
            &format!("{activation:?}"),
            shape,
            |dtype| dtype,
            |x, dtype| {
                let up = tensor(2, shape, &x.device()).cast(dtype);
                glu(x, up, activation)
            },
        );
    }
}

fn rope_of([batch, seq, heads, d]: [usize; 4]) {
    for pairs in [d / 2, d / 4] {
        check(
            &format!("rope of {pairs} pairs"),
            [batch, seq, heads, d],
            |dtype| dtype,
            |x, _| {
                let angles = tensor::<2>(2, [seq, pairs], &x.device());
                rope(x, angles.clone().cos(), angles.sin())
            },
        );
    }
}

fn attention_of([batch, seq, heads, d]: [usize; 4]) {
    let plain = AttentionConfig::new(0.5);
    let set = plain.with_window(Some(7)).with_softcap(Some(0.8));
    for config in [plain, set] {
        check(
            &format!("{config:?}"),
            [batch, seq, heads, d],
            |dtype| dtype,
            |x, dtype| {
                let shape = [batch, seq, heads / 2, d];
                let other = |seed| tensor(seed, shape, &x.device()).cast(dtype);
                let (k, v) = (other(2), other(3));
                causal_attention(x, k, v, config)
            },
        );
    }
}

fn cross_entropy_of([tokens, n, vocab]: [usize; 3], config: LogitsConfig) {
    check(
        "cross entropy",
        [tokens, n],
        |dtype| match dtype {
            DType::F64 => DType::F64,
            _ => DType::F32,
        },
        |x, dtype| {
            let weight = tensor(2, [vocab, n], &x.device()).cast(dtype);
            let targets = targets(tokens, vocab, 4, &x.device());
            linear_cross_entropy(x, weight, targets, config)
        },
    );
}

#[test]
fn rms_norm_works() {
    rms_norm_of([5, 40]);
}

#[test]
fn add_rms_norm_works() {
    add_rms_norm_of([5, 40]);
}

#[test]
fn glu_works() {
    glu_of([5, 40]);
}

#[test]
fn rope_works() {
    rope_of([2, 5, 3, 8]);
}

#[test]
fn attention_works() {
    attention_of([2, 9, 4, 8]);
}

#[test]
fn cross_entropy_works_and_its_loss_is_f32_at_least() {
    let config = LogitsConfig::default();
    cross_entropy_of([9, 40, 50], config);
    cross_entropy_of([9, 40, 50], config.with_scale(0.4).with_softcap(Some(4.0)));
}

#[test]
fn logits_keep_their_dtype() {
    check(
        "logits",
        [9, 50],
        |dtype| dtype,
        |x, _| {
            let config = LogitsConfig::default().with_scale(3.0);
            config.with_softcap(Some(2.0)).apply(x)
        },
    );
}

/// Sizes at which kernels go piece by piece and on several threads.
#[test]
fn large_operands_work() {
    rms_norm_of([130, 300]);
    add_rms_norm_of([130, 300]);
    glu_of([70, 601]);
    rope_of([2, 90, 6, 64]);
    attention_of([2, 110, 4, 32]);
    cross_entropy_of([130, 64, 1100], LogitsConfig::default());
}
