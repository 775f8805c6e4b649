//! One way through all operations, forward and backward.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_fused::{AttentionConfig, LogitsConfig, RmsNormConfig};
use burn_nf4::BlockwiseTensor;
use burn_qlora::{LoraBranch, LoraConfig, QLoraLinear, QuantConfig};
use qlora_test_support::random::normal;

pub const WIDTH: usize = 96;
const ROWS: usize = 10;
const CLASSES: usize = 33;

/// What differs between the steps.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Whether a row holds several sequences.
    pub packed: bool,
    pub dtype: DType,
}

/// Those of every dtype.
const CASES: [Case; 3] = [
    Case {
        packed: false,
        dtype: DType::F32,
    },
    Case {
        packed: true,
        dtype: DType::F32,
    },
    Case {
        packed: false,
        dtype: DType::F16,
    },
];

/// The cases in the dtypes of the backend that computes: NdArray has no f16.
pub fn cases() -> impl Iterator<Item = Case> {
    let device = crate::here::device();
    CASES
        .into_iter()
        .filter(move |case| device.supports_dtype(case.dtype))
}

pub fn tensor<const D: usize>(seed: u64, shape: [usize; D], device: &Device) -> Tensor<D> {
    let values = normal(seed, shape.iter().product(), 1.0);
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// A matrix in NF4.
pub fn weight(device: &Device) -> BlockwiseTensor {
    let dense = normal(1, WIDTH * WIDTH, 1.0);
    let shape = [WIDTH, WIDTH];
    let matrix = nf4::reference::quantize(&dense, shape, QuantConfig::default()).unwrap();
    BlockwiseTensor::from_host(&matrix, device)
}

/// Tensors by name.
pub type Named<const D: usize> = Vec<(&'static str, Tensor<D>)>;

/// A loss through all operations, and the leaves that it is of.
pub fn forward(case: Case, device: &Device) -> (Tensor<1>, Named<2>) {
    let leaf = |seed, shape| {
        let values = tensor::<2>(seed, shape, device);
        match device.is_autodiff() {
            true => values.require_grad(),
            false => values,
        }
    };
    let config = LoraConfig::new(4, 8.0);
    let [a, b] = [leaf(2, [WIDTH, 4]), leaf(3, [4, WIDTH])];
    let branch = LoraBranch::new(a.clone(), b.clone(), &config).unwrap();
    let layer = QLoraLinear::quantized(weight(device), None).with_adapter(branch);

    let cast = |tensor: Tensor<2>| tensor.cast(case.dtype);
    let x = leaf(4, [ROWS, WIDTH]);
    let norm = leaf(5, [1, WIDTH]);
    let norm_weight = cast(norm.clone()).flatten(0, 1);
    let settings = RmsNormConfig::new(1e-5);
    let hidden = burn_fused::rms_norm(cast(x.clone()), norm_weight.clone(), settings);
    let hidden = layer.forward(hidden);
    // The same layer, of rows that nothing feeds, and as a plain product.
    let fed_by_nothing = layer.forward(cast(tensor(6, [ROWS, WIDTH], device)));
    let plain = weight(device).matmul(hidden.clone());

    let [cos, sin] = [7, 8].map(|seed| cast(tensor(seed, [ROWS, 4], device)));
    let heads = burn_fused::rope(plain.reshape([1, ROWS, 12, 8]), cos, sin);
    let attention = AttentionConfig::new(0.3).with_window(Some(4));
    let mixed = if case.packed {
        let starts = TensorData::new(vec![0i64, 0, 0, 3, 3, 3, 3, 7, 7, 7], [1, ROWS]);
        let starts = Tensor::<2, Int>::from_data(starts, device);
        burn_fused::packed_causal_attention(heads.clone(), heads.clone(), heads, starts, attention)
    } else {
        let attention = attention.with_softcap(Some(5.0));
        burn_fused::causal_attention(heads.clone(), heads.clone(), heads, attention)
    };
    let mixed = mixed.reshape([ROWS, WIDTH]);
    let gated = burn_fused::swiglu(mixed.clone(), fed_by_nothing)
        + burn_fused::geglu(mixed, hidden.clone());
    let (sum, hidden) = burn_fused::add_rms_norm(gated, hidden, norm_weight, settings);
    let square = cast(weight(device).dequantize());
    let hidden = burn_fused::matmul(hidden + sum, square) * 0.01;

    let head = leaf(10, [CLASSES, WIDTH]);
    let (rows, factor) = (leaf(12, [ROWS, 4]), leaf(13, [4, CLASSES]));
    let loss = losses(
        hidden,
        [
            cast(head.clone()),
            cast(tensor(11, [CLASSES, WIDTH], device)),
        ],
        [rows.clone(), factor.clone()],
    );

    let leaves = vec![
        ("x", x),
        ("norm", norm),
        ("a", a),
        ("b", b),
        ("head", head),
        ("rows", rows),
        ("factor", factor),
    ];
    (loss, leaves)
}

/// The sum of every kind of loss, of a head that trains, of one that does not, and of that with a low-rank product beside it.
fn losses(
    hidden: Tensor<2>,
    [head, frozen]: [Tensor<2>; 2],
    low_rank: [Tensor<2>; 2],
) -> Tensor<1> {
    let targets: Vec<i64> = (0..ROWS as i64).map(|i| 3 * i).collect();
    let targets = TensorData::new(targets, [ROWS]);
    let targets = Tensor::<1, Int>::from_data(targets, &hidden.device());
    let config = LogitsConfig::default()
        .with_scale(0.1)
        .with_softcap(Some(3.0));
    let (hidden, targets) = (|| hidden.clone(), || targets.clone());
    let of_head = burn_fused::linear_cross_entropy(hidden(), head.clone(), targets(), config);
    let of_frozen = burn_fused::linear_cross_entropy(hidden(), frozen.clone(), targets(), config);
    let by_token = burn_fused::token_cross_entropy(hidden(), head, targets(), config).sum()
        + burn_fused::token_cross_entropy(hidden(), frozen.clone(), targets(), config).mean();
    let adapted = burn_fused::lora_linear_cross_entropy(
        hidden(),
        frozen.clone(),
        low_rank.clone(),
        targets(),
        config,
    );
    let adapted_by_token =
        burn_fused::lora_token_cross_entropy(hidden(), frozen, low_rank, targets(), config).mean();
    of_head + of_frozen + by_token + adapted + adapted_by_token
}

/// The bits of values that were read, whose shape and dtype are held to those of their tensor.
pub fn bits<const D: usize>(tensor: &Tensor<D>, data: TensorData) -> Vec<u32> {
    assert_eq!(data.shape().to_vec(), tensor.dims());
    assert_eq!(data.dtype(), tensor.dtype());
    let data = data.convert::<f32>().try_into_vec::<f32>();
    data.unwrap().into_iter().map(f32::to_bits).collect()
}
