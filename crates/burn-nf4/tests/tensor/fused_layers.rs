//! Layers and what is around them, as one operation and one by one.

use burn_core::tensor::{DType, Tensor};
use burn_fused::{Activation, Epilogue, Prologue, RmsNormConfig};
use burn_nf4::{BlockwiseLayer, BlockwiseTensorError, fuses_layers};
use qlora_test_support::random::{normal, uniform};
use qlora_test_support::{tensor, values};

use crate::support::{TestDevice, assert_close, random_weight};

const WIDTH: usize = 80;

/// The operands of a norm, a gate and a sum.
struct Operands {
    x: Tensor<3>,
    norm: Tensor<1>,
    residual: Tensor<3>,
    layers: [BlockwiseLayer; 2],
}

impl Operands {
    fn new(test: &TestDevice, rows: usize, dtype: DType) -> Self {
        let device = test.device.clone().autodiff();
        let layer = |seed| {
            let (weight, _) = random_weight(seed, [33, WIDTH], &test.device);
            BlockwiseLayer::new(weight)
        };
        let random = |seed, width| {
            let values = uniform(seed, rows * width);
            let tensor = tensor(values, [rows, 1, width], &device);
            tensor.cast(dtype).require_grad()
        };
        Self {
            x: random(1, WIDTH),
            norm: tensor(normal(2, WIDTH, 0.5), [WIDTH], &test.device),
            residual: random(3, 33),
            layers: [layer(4), layer(5)],
        }
    }

    fn prologue(&self) -> Prologue {
        Prologue::RmsNorm {
            weight: self.norm.clone(),
            config: RmsNormConfig::new(1e-5).with_unit_offset(true),
        }
    }

    /// Returns `x` and the residual without autodiff, as generation has them.
    fn without_autodiff(&self) -> [Tensor<3>; 2] {
        [&self.x, &self.residual].map(|tensor| tensor.clone().without_autodiff())
    }

    /// Returns the results of every combination for an input and a residual, fused and one by one.
    fn all(&self, [x, residual]: [Tensor<3>; 2]) -> Vec<[Tensor<3>; 2]> {
        let glu = |activation| Epilogue::Glu { activation };
        let cases = [
            (self.prologue(), 2, Epilogue::None),
            (self.prologue(), 2, glu(Activation::Silu)),
            (Prologue::None, 2, glu(Activation::GeluTanh)),
            (
                self.prologue(),
                1,
                Epilogue::Add {
                    residual: residual.clone(),
                },
            ),
            (Prologue::None, 1, Epilogue::Add { residual }),
        ];
        let results = cases.into_iter().map(|(prologue, count, epilogue)| {
            let layers = || self.layers[..count].to_vec();
            let (before, after) = (prologue.clone(), epilogue.clone());
            let fused = BlockwiseLayer::forward_fused(layers(), x.clone(), before, after);
            let products = BlockwiseLayer::forward_each(layers(), prologue.apply(x.clone()));
            let one_by_one = epilogue.apply(products.unwrap());
            fused
                .unwrap()
                .into_iter()
                .zip(one_by_one)
                .map(|(fused, own)| [fused, own])
        });
        results.flatten().collect()
    }
}

fn assert_same(test: &TestDevice, what: &str, [found, expected]: [Vec<f32>; 2], factor: f64) {
    let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
    assert_close(what, &found, &expected, factor * test.tolerance);
}

pub fn agree_with_the_operations_one_by_one(test: &TestDevice) {
    for rows in [1, 5, 20] {
        let operands = Operands::new(test, rows, DType::F32);
        let results = operands.all(operands.without_autodiff());
        assert_eq!(results.len(), 6);
        for (case, results) in results.into_iter().enumerate() {
            let dims = results.each_ref().map(Tensor::dims);
            assert_eq!(dims, [[rows, 1, 33]; 2]);
            let what = format!("case {case} of {rows} rows");
            assert_same(test, &what, results.map(values), 1.0);
        }
    }
}

pub fn have_the_gradients_of_the_operations(test: &TestDevice) {
    let [fused, one_by_one] = [0, 1].map(|way| {
        let operands = Operands::new(test, 3, DType::F32);
        assert!(!fuses_layers(&operands.x));
        let leaves = [operands.x.clone(), operands.residual.clone()];
        let results = operands.all(leaves.clone()).into_iter();
        let losses = results.map(|results| results[way].clone().powi_scalar(2).sum());
        let loss = losses
            .reduce(|sum, loss| sum + loss)
            .expect("there are cases");
        let gradients = loss.backward();
        leaves.map(|leaf| values(leaf.grad(&gradients).expect("it is a leaf")))
    });
    for (name, pair) in ["x", "residual"]
        .into_iter()
        .zip(fused.into_iter().zip(one_by_one))
    {
        assert_same(test, &format!("gradient of {name}"), pair.into(), 1.0);
    }
}

/// What is rounded between the operations may stay in f32 where they are one.
pub fn agree_in_half_precision_within_its_rounding(test: &TestDevice) {
    for (dtype, tolerance) in [(DType::BF16, 1.5e-2), (DType::F16, 3e-3)] {
        if !test.device.supports_dtype(dtype) {
            continue;
        }
        let operands = Operands::new(test, 2, dtype);
        for results in operands.all(operands.without_autodiff()) {
            assert_eq!(results[0].dtype(), dtype);
            let results = results.map(|y| values(y.cast(DType::F32)));
            assert_same(test, "half precision", results, tolerance / test.tolerance);
        }
    }
}

pub fn what_does_not_fit_around_layers_is_refused(test: &TestDevice) {
    let operands = Operands::new(test, 2, DType::F32);
    let [x, residual] = operands.without_autodiff();
    let refused = |count: usize, prologue, epilogue, what: &str| {
        let layers = operands.layers[..count].to_vec();
        let found = BlockwiseLayer::forward_fused(layers, x.clone(), prologue, epilogue);
        let Err(error @ BlockwiseTensorError::Around { .. }) = found else {
            panic!("{what} was taken");
        };
        assert!(error.to_string().contains(what), "{error}");
    };
    let norm = Prologue::RmsNorm {
        weight: operands.norm.clone().narrow(0, 0, 40),
        config: RmsNormConfig::new(1e-5),
    };
    refused(
        1,
        norm,
        Epilogue::None,
        "the width of the norm is 40, but must be 80",
    );
    let glu = Epilogue::Glu {
        activation: Activation::Silu,
    };
    refused(
        1,
        Prologue::None,
        glu,
        "the number of layers is 1, but must be 2",
    );
    let add = |residual| Epilogue::Add { residual };
    refused(
        2,
        Prologue::None,
        add(residual.clone()),
        "the number of layers",
    );
    let narrow = residual.clone().slice([0..2, 0..1, 0..8]);
    refused(
        1,
        Prologue::None,
        add(narrow),
        "the shape of the residual is [2, 1, 8]",
    );
    if test.device.supports_dtype(DType::F16) {
        let half = residual.cast(DType::F16);
        refused(
            1,
            Prologue::None,
            add(half),
            "the dtype of the residual is F16",
        );
    }
}
