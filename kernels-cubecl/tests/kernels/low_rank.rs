//! The product of a LoRA layer and its gradients, against plain sums in f64.

use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::std::tensor::TensorHandle;
use nf4::{Direction, GgufFormat, QuantConfig, QuantizedMatrix};
use qlora_cubecl::matmul;
use qlora_cubecl::matmul::low_rank::{self, LowRank, Projection};
use qlora_cubecl::{KernelError, Weight, check_float};
use qlora_test_support::random::uniform;

use crate::support::{
    BF16, F16, F32, assert_close, file_matrix, read_values, reference, rows, strided_rows,
    tolerance, upload, upload_values,
};

const SCALE: f32 = 0.75;

/// Rows, `[out_features, in_features]` and rank.
type Case = (usize, [usize; 2], usize);

/// Every number of rows that a kernel tells apart, and more than a tile of each; widths of whole vectors and of none; ranks
/// of one, of whole tiles and of none, and more than any.
const CASES: [Case; 9] = [
    (1, [70, 128], 4),
    (2, [75, 104], 3),
    (3, [330, 320], 16),
    (5, [37, 51], 1),
    (20, [37, 51], 7),
    (20, [128, 64], 8),
    (33, [72, 192], 256),
    (130, [96, 256], 33),
    (250, [64, 1000], 2),
];

/// A layer on the device, and the numbers that it is made of.
struct Layer {
    case: Case,
    dtype: ElemType,
    weight: Weight,
    low_rank: LowRank,
    x: TensorHandle,
    dy: TensorHandle,
    /// `y`, `dx`, `dA` and `dB`.
    expected: [Vec<f64>; 4],
}

impl Layer {
    /// `x` and `dy` have `padding` elements between their rows.
    fn new(client: &Client, dtype: ElemType, case: Case, padding: usize) -> Self {
        let (_, shape @ [n, k], _) = case;
        let values = uniform(3, n * k);
        let matrix = qlora_cpu::quantize(&values, shape, QuantConfig::default()).unwrap();
        Self::of(client, dtype, case, padding, &matrix)
    }

    /// With a weight of the case's shape.
    fn of(
        client: &Client,
        dtype: ElemType,
        case: Case,
        padding: usize,
        matrix: &QuantizedMatrix,
    ) -> Self {
        let (m, [n, k], rank) = case;
        let wide = |seed, width: usize| {
            let values = uniform(seed, m * (width + padding));
            let (handle, values) = upload_values(client, &values, dtype);
            let rows = strided_rows(handle, dtype, [m, width], width + padding);
            (rows, values)
        };
        let ((x, x_values), (dy, dy_values)) = (wide(5, k), wide(6, n));
        let (a, a_values) = upload_values(client, &uniform(7, k * rank), F32);
        let (b, b_values) = upload_values(client, &uniform(8, rank * n), F32);
        let strides = [k + padding, n + padding];
        let y = reference(matrix, &x_values, m, strides[0], Direction::Forward);
        let dx = reference(matrix, &dy_values, m, strides[1], Direction::Transposed);
        let x_values = Matrix::new(&x_values, [m, k], strides[0]);
        let dy_values = Matrix::new(&dy_values, [m, n], strides[1]);
        let a_values = Matrix::new(&a_values, [k, rank], rank);
        let b_values = Matrix::new(&b_values, [rank, n], n);
        let xa = x_values.times(&a_values).scaled();
        let dxa = dy_values.times(&b_values.transposed()).scaled();
        Self {
            case,
            dtype,
            weight: upload(client, matrix),
            low_rank: LowRank {
                a: rows(a, F32, k, rank),
                b: rows(b, F32, rank, n),
                scale: SCALE,
            },
            x,
            dy,
            expected: [
                sum(&y, &xa.times(&b_values)),
                sum(&dx, &dxa.times(&a_values.transposed())),
                x_values.transposed().times(&dxa).values,
                xa.transposed().times(&dy_values).values,
            ],
        }
    }

    fn gradients(&self, client: &Client) -> low_rank::Gradients {
        let (x, dy) = (self.x.clone(), self.dy.clone());
        let (weight, factors) = (self.weight.clone(), self.low_rank.clone());
        low_rank::backward(client, x, weight, factors, dy).unwrap()
    }

    fn check(&self, client: &Client) {
        let (m, [n, k], rank) = self.case;
        let (weight, factors) = (self.weight.clone(), self.low_rank.clone());
        let y = low_rank::forward(client, self.x.clone(), weight, factors).unwrap();
        let gradients = self.gradients(client);
        let results = [
            ("y", y, [m, n], self.dtype),
            ("dx", gradients.x, [m, k], self.dtype),
            ("dA", gradients.a, [k, rank], F32),
            ("dB", gradients.b, [rank, n], F32),
        ];
        for ((name, found, shape, dtype), expected) in results.into_iter().zip(&self.expected) {
            let what = format!("{name} of {:?} in {:?}", self.case, self.dtype);
            assert_eq!(found.shape()[..], shape, "{what}");
            assert_eq!(found.dtype, dtype, "{what}");
            let found = read_values(client, found.handle, dtype);
            assert_close(&found, expected, tolerance(dtype), &what);
        }
    }
}

/// A matrix in f64.
struct Matrix {
    values: Vec<f64>,
    shape: [usize; 2],
}

impl Matrix {
    /// Views rows `stride` elements apart.
    fn new(values: &[f32], [rows, columns]: [usize; 2], stride: usize) -> Self {
        Self::from_fn([rows, columns], |i, j| f64::from(values[i * stride + j]))
    }

    fn from_fn([rows, columns]: [usize; 2], value: impl Fn(usize, usize) -> f64) -> Self {
        let value = &value;
        let values = (0..rows).flat_map(|i| (0..columns).map(move |j| value(i, j)));
        Self {
            values: values.collect(),
            shape: [rows, columns],
        }
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.shape[1] + j]
    }

    fn transposed(&self) -> Self {
        let [rows, columns] = self.shape;
        Self::from_fn([columns, rows], |i, j| self.at(j, i))
    }

    fn times(&self, other: &Self) -> Self {
        let ([rows, inner], [_, columns]) = (self.shape, other.shape);
        Self::from_fn([rows, columns], |i, j| {
            (0..inner).map(|k| self.at(i, k) * other.at(k, j)).sum()
        })
    }

    fn scaled(&self) -> Self {
        Self::from_fn(self.shape, |i, j| f64::from(SCALE) * self.at(i, j))
    }
}

fn sum(values: &[f64], added: &Matrix) -> Vec<f64> {
    values
        .iter()
        .zip(&added.values)
        .map(|(a, b)| a + b)
        .collect()
}

pub fn a_layer_matches_its_sums_in_f64(client: &Client) {
    for case in CASES {
        Layer::new(client, F32, case, 0).check(client);
    }
}

/// Codes of 4 bits with minima, and of 8 bits with blocks of 16.
pub fn a_layer_of_a_files_blocks_matches_its_sums(client: &Client) {
    for format in [GgufFormat::Q4_K, GgufFormat::Q6_K] {
        for (m, rank) in [(2, 4), (20, 7)] {
            let matrix = file_matrix(format, [37, 512]);
            Layer::of(client, F32, (m, [37, 512], rank), 0, &matrix).check(client);
        }
    }
}

/// Neighbours of one format and of others, adapted and not, more than a launch has bindings for, and an empty one among them.
pub fn layers_of_one_input_are_each_what_they_are_alone(client: &Client) {
    for (m, k, padding) in [(1, 128, 0), (3, 512, 16), (8, 104, 5), (9, 512, 0)] {
        let layer = |n, rank| Layer::new(client, F32, (m, [n, k], rank), padding);
        let mut all = vec![
            (layer(70, 4), true),
            (layer(24, 1), false),
            (layer(9, 20), true),
            (layer(0, 2), true),
            (layer(200, 16), true),
            (layer(33, 1), false),
        ];
        if k == 512 {
            let matrix = file_matrix(GgufFormat::Q6_K, [37, k]);
            let case = (m, [37, k], 3);
            let coarse = Layer::of(client, F32, case, padding, &matrix);
            all.insert(2, (coarse, true));
        }
        let layers = all.iter().map(|(layer, is_adapted)| matmul::Layer {
            weight: layer.weight.clone(),
            low_rank: is_adapted.then(|| layer.low_rank.clone()),
        });
        let x = || all[0].0.x.clone();
        let ys = matmul::layers(client, x(), layers.collect()).unwrap();
        assert_eq!(ys.len(), all.len());
        for ((layer, is_adapted), y) in all.iter().zip(ys) {
            let n = layer.case.1[0];
            assert_eq!(y.shape()[..], [m, n]);
            if n == 0 {
                continue;
            }
            let y: Vec<f32> = read_values(client, y.handle, F32);
            let what = format!("{:?} among others", layer.case);
            if *is_adapted {
                assert_close(&y, &layer.expected[0], tolerance(F32), &what);
            } else {
                let weight = layer.weight.clone();
                let alone = matmul::matmul(client, x(), weight, Direction::Forward).unwrap();
                let alone: Vec<f32> = read_values(client, alone.handle, F32);
                assert_eq!(y, alone, "{what}");
            }
        }
    }
}

pub fn every_projection_is_forced(client: &Client) {
    for (m, width, rank) in [(1, 51, 1), (5, 104, 3), (70, 64, 16), (130, 1000, 33)] {
        for padding in [0, 16] {
            let stride = width + padding;
            let (x, x_values) = upload_values(client, &uniform(5, m * stride), F32);
            let (factor, factor_values) = upload_values(client, &uniform(7, rank * width), F32);
            let factor_values = Matrix::new(&factor_values, [rank, width], width);
            let expected = Matrix::new(&x_values, [m, width], stride)
                .times(&factor_values.transposed())
                .scaled();
            for kernel in Projection::ALL {
                let x = strided_rows(x.clone(), F32, [m, width], stride);
                let factor = rows(factor.clone(), F32, rank, width);
                let found = kernel.multiply(client, x, factor, SCALE).unwrap();
                let found = read_values(client, found.handle, F32);
                let what = format!("{kernel:?} of {m} rows of {width} onto {rank}");
                assert_close(&found, &expected.values, tolerance(F32), &what);
            }
        }
    }
}

pub fn half_precision_is_summed_in_single(client: &Client) {
    let mut checked = 0;
    for dtype in [F16, BF16] {
        if check_float(client, "low_rank", dtype).is_ok() {
            for case in [(3, [70, 128], 8), (20, [37, 51], 5), (130, [64, 96], 16)] {
                Layer::new(client, dtype, case, 0).check(client);
                checked += 1;
            }
        }
    }
    assert!(checked > 0, "both runtimes have f16");
}

pub fn rows_of_a_layer_may_lie_apart(client: &Client) {
    for padding in [5, 16] {
        Layer::new(client, F32, (7, [64, 128], 8), padding).check(client);
    }
}

pub fn factors_may_be_transposed(client: &Client) {
    let mut layer = Layer::new(client, F32, (9, [64, 128], 6), 0);
    let LowRank { a, b, .. } = &mut layer.low_rank;
    for (factor, seed) in [(a, 7), (b, 8)] {
        let [rows, columns] = [factor.shape()[0], factor.shape()[1]];
        let values = Matrix::new(&uniform(seed, rows * columns), [rows, columns], columns);
        let values: Vec<f32> = values
            .transposed()
            .values
            .iter()
            .map(|v| *v as f32)
            .collect();
        let (handle, _) = upload_values(client, &values, F32);
        *factor = TensorHandle::new(handle, [rows, columns], [1, rows], F32);
    }
    layer.check(client);
}

pub fn the_factors_gradients_alone_are_the_same(client: &Client) {
    let layer = Layer::new(client, F32, (20, [37, 51], 7), 0);
    let (x, dy, factors) = (layer.x.clone(), layer.dy.clone(), layer.low_rank.clone());
    let layout = layer.weight.layout;
    let alone = low_rank::backward_factors(client, x, layout, factors, dy).unwrap();
    let gradients = layer.gradients(client);
    for (alone, both) in alone.into_iter().zip([gradients.a, gradients.b]) {
        let [alone, both] = [alone, both].map(|g| read_values(client, g.handle, F32));
        assert_eq!(alone, both);
    }
}

pub fn an_empty_layer_is_empty_or_zero(client: &Client) {
    for case in [(0, [8, 64], 2), (3, [2, 0], 2), (3, [0, 64], 2)] {
        Layer::new(client, F32, case, 1).check(client);
    }
}

pub fn factors_that_do_not_fit_are_refused(client: &Client) {
    let layer = Layer::new(client, F32, (3, [24, 80], 4), 0);
    let refusal = |a: [usize; 2], b: [usize; 2], dtype: ElemType| {
        let zeros = |shape: [usize; 2]| {
            let (handle, _) = upload_values(client, &vec![0.0; (shape[0] * shape[1]).max(1)], F32);
            TensorHandle::new_contiguous(shape, handle, dtype)
        };
        let (a, b, scale) = (zeros(a), zeros(b), SCALE);
        let (x, weight) = (layer.x.clone(), layer.weight.clone());
        let y = low_rank::forward(client, x, weight, LowRank { a, b, scale });
        y.map(drop).expect_err("the factors should be refused")
    };
    for (a, b, what) in [
        ([24, 4], [4, 80], "first factor's rows"),
        ([80, 4], [5, 24], "second factor's rows"),
        ([80, 4], [4, 80], "second factor's columns"),
        ([80, 0], [0, 24], "rank"),
    ] {
        let error = refusal(a, b, F32);
        assert!(
            matches!(error, KernelError::ShapeMismatch { what: found, .. } if found == what),
            "{error}"
        );
    }
    assert_eq!(
        refusal([80, 4], [4, 24], F16),
        KernelError::NotSingle {
            operation: "low_rank",
            dtype: F16
        }
    );
    let (x, weight, factors) = (
        layer.x.clone(),
        layer.weight.clone(),
        layer.low_rank.clone(),
    );
    let (dy, _) = upload_values(client, &[0.0; 4 * 24], F32);
    let error = low_rank::backward(client, x, weight, factors, rows(dy, F32, 4, 24));
    assert_eq!(
        error.map(drop).unwrap_err(),
        KernelError::ShapeMismatch {
            operation: "low_rank",
            what: "gradient's rows",
            expected: 3,
            actual: 4
        }
    );
}
