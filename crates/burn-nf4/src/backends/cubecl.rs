//! CubeCL: hands the tensors' buffers to the kernels of `qlora-cubecl`.

use burn_core::backend::{TensorMetadata, cubecl::dtype_to_storage_type, tensor::FloatTensor};
use burn_core::tensor::{DType, FloatDType, Shape};
use burn_cubecl::{CubeBackend, CubeDevice, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{client::Client, server::Handle};
use nf4::{Codebook, Layout, QuantConfig};
use qlora_cubecl::{CodeTable, Direction, Format, KernelError, Rows, Weight};

use crate::{Nf4Ops, Nf4Primitive, ops::matmul_shape};

impl Nf4Ops for CubeBackend {
    fn nf4_quantize(weight: FloatTensor<Self>, config: QuantConfig) -> Nf4Primitive<Self> {
        assert_eq!(
            weight.dtype,
            DType::F32,
            "nf4_quantize: cast the weight to f32 first"
        );
        let shape = weight.shape();
        let layout = Layout::new([shape[0], shape[1]], config)
            .unwrap_or_else(|error| panic!("nf4_quantize: {error}"));
        let weight = into_contiguous(weight);
        let words = launched(
            "nf4_quantize",
            qlora_cubecl::quantize(
                &weight.client,
                weight.handle.clone(),
                layout.shape(),
                format(&config),
                nf4::dynamic_map(),
            ),
        );
        let tensor = |handle, len: usize| {
            contiguous(&weight.client, &weight.device, handle, [len], DType::U32)
        };
        Nf4Primitive {
            packed: tensor(words.packed, layout.packed_words()),
            absmax: tensor(words.absmax, layout.absmax_words()),
            layout,
        }
    }

    fn nf4_dequantize(weight: Nf4Primitive<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        let dtype = DType::from(dtype);
        let (client, device) = (weight.packed.client.clone(), weight.packed.device.clone());
        let shape = weight.layout.shape();
        let values = launched(
            "nf4_dequantize",
            qlora_cubecl::dequantize(&client, &handles(weight), dtype_to_storage_type(dtype)),
        );
        contiguous(&client, &device, values, shape, dtype)
    }

    fn nf4_matmul(
        x: FloatTensor<Self>,
        weight: Nf4Primitive<Self>,
        transposed: bool,
    ) -> FloatTensor<Self> {
        let shape = matmul_shape(&x.shape(), &weight.layout, transposed);
        let direction = if transposed {
            Direction::Transposed
        } else {
            Direction::Forward
        };
        let (x, row_stride) = rows(x);
        let (client, device, dtype) = (x.client.clone(), x.device.clone(), x.dtype);
        let rows = Rows {
            handle: x.handle,
            dtype: dtype_to_storage_type(dtype),
            m: shape.iter().rev().skip(1).product(),
            row_stride,
        };
        let y = launched(
            "nf4_matmul",
            qlora_cubecl::matmul(&client, rows, &handles(weight), direction),
        );
        contiguous(&client, &device, y, shape, dtype)
    }
}

/// `x` as rows an equal distance apart, and that distance. Copies only what is laid out otherwise: a
/// transposed tensor, or leading dimensions that do not fold into one.
fn rows(x: CubeTensor) -> (CubeTensor, usize) {
    if let Some(stride) = row_stride(&x) {
        return (x, stride);
    }
    let x = into_contiguous(x);
    let stride = x.meta.shape().last().copied().unwrap_or(1);
    (x, stride)
}

fn row_stride(x: &CubeTensor) -> Option<usize> {
    if x.meta.is_tiled() {
        return None;
    }
    let (shape, strides) = (x.meta.shape(), x.meta.strides());
    let last = shape.num_dims() - 1;
    if strides[last] != 1 && shape[last] != 1 {
        return None;
    }
    // From the innermost leading dimension that has more than one entry outwards.
    let mut rows = (0..last).rev().filter(|&dim| shape[dim] != 1);
    let Some(inner) = rows.next() else {
        return Some(shape[last]);
    };
    let stride = strides[inner];
    let mut folded = stride * shape[inner];
    for dim in rows {
        if strides[dim] != folded {
            return None;
        }
        folded *= shape[dim];
    }
    // Rows that overlap (a broadcast) would do, but their length says nothing of the buffer's.
    (stride >= shape[last]).then_some(stride)
}

/// The kernels' view of a weight. Word tensors are contiguous unless a caller sliced them.
fn handles(weight: Nf4Primitive<CubeBackend>) -> Weight {
    let [out_features, in_features] = weight.layout.shape();
    Weight {
        packed: into_contiguous(weight.packed).handle,
        absmax: into_contiguous(weight.absmax).handle,
        out_features,
        in_features,
        format: format(&weight.layout.config()),
    }
}

fn format(config: &QuantConfig) -> Format {
    Format {
        table: table(config.codebook),
        block_size: config.block_size,
        double_quant: config.double_quant,
    }
}

fn table(codebook: Codebook) -> CodeTable {
    CodeTable::new(
        codebook.values(),
        codebook.codes_by_rank(),
        &codebook.midpoints(),
    )
}

fn contiguous(
    client: &Client,
    device: &CubeDevice,
    handle: Handle,
    shape: impl Into<Shape>,
    dtype: DType,
) -> CubeTensor {
    CubeTensor::new_contiguous(client.clone(), device.clone(), shape.into(), handle, dtype)
}

fn launched<T>(operation: &str, result: Result<T, KernelError>) -> T {
    result.unwrap_or_else(|error| panic!("{operation}: {error}"))
}
