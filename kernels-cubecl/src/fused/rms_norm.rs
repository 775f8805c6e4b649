//! `y = x / rms(x) · weight` over rows, `rms(x) = sqrt(mean(x²) + eps)`, and its gradient.
//!
//! Bytes: forward reads `x` and writes `y`; with a residual it reads that too and writes the sum. Backward reads `x` and
//! `grad` and writes `dx`; with a residual it reads the sum's gradient too. A row's second pass finds it in the first-level
//! cache. 512 rows of 4096 in f16 with a residual, forward: 16.8 MB, 17 µs on an RTX 4090.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::rows::{RowSpread, first_row, row_mean};
use super::{Matrix, vector_size};
use crate::error::{KernelError, check_size};
use crate::matmul::check_float;

/// The weight of a norm: a contiguous row.
#[derive(Clone, Copy, Debug)]
pub struct NormWeight<'a> {
    /// The buffer.
    pub handle: &'a Handle,
    /// f32, f16 or bf16.
    pub dtype: ElemType,
}

impl NormWeight<'_> {
    fn arg(&self, x: &Matrix<'_>) -> BufferArg {
        // SAFETY: a weight has an element for each column of what it is applied to.
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), x.columns) }
    }
}

fn check(client: &Client, x: &Matrix<'_>, weight: NormWeight<'_>) -> Result<(), KernelError> {
    check_float(client, "rms_norm", x.dtype)?;
    check_float(client, "rms_norm", weight.dtype)?;
    check_size("input", x.elements()).map(|_| ())
}

/// The vector size of a matrix and its weight.
fn size(x: &Matrix<'_>, weight: NormWeight<'_>) -> usize {
    vector_size(x.dtype, x.columns).min(vector_size(weight.dtype, x.columns))
}

/// A new buffer of a number in f32 for each row, as a kernel's argument too.
fn one_a_row(client: &Client, x: &Matrix<'_>) -> (Handle, BufferArg) {
    let handle = client.empty(4 * x.rows);
    // SAFETY: it was allocated with that many.
    let arg = unsafe { BufferArg::from_raw_parts(handle.clone(), x.rows) };
    (handle, arg)
}

/// `y` like `x`, and `1 / rms` of every row in f32.
///
/// # Errors
/// [`KernelError::UnsupportedType`], [`KernelError::TooLarge`].
pub fn forward(
    client: &Client,
    x: Matrix<'_>,
    weight: NormWeight<'_>,
    eps: f32,
) -> Result<(Handle, Handle), KernelError> {
    check(client, &x, weight)?;
    let y = x.empty(client);
    let (inv_rms, inv_rms_arg) = one_a_row(client, &x);
    if x.elements() > 0 {
        let spread = RowSpread::new(client, x.rows);
        let size = size(&x, weight);
        // SAFETY: the kernel keeps to the rows and columns that all buffers have.
        unsafe {
            forward_kernel::launch_unchecked(
                client,
                spread.cubes,
                spread.cube_dim,
                size,
                x.arg(),
                weight.arg(&x),
                x.alike(&y),
                inv_rms_arg,
                x.rows as u32,
                (x.columns / size) as u32,
                spread.per_plane,
                eps,
                spread.lanes,
                x.dtype,
                weight.dtype,
            );
        }
    }
    Ok((y, inv_rms))
}

/// The sum `x + residual`, rounded to their type, and [`forward`] of it.
///
/// # Errors
/// As [`forward`].
pub fn add_forward(
    client: &Client,
    x: Matrix<'_>,
    residual: &Handle,
    weight: NormWeight<'_>,
    eps: f32,
) -> Result<(Handle, Handle, Handle), KernelError> {
    check(client, &x, weight)?;
    let (sum, y) = (x.empty(client), x.empty(client));
    let (inv_rms, inv_rms_arg) = one_a_row(client, &x);
    if x.elements() > 0 {
        let spread = RowSpread::new(client, x.rows);
        let size = size(&x, weight);
        // SAFETY: the kernel keeps to the rows and columns that all buffers have.
        unsafe {
            add_forward_kernel::launch_unchecked(
                client,
                spread.cubes,
                spread.cube_dim,
                size,
                x.arg(),
                x.alike(residual),
                weight.arg(&x),
                x.alike(&sum),
                x.alike(&y),
                inv_rms_arg,
                x.rows as u32,
                (x.columns / size) as u32,
                spread.per_plane,
                eps,
                spread.lanes,
                x.dtype,
                weight.dtype,
            );
        }
    }
    Ok((sum, y, inv_rms))
}

/// The gradient of `x` from that of `y`: `dx = r · (g·w − x · r² · mean(g·w·x))` with `r = 1 / rms`; plus `grad_sum`, what
/// comes to the sum of [`add_forward`] from elsewhere.
///
/// `grad` and `grad_sum` are like `x`.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    client: &Client,
    x: Matrix<'_>,
    weight: NormWeight<'_>,
    inv_rms: &Handle,
    grad: &Handle,
    grad_sum: Option<&Handle>,
) -> Result<Handle, KernelError> {
    check(client, &x, weight)?;
    let dx = x.empty(client);
    if x.elements() > 0 {
        let spread = RowSpread::new(client, x.rows);
        let size = size(&x, weight);
        // SAFETY: the kernel keeps to the rows and columns that all buffers have, and to one number a row of `inv_rms`.
        unsafe {
            backward_kernel::launch_unchecked(
                client,
                spread.cubes,
                spread.cube_dim,
                size,
                x.arg(),
                weight.arg(&x),
                BufferArg::from_raw_parts(inv_rms.clone(), x.rows),
                x.alike(grad),
                // Not looked at where there is none.
                x.alike(grad_sum.unwrap_or(grad)),
                x.alike(&dx),
                x.rows as u32,
                (x.columns / size) as u32,
                spread.per_plane,
                grad_sum.is_some(),
                spread.lanes,
                x.dtype,
                weight.dtype,
            );
        }
    }
    Ok(dx)
}

#[cube(launch_unchecked)]
fn forward_kernel<F: Float, W: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<W, N>],
    y: &mut [Vector<F, N>],
    inv_rms: &mut [f32],
    rows: u32,
    vectors: u32,
    per_plane: u32,
    eps: f32,
    #[comptime] lanes: usize,
    #[define(F)] _dtype: ElemType,
    #[define(W)] _weight_dtype: ElemType,
) {
    for r in 0..per_plane {
        let asked = first_row(per_plane) + r;
        // Planes stay together: those beyond the last row compute it again and write nothing.
        let row = min(asked, rows - 1);
        let start = row * vectors;
        let mut squares = Vector::<f32, N>::zeroed();
        let mut i = UNIT_POS_X;
        while i < vectors {
            let value = Vector::<f32, N>::cast_from(x[(start + i) as usize]);
            squares += value * value;
            i += comptime!(lanes as u32);
        }
        let inverse = inverse_rms(squares, vectors, eps, lanes);
        if asked < rows {
            let mut i = UNIT_POS_X;
            while i < vectors {
                let value = Vector::<f32, N>::cast_from(x[(start + i) as usize]);
                y[(start + i) as usize] = normalized(value, weight[i as usize], inverse);
                i += comptime!(lanes as u32);
            }
            if UNIT_POS_X == 0 {
                inv_rms[row as usize] = inverse;
            }
        }
    }
}

#[cube(launch_unchecked)]
fn add_forward_kernel<F: Float, W: Float, N: Size>(
    x: &[Vector<F, N>],
    residual: &[Vector<F, N>],
    weight: &[Vector<W, N>],
    sum: &mut [Vector<F, N>],
    y: &mut [Vector<F, N>],
    inv_rms: &mut [f32],
    rows: u32,
    vectors: u32,
    per_plane: u32,
    eps: f32,
    #[comptime] lanes: usize,
    #[define(F)] _dtype: ElemType,
    #[define(W)] _weight_dtype: ElemType,
) {
    for r in 0..per_plane {
        let asked = first_row(per_plane) + r;
        let row = min(asked, rows - 1);
        let start = row * vectors;
        let mut squares = Vector::<f32, N>::zeroed();
        let mut i = UNIT_POS_X;
        while i < vectors {
            let at = (start + i) as usize;
            let value = rounded_sum(x[at], residual[at]);
            squares += value * value;
            i += comptime!(lanes as u32);
        }
        let inverse = inverse_rms(squares, vectors, eps, lanes);
        if asked < rows {
            let mut i = UNIT_POS_X;
            while i < vectors {
                let at = (start + i) as usize;
                let value = rounded_sum(x[at], residual[at]);
                sum[at] = Vector::cast_from(value);
                y[at] = normalized(value, weight[i as usize], inverse);
                i += comptime!(lanes as u32);
            }
            if UNIT_POS_X == 0 {
                inv_rms[row as usize] = inverse;
            }
        }
    }
}

#[cube(launch_unchecked)]
fn backward_kernel<F: Float, W: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<W, N>],
    inv_rms: &[f32],
    grad: &[Vector<F, N>],
    grad_sum: &[Vector<F, N>],
    dx: &mut [Vector<F, N>],
    rows: u32,
    vectors: u32,
    per_plane: u32,
    #[comptime] adds: bool,
    #[comptime] lanes: usize,
    #[define(F)] _dtype: ElemType,
    #[define(W)] _weight_dtype: ElemType,
) {
    for r in 0..per_plane {
        let asked = first_row(per_plane) + r;
        let row = min(asked, rows - 1);
        let start = row * vectors;
        let mut products = Vector::<f32, N>::zeroed();
        let mut i = UNIT_POS_X;
        while i < vectors {
            let at = (start + i) as usize;
            products += weighted(grad[at], weight[i as usize]) * Vector::cast_from(x[at]);
            i += comptime!(lanes as u32);
        }
        let inverse = inv_rms[row as usize];
        let mean = row_mean(products, vectors, lanes);
        let factor = Vector::<f32, N>::new(mean * inverse * inverse);
        if asked < rows {
            let mut i = UNIT_POS_X;
            while i < vectors {
                let at = (start + i) as usize;
                let value = Vector::<f32, N>::cast_from(x[at]);
                let mut result = (weighted(grad[at], weight[i as usize]) - value * factor)
                    * Vector::new(inverse);
                if comptime!(adds) {
                    result += Vector::cast_from(grad_sum[at]);
                }
                dx[at] = Vector::cast_from(result);
                i += comptime!(lanes as u32);
            }
        }
    }
}

#[cube]
fn inverse_rms<N: Size>(
    squares: Vector<f32, N>,
    vectors: u32,
    eps: f32,
    #[comptime] lanes: usize,
) -> f32 {
    f32::new(1.0) / (row_mean(squares, vectors, lanes) + eps).sqrt()
}

#[cube]
fn normalized<F: Float, W: Float, N: Size>(
    value: Vector<f32, N>,
    weight: Vector<W, N>,
    inverse: f32,
) -> Vector<F, N> {
    Vector::cast_from(value * Vector::new(inverse) * Vector::cast_from(weight))
}

/// The sum as it is kept, in f32.
#[cube]
fn rounded_sum<F: Float, N: Size>(x: Vector<F, N>, residual: Vector<F, N>) -> Vector<f32, N> {
    let sum = Vector::<f32, N>::cast_from(x) + Vector::cast_from(residual);
    Vector::cast_from(Vector::<F, N>::cast_from(sum))
}

#[cube]
fn weighted<F: Float, W: Float, N: Size>(
    grad: Vector<F, N>,
    weight: Vector<W, N>,
) -> Vector<f32, N> {
    Vector::<f32, N>::cast_from(grad) * Vector::cast_from(weight)
}
