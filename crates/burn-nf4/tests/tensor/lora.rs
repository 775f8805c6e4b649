//! The LoRA layer as one operation, against the same layer written out in Burn's own operations.

use burn_core::tensor::{DType, Device, Tensor};
use burn_nf4::{BlockwiseLayer, BlockwiseTensor, BlockwiseTensorError, GgufFormat};
use qlora_test_support::random::normal;
use qlora_test_support::{tensor, values};

use crate::support::{TestDevice, file_weight, random_weight};

const SCALE: f64 = 0.75;

/// The layer's inputs, tracked.
struct Layer {
    weight: BlockwiseTensor,
    x: Tensor<3>,
    a: Tensor<2>,
    b: Tensor<2>,
}

impl Layer {
    fn new(sizes: [usize; 4], dtype: DType, device: &Device) -> Self {
        let [_, n, k, _] = sizes;
        Self::of(random_weight(41, [n, k], device).0, sizes, dtype)
    }

    fn of(weight: BlockwiseTensor, [rows, n, k, rank]: [usize; 4], dtype: DType) -> Self {
        let autodiff = weight.device().autodiff();
        let x = tensor(normal(42, 2 * rows * k, 1.0), [2, rows, k], &autodiff).cast(dtype);
        let factor = |seed, shape: [usize; 2], scale| {
            tensor(normal(seed, shape[0] * shape[1], scale), shape, &autodiff).require_grad()
        };
        Self {
            weight,
            x: x.require_grad(),
            a: factor(43, [k, rank], 0.1),
            b: factor(44, [rank, n], 0.1),
        }
    }

    fn fused(&self) -> Tensor<3> {
        let (a, b) = (self.a.clone(), self.b.clone());
        self.weight.lora_matmul(self.x.clone(), a, b, SCALE)
    }

    /// In f32 from `x` on.
    fn written_out(&self) -> Tensor<3> {
        let x = self.x.clone().cast(DType::F32);
        let inner = sums_of_products(x.clone(), self.a.clone());
        let delta = sums_of_products(inner.mul_scalar(SCALE), self.b.clone());
        self.weight.matmul(x) + delta
    }

    /// The output, and the gradients of x, A and B when the output's is `grad`.
    fn results(&self, y: Tensor<3>, grad: &Tensor<3>) -> [Vec<f32>; 4] {
        let wide = y.cast(DType::F32);
        let gradients = (wide.clone() * grad.clone()).sum().backward();
        let missing = "a gradient of every input";
        [
            values(wide),
            values(self.x.grad(&gradients).expect(missing).cast(DType::F32)),
            values(self.a.grad(&gradients).expect(missing)),
            values(self.b.grad(&gradients).expect(missing)),
        ]
    }
}

/// `x · factor`, not as one of Burn's own products, whose default routine does not fit CubeCL's CPU runtime.
fn sums_of_products(x: Tensor<3>, factor: Tensor<2>) -> Tensor<3> {
    let products = x.unsqueeze_dim::<4>(3) * factor.unsqueeze::<4>();
    products.sum_dim(2).squeeze_dim(2)
}

fn assert_agreement(sizes: [usize; 4], dtype: DType, tolerance: f64, device: &Device) {
    let layer = Layer::new(sizes, dtype, device);
    assert_agreement_of(&layer, sizes, tolerance);
}

fn assert_agreement_of(layer: &Layer, sizes: [usize; 4], tolerance: f64) {
    let [rows, n, ..] = sizes;
    let grad = normal(45, 2 * rows * n, 1.0);
    let grad = tensor(grad, [2, rows, n], &layer.x.device());
    let found = layer.results(layer.fused(), &grad);
    let expected = layer.results(layer.written_out(), &grad);
    for ((found, expected), name) in found.iter().zip(&expected).zip(["y", "dx", "da", "db"]) {
        let expected: Vec<f64> = expected.iter().copied().map(f64::from).collect();
        let layout = layer.weight.layout();
        let name = format!(
            "{name} of {sizes:?} in {:?} with {layout:?}",
            layer.x.dtype()
        );
        crate::support::assert_close(&name, found, &expected, tolerance);
    }
}

pub fn agrees_with_the_layer_written_out(test: &TestDevice) {
    for sizes in [
        [1, 24, 80, 4],
        [2, 24, 80, 4],
        [9, 33, 50, 3],
        [40, 96, 64, 16],
        [13, 16, 136, 1],
    ] {
        assert_agreement(sizes, DType::F32, 10.0 * test.tolerance, &test.device);
    }
}

/// Codes of 4 bits with minima, and of 8 bits with blocks of 16.
pub fn agrees_on_the_blocks_of_a_file(test: &TestDevice) {
    for format in [GgufFormat::Q4_K, GgufFormat::Q6_K] {
        for sizes @ [_, n, k, _] in [[2, 24, 256, 4], [9, 33, 512, 3]] {
            let (weight, _) = file_weight(format, [n, k], &test.device);
            let layer = Layer::of(weight, sizes, DType::F32);
            assert_agreement_of(&layer, sizes, 10.0 * test.tolerance);
        }
    }
}

/// Two adapted layers and one that is not, of one input, against each of them alone, with the gradients of `x` and the factors.
pub fn layers_of_one_input_are_what_each_is_alone(test: &TestDevice) {
    for rows in [1, 4, 20] {
        let layer = Layer::new([rows, 24, 80, 4], DType::F32, &test.device);
        let (other, _) = random_weight(47, [33, 80], &test.device);
        let (plain, _) = random_weight(48, [8, 80], &test.device);
        let factor = |seed, shape: [usize; 2]| {
            let device = test.device.clone().autodiff();
            tensor(normal(seed, shape[0] * shape[1], 0.1), shape, &device).require_grad()
        };
        let (a, b) = (factor(49, [80, 3]), factor(50, [3, 33]));
        let (x, own_a, own_b) = (layer.x.clone(), layer.a.clone(), layer.b.clone());
        let layers = vec![
            BlockwiseLayer::adapted(layer.weight.clone(), own_a, own_b, SCALE).unwrap(),
            BlockwiseLayer::adapted(other.clone(), a.clone(), b.clone(), SCALE).unwrap(),
            BlockwiseLayer::new(plain.clone()),
        ];
        let together = BlockwiseLayer::forward_each(layers, x.clone()).unwrap();
        let alone = vec![
            layer.fused(),
            other.lora_matmul(x.clone(), a.clone(), b.clone(), SCALE),
            plain.matmul(x.clone()),
        ];
        let results = |ys: Vec<Tensor<3>>| {
            let loss = |y: &Tensor<3>| (y.clone() * y.clone()).sum();
            let total = loss(&ys[0]) + loss(&ys[1]) + loss(&ys[2]);
            let gradients = total.backward();
            let leaves = [&layer.a, &layer.b, &a, &b];
            let mut results: Vec<_> = ys.into_iter().map(values).collect();
            results.push(values(x.grad(&gradients).expect("x is tracked")));
            let of = |leaf: &Tensor<2>| values(leaf.grad(&gradients).expect("it is a leaf"));
            results.extend(leaves.map(of));
            results
        };
        for (found, expected) in results(together).iter().zip(results(alone)) {
            let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
            let name = format!("{rows} rows");
            crate::support::assert_close(&name, found, &expected, 10.0 * test.tolerance);
        }
    }
}

/// bf16 rounds operands and results by up to 4e-3 of each, f16 by an eighth of that.
pub fn half_inputs_agree_within_their_rounding(test: &TestDevice) {
    for (dtype, tolerance) in [(DType::BF16, 1.5e-2), (DType::F16, 3e-3)] {
        if test.device.supports_dtype(dtype) {
            for sizes in [[2, 24, 80, 4], [40, 96, 64, 16]] {
                assert_agreement(sizes, dtype, tolerance, &test.device);
            }
        }
    }
}

pub fn an_input_that_nothing_feeds_costs_no_gradient(test: &TestDevice) {
    let mut layer = Layer::new([5, 24, 80, 4], DType::F32, &test.device);
    let tracked = layer.fused().sum().backward();
    layer.x = layer.x.detach().set_require_grad(false);
    let frozen = layer.fused().sum().backward();
    assert!(layer.x.grad(&frozen).is_none());
    for factor in [&layer.a, &layer.b] {
        let of = |gradients| values(factor.grad(gradients).expect("a gradient of the factor"));
        assert_eq!(of(&frozen), of(&tracked));
    }
}

pub fn factors_that_do_not_fit_are_refused(test: &TestDevice) {
    let (weight, _) = random_weight(46, [24, 80], &test.device);
    let zeros = |shape: [usize; 2]| tensor(vec![0.0; shape[0] * shape[1]], shape, &test.device);
    let multiply = |a: [usize; 2], b: [usize; 2]| {
        weight.try_lora_matmul(zeros([3, 80]), zeros(a), zeros(b), SCALE)
    };
    assert!(multiply([80, 4], [4, 24]).is_ok());
    for (a, b) in [([24, 4], [4, 80]), ([80, 4], [5, 24]), ([80, 4], [4, 80])] {
        let Err(error @ BlockwiseTensorError::Factors { .. }) = multiply(a, b) else {
            panic!("A {a:?} and B {b:?} were taken");
        };
        assert!(error.to_string().contains("[80, rank] and [rank, 24]"));
    }
    let (a, b) = (zeros([80, 4]), zeros([4, 24]).cast(DType::F64));
    if test.device.supports_dtype(DType::F64) {
        let error = weight.try_lora_matmul(zeros([3, 80]), a, b, SCALE);
        assert!(matches!(
            error,
            Err(BlockwiseTensorError::UnsupportedDType { .. })
        ));
    }
}
