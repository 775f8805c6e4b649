//! A few rows times a dense matrix whose rows are the columns of the result, as a head has them, with the norm before: cubek's
//! routines divide such a product into tiles of rows that are mostly not there.
//!
//! The lanes of a plane stride along some rows of the matrix, and their sums are added up in the plane. On a software rasterizer,
//! whose planes are a CPU's vectors, a unit takes its rows by itself.
//!
//! Bytes: the matrix once. LLaMA-7B's head, 32000 × 4096 in f16, 262 MB: 260 µs on an RTX 4090 (1.01 TB/s), 78 on an H100 SXM (3.35).
//! Predictions: none was run.

use cubecl::calculate_cube_count_elemwise;
use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;

use super::fused::{Norm, RmsNorm};
use super::gemv::MAX_ROWS;
use super::planes::{Lanes, PLANES, lane_sum};
use super::problem::{Rows, Sizes, SizesLaunch};
use super::select::DeviceKind;
use crate::error::{KernelError, check_float, check_length, check_size, is_served};
use crate::fused::vector_size;
use crate::operand::{elements, empty, is_contiguous, tensor_buffer};

const OPERATION: &str = "matmul";

/// Rows of the matrix that the lanes of a plane multiply at once by one row of `x`.
const FEATURES: usize = 4;
/// Units of a cube on a software rasterizer.
const UNITS: u32 = 8;
/// Rows of the matrix that such a unit multiplies at once by one row of `x`: SmolLM2's head, 49152 × 576 in f32, takes 65 ms on two
/// cores with Mesa's, and 83 by four rows.
const UNIT_FEATURES: usize = 16;

/// Returns whether there is a kernel for `x: [m, k]` and `weight: [n, k]`, both of one type: of a few rows and a matrix without
/// gaps, on a device that is not a CPU's cores.
pub fn serves(
    client: &Client,
    x: &TensorHandle,
    norm: Option<&Norm>,
    weight: &TensorHandle,
) -> bool {
    let rows = x.shape().first().copied().unwrap_or(0);
    let len = elements(weight);
    DeviceKind::of(client) != DeviceKind::Cpu
        && (1..=MAX_ROWS).contains(&rows)
        && check_size("weight", len).is_ok_and(|len| len > 0)
        && x.dtype == weight.dtype
        && is_served(x.dtype)
        && norm.is_none_or(Norm::is_served)
        && is_contiguous(weight.shape(), weight.strides())
}

/// Returns `x · weightᵀ`, `[m, n]`, of `x: [m, k]` normalized by `norm`, in the type of both. Sums are of f32.
///
/// # Errors
/// [`KernelError::UnsupportedType`], [`KernelError::ShapeMismatch`], [`KernelError::TooLarge`].
pub fn multiply(
    client: &Client,
    x: TensorHandle,
    norm: Option<Norm>,
    weight: &TensorHandle,
) -> Result<TensorHandle, KernelError> {
    let dtype = x.dtype;
    check_float(client, OPERATION, dtype)?;
    for matrix in [&x, weight] {
        check_length(OPERATION, "operand's rank", matrix.shape().len(), 2)?;
    }
    let [n, k] = weight.shape().dims();
    check_length(OPERATION, "input's last dimension", x.shape()[1], k)?;
    check_size("weight", n * k)?;
    let norm = norm.map(|norm| norm.checked(client, k)).transpose()?;
    let x = Rows::new(client, x);
    let y = empty(client, [x.m, n], dtype);
    let (lanes, planes, features) = match DeviceKind::of(client) {
        DeviceKind::Rasterizer => (Lanes::ONE, UNITS, UNIT_FEATURES),
        DeviceKind::Cpu | DeviceKind::Gpu => (Lanes::of(client), PLANES, FEATURES),
    };
    let rows = x.m.next_power_of_two();
    let features = (features / rows).max(1);
    let cube_dim = CubeDim::new_2d(lanes.count, planes);
    let units = n.div_ceil(features) * lanes.count as usize;
    // SAFETY: the kernel guards every access by the sizes of the operands, and the norm's weight was checked against them.
    unsafe {
        dense_rows_kernel::launch_unchecked(
            client,
            calculate_cube_count_elemwise(client, units, cube_dim),
            cube_dim,
            vector_size(dtype, k).min(vector_size(dtype, x.stride)),
            x.arg(k),
            norm.as_ref().map(Norm::arg).into(),
            tensor_buffer(weight),
            tensor_buffer(&y),
            SizesLaunch::new(x.m as u32, k as u32, n as u32, x.stride as u32),
            Block { rows, features },
            lanes,
            norm.is_some(),
            dtype,
            norm.as_ref().map_or(dtype, |norm| norm.weight.dtype),
        );
    }
    Ok(y)
}

/// The part of the result that lanes have the sums of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Block {
    rows: usize,
    features: usize,
}

#[cube(launch_unchecked)]
fn dense_rows_kernel<F: Float, W: Float, N: Size>(
    x: &[Vector<F, N>],
    norm: ComptimeOption<RmsNorm<'_, W, N>>,
    weight: &[Vector<F, N>],
    y: &mut [F],
    sizes: &Sizes,
    #[comptime] block: Block,
    #[comptime] lanes: Lanes,
    // Tells instances apart: see `fused`.
    #[comptime] _normalizes: bool,
    #[define(F)] _dtype: ElemType,
    #[define(W)] _weight_dtype: ElemType,
) {
    let (rows, features) = comptime!((block.rows, block.features));
    let width = N::value();
    let first = (CUBE_POS as u32 * CUBE_DIM_Y + UNIT_POS_Y) * comptime!(features as u32);
    let vectors = sizes.k / comptime!(width as u32);
    let x_vectors = sizes.x_stride / comptime!(width as u32);
    let mut sums = Array::<Vector<f32, N>>::new(comptime!(rows * features));
    let mut squares = Array::<Vector<f32, N>>::new(rows);
    let mut starts = Array::<u32>::new(features);
    #[unroll]
    for i in 0..comptime!(rows * features) {
        sums[i] = Vector::zeroed();
    }
    #[unroll]
    for i in 0..rows {
        squares[i] = Vector::zeroed();
    }
    #[unroll]
    for f in 0..features {
        // Features and rows beyond the last are computed from the last and never written.
        starts[f] = min(first + comptime!(f as u32), sizes.n - 1) * vectors;
    }
    let mut at = UNIT_POS_X;
    while at < vectors {
        let mut values = Array::<Vector<f32, N>>::new(rows);
        #[unroll]
        for i in 0..rows {
            let row = min(comptime!(i as u32).runtime(), sizes.m - 1) * x_vectors;
            values[i] = Vector::cast_from(x[(row + at) as usize]);
        }
        #[comptime]
        if let ComptimeOption::Some(norm) = &norm {
            let factors = norm.factors(at as usize);
            #[unroll]
            for i in 0..rows {
                squares[i] += values[i] * values[i];
                values[i] *= factors;
            }
        }
        #[unroll]
        for f in 0..features {
            let read = Vector::<f32, N>::cast_from(weight[(starts[f] + at) as usize]);
            #[unroll]
            for i in 0..rows {
                sums[comptime!(f * rows + i)] += values[i] * read;
            }
        }
        at += comptime!(lanes.count);
    }
    let mut inverse = Array::<f32>::new(rows);
    #[unroll]
    for i in 0..rows {
        inverse[i] = f32::new(1.0);
        #[comptime]
        if let ComptimeOption::Some(norm) = &norm {
            inverse[i] = norm.inverse(total(squares[i], lanes), sizes.k);
        }
    }
    #[unroll]
    for f in 0..features {
        let feature = first + comptime!(f as u32);
        #[unroll]
        for i in 0..rows {
            let sum = total(sums[comptime!(f * rows + i)], lanes) * inverse[i];
            let row = comptime!(i as u32);
            if UNIT_POS_X == 0 && feature < sizes.n && row < sizes.m {
                y[(row * sizes.n + feature) as usize] = F::cast_from(sum);
            }
        }
    }
}

/// Returns the sum of all elements of the lanes' vectors, at least in the first lane.
#[cube]
fn total<N: Size>(partial: Vector<f32, N>, #[comptime] lanes: Lanes) -> f32 {
    let mut sum = f32::new(0.0);
    #[unroll]
    for e in 0..N::value() {
        sum += partial.extract(e);
    }
    lane_sum(sum, lanes)
}
