//! Products with a norm before them, and a sum or a gate after, in one launch, against their formulas in f64.

use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::std::tensor::TensorHandle;
use nf4::glu::Activation;
use nf4::rms_norm::RmsNormConfig;
use nf4::{Direction, GgufFormat, QuantConfig, QuantizedMatrix};
use qlora_cubecl::check_float;
use qlora_cubecl::matmul::{DeviceKind, Epilogue, Norm, fused_layers, fuses_layers};
use qlora_test_support::random::uniform;

use crate::support::{
    BF16, F16, F32, assert_close, file_matrix, read_values, reference, rows, strided_rows,
    tolerance, upload, upload_values,
};

const EPS: f64 = 1e-2;

/// What is done to `x`, and how far its rows lie apart.
struct Layers {
    m: usize,
    k: usize,
    stride: usize,
    dtype: ElemType,
    matrices: Vec<QuantizedMatrix>,
}

/// The norm of a case: the type of its weight, and whether its factors are 1 more.
type NormCase = Option<(ElemType, bool)>;

/// The epilogue of a case.
#[derive(Clone, Copy, Debug)]
enum After {
    Nothing,
    Add,
    Glu(Activation),
}

fn nf4(seed: u64, [n, k]: [usize; 2]) -> QuantizedMatrix {
    qlora_cpu::quantize(&uniform(seed, n * k), [n, k], QuantConfig::default()).unwrap()
}

fn activated(activation: Activation, gate: f64) -> f64 {
    let z = match activation {
        Activation::Silu => gate,
        Activation::GeluTanh => {
            2.0 * (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044715 * gate.powi(3))
        }
    };
    gate / (1.0 + (-z).exp())
}

impl Layers {
    fn check(&self, client: &Client, norm: NormCase, after: After) {
        let &Self {
            m,
            k,
            stride,
            dtype,
            ref matrices,
        } = self;
        let what = format!("{m} rows of {k}, {norm:?}, {after:?}, {dtype:?}");
        let n = matrices[0].layout().out_features();
        let (x, mut values) = upload_values(client, &uniform(1, m * stride), dtype);
        let x = strided_rows(x, dtype, [m, k], stride);
        let norm = norm.map(|(weight_dtype, unit_offset)| {
            let (weight, factors) = upload_values(client, &uniform(2, k), weight_dtype);
            for row in values.chunks_mut(stride) {
                let squares = row[..k].iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
                let inverse = (squares / k as f64 + EPS).powf(-0.5);
                for (x, factor) in row.iter_mut().zip(&factors) {
                    let factor = f64::from(*factor) + f64::from(u8::from(unit_offset));
                    *x = (f64::from(*x) * inverse * factor) as f32;
                }
            }
            Norm {
                weight: TensorHandle::new_contiguous([k], weight, weight_dtype),
                config: RmsNormConfig::new(EPS).with_unit_offset(unit_offset),
            }
        });
        let mut expected: Vec<_> = matrices
            .iter()
            .map(|matrix| reference(matrix, &values, m, stride, Direction::Forward))
            .collect();
        let epilogue = match after {
            After::Nothing => Epilogue::None,
            After::Add => {
                let (residual, values) = upload_values(client, &uniform(3, m * n), dtype);
                let sums = expected[0].iter().zip(values);
                expected[0] = sums.map(|(y, residual)| y + f64::from(residual)).collect();
                Epilogue::Add(rows(residual, dtype, m, n))
            }
            After::Glu(activation) => {
                let up = expected.pop().unwrap();
                let pairs = expected[0].iter().zip(up);
                expected[0] = pairs
                    .map(|(gate, up)| activated(activation, *gate) * up)
                    .collect();
                Epilogue::Glu(activation)
            }
        };
        let weights = matrices.iter().map(|matrix| upload(client, matrix));
        let found = fused_layers(client, x, norm, weights.collect(), epilogue).unwrap();
        assert_eq!(found.is_some(), fuses_layers(client, m), "{what}");
        let Some(found) = found else { return };
        assert_eq!(found.len(), expected.len(), "{what}");
        for (y, expected) in found.into_iter().zip(expected) {
            assert_eq!(y.shape()[0], m, "{what}");
            let y = read_values(client, y.handle, dtype);
            assert_close(&y, &expected, tolerance(dtype), &what);
        }
    }
}

const NORM: NormCase = Some((F32, false));

pub fn layers_and_what_is_around_them_match_the_formula(client: &Client) {
    for (m, k, padding) in [(1, 576, 0), (1, 1000, 5), (2, 128, 16), (7, 320, 0)] {
        let layers = |sizes: &[usize]| Layers {
            m,
            k,
            stride: k + padding,
            dtype: F32,
            matrices: (5..)
                .zip(sizes)
                .map(|(seed, n)| nf4(seed, [*n, k]))
                .collect(),
        };
        layers(&[70, 24, 9]).check(client, NORM, After::Nothing);
        layers(&[70]).check(client, Some((F32, true)), After::Add);
        layers(&[33]).check(client, None, After::Add);
        layers(&[140, 140]).check(client, NORM, After::Glu(Activation::Silu));
        layers(&[9, 9]).check(client, None, After::Glu(Activation::GeluTanh));
    }
}

pub fn few_rows_are_fused_but_on_a_cpu(client: &Client) {
    let most = match DeviceKind::of(client) {
        DeviceKind::Cpu => 0,
        DeviceKind::Rasterizer => 1,
        DeviceKind::Gpu => 8,
    };
    for rows in 1..12 {
        assert_eq!(fuses_layers(client, rows), rows <= most);
    }
}

pub fn rows_that_begin_within_a_word_are_fused(client: &Client) {
    let layers = Layers {
        m: 1,
        k: 51,
        stride: 51,
        dtype: F32,
        matrices: vec![nf4(5, [20, 51]), nf4(6, [20, 51])],
    };
    layers.check(client, NORM, After::Glu(Activation::Silu));
}

/// Codes of 4 bits with minima, and of 8 bits.
pub fn layers_of_a_files_blocks_are_fused(client: &Client) {
    for format in [GgufFormat::Q4_K, GgufFormat::Q8_0] {
        let layers = Layers {
            m: 1,
            k: 512,
            stride: 512,
            dtype: F32,
            matrices: vec![
                file_matrix(format, [37, 512]),
                file_matrix(format, [37, 512]),
            ],
        };
        layers.check(client, NORM, After::Nothing);
        layers.check(client, NORM, After::Glu(Activation::Silu));
    }
}

pub fn what_is_around_layers_is_fused_in_half_precision(client: &Client) {
    let mut checked = 0;
    for dtype in [F16, BF16] {
        if check_float(client, "matmul", dtype).is_err() {
            continue;
        }
        for m in [1, 3] {
            let layers = |count: u64| Layers {
                m,
                k: 256,
                stride: 256,
                dtype,
                matrices: (5..5 + count).map(|seed| nf4(seed, [40, 256])).collect(),
            };
            layers(3).check(client, Some((dtype, false)), After::Nothing);
            layers(1).check(client, None, After::Add);
            layers(2).check(client, NORM, After::Glu(Activation::Silu));
        }
        checked += 1;
    }
    assert!(checked > 0, "both runtimes have f16");
}

/// Weights of several formats, a residual of another type, gates of another width: the caller composes those.
pub fn what_no_launch_has_is_left_to_the_caller(client: &Client) {
    let (m, k) = (1, 512);
    let x = || rows(upload_values(client, &uniform(1, m * k), F32).0, F32, m, k);
    let fused = |matrices: &[QuantizedMatrix], epilogue| {
        let weights = matrices
            .iter()
            .map(|matrix| upload(client, matrix))
            .collect();
        fused_layers(client, x(), None, weights, epilogue)
            .unwrap()
            .is_some()
    };
    let of_a_file = file_matrix(GgufFormat::Q8_0, [24, k]);
    let formats = [nf4(5, [24, k]), of_a_file];
    assert!(!fused(&formats, Epilogue::None));
    let (handle, _) = upload_values(client, &uniform(2, 24), F16);
    let residual = rows(handle, F16, m, 24);
    assert!(!fused(&formats[..1], Epilogue::Add(residual)));
    let widths = [nf4(5, [24, k]), nf4(6, [32, k])];
    assert!(!fused(&widths, Epilogue::Glu(Activation::Silu)));
    assert!(!fused(&[], Epilogue::None));
    assert!(!fused(&[nf4(5, [0, k])], Epilogue::None));
}
