//! Quantizing, decoding and products through the host: the matrix is decoded there, for a product a tile of rows at a time, and
//! multiplied by the backend's own product. The dense matrix is never formed.

use std::ops::Range;

use burn_core::backend::{Backend, TensorMetadata, read_sync, tensor::FloatTensor};
use burn_core::tensor::{DType, ExecutionError, FloatDType, Shape, Slice, TensorData};
use nf4::{Direction, Layout, MatrixRef, QuantConfig};

use super::{cast, rows};
use crate::ops::matmul_shape;
use crate::primitive::BlockwisePrimitive;
use crate::words;

/// Rows of the matrix that are dense at a time.
const TILE_ROWS: usize = 64;

pub(crate) fn quantize<B: Backend>(
    weight: FloatTensor<B>,
    config: QuantConfig,
) -> BlockwisePrimitive<B> {
    let (shape, device) = (weight.shape().dims(), weight.device());
    let values = read(B::float_into_data(cast::<B>(weight, DType::F32)));
    let values = values
        .as_slice::<f32>()
        .unwrap_or_else(|error| panic!("blockwise_quantize: {error}"));
    let matrix = qlora_cpu::quantize(values, shape, config)
        .unwrap_or_else(|error| panic!("blockwise_quantize: {error}"));
    let (layout, packed, absmax) = matrix.into_parts();
    let dtype = words::dtype(|dtype| B::supports_dtype(&device, dtype));
    let [packed, absmax] =
        [packed, absmax].map(|words| B::int_from_data(words::data(words, dtype), &device));
    BlockwisePrimitive {
        packed,
        absmax,
        layout,
    }
}

pub(crate) fn dequantize<B: Backend>(
    weight: BlockwisePrimitive<B>,
    dtype: FloatDType,
) -> FloatTensor<B> {
    let device = weight.packed.device();
    let words = HostWords::new(weight);
    let [out_features, _] = words.layout.shape();
    let dense = words.tile::<B>(0..out_features, &device);
    cast::<B>(dense, dtype.into())
}

pub(crate) fn matmul<B: Backend>(
    x: FloatTensor<B>,
    weight: BlockwisePrimitive<B>,
    direction: Direction,
) -> FloatTensor<B> {
    let (device, dtype) = (x.device(), x.dtype());
    let [out_features, in_features] = weight.layout.shape();
    let shape = matmul_shape(&x.shape(), &weight.layout, direction);
    if shape.num_elements() == 0 || out_features * in_features == 0 {
        return B::float_zeros(shape, &device, dtype.into());
    }
    let words = HostWords::new(weight);
    let x = rows::<B>(x, DType::F32);
    let m = x.shape()[0];
    let tiles = (0..out_features)
        .step_by(TILE_ROWS)
        .map(|first| first..(first + TILE_ROWS).min(out_features));
    let y = match direction {
        Direction::Forward => {
            let columns = tiles.map(|rows| {
                let tile = words.tile::<B>(rows, &device);
                B::float_matmul(x.clone(), B::float_transpose(tile))
            });
            B::float_cat(columns.collect(), 1)
        }
        Direction::Transposed => {
            let terms = tiles.map(|rows| {
                let columns = [Slice::from(0..m), Slice::from(rows.clone())];
                let x = B::float_slice(x.clone(), &columns);
                B::float_matmul(x, words.tile::<B>(rows, &device))
            });
            terms
                .reduce(B::float_add)
                .expect("a matrix that is not empty has a tile")
        }
    };
    B::float_reshape(cast::<B>(y, dtype), shape)
}

/// The words of a matrix on the host.
struct HostWords {
    packed: Vec<u32>,
    absmax: Vec<u32>,
    layout: Layout,
}

impl HostWords {
    fn new<B: Backend>(weight: BlockwisePrimitive<B>) -> Self {
        let [packed, absmax] = [weight.packed, weight.absmax].map(|words| {
            let data = read(B::int_into_data(words));
            let dtype = data.dtype();
            words::from_data(data)
                .unwrap_or_else(|| panic!("an nf4 word tensor must be U32 or I32, not {dtype:?}"))
        });
        Self {
            packed,
            absmax,
            layout: weight.layout,
        }
    }

    /// Returns rows of the matrix, decoded to f32, on a device.
    fn tile<B: Backend>(&self, rows: Range<usize>, device: &B::Device) -> FloatTensor<B> {
        let in_features = self.layout.in_features();
        let shape = Shape::new([rows.len(), in_features]);
        let matrix = MatrixRef::new(self.layout, &self.packed, &self.absmax)
            .unwrap_or_else(|error| panic!("malformed blockwise tensor: {error}"));
        let mut values = vec![0.0f32; shape.num_elements()];
        qlora_cpu::dequantize_range(matrix, rows.start * in_features, &mut values);
        B::float_from_data(TensorData::new(values, shape), device)
    }
}

/// Waits for a tensor's values.
fn read(values: impl Future<Output = Result<TensorData, ExecutionError>>) -> TensorData {
    read_sync(values).unwrap_or_else(|error| panic!("the device failed while it was read: {error}"))
}
