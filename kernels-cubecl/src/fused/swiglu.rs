//! `silu(gate) · up`, and the gradients of both.
//!
//! Bytes: forward reads two matrices and writes one, backward reads three and writes two. 512 rows of 11008 in f16:
//! 33.8 and 56.4 MB, 34 and 56 µs on an RTX 4090.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::{Matrix, vector_size};
use crate::error::{KernelError, check_size};
use crate::launch::Spread;
use crate::matmul::check_float;

/// Units of a cube.
const UNITS: u32 = 256;

fn check(client: &Client, gate: &Matrix<'_>) -> Result<(), KernelError> {
    check_float(client, "swiglu", gate.dtype)?;
    check_size("input", gate.elements()).map(|_| ())
}

/// `silu(gate) · up`, all alike.
///
/// # Errors
/// [`KernelError::UnsupportedType`], [`KernelError::TooLarge`].
pub fn forward(client: &Client, gate: Matrix<'_>, up: &Handle) -> Result<Handle, KernelError> {
    check(client, &gate)?;
    let y = gate.empty(client);
    let elements = gate.elements();
    if elements > 0 {
        let size = vector_size(gate.dtype, elements);
        let spread = Spread::new(client, elements / size, UNITS);
        // SAFETY: the kernel guards every access by the number of vectors, and all buffers have that many.
        unsafe {
            forward_kernel::launch_unchecked(
                client,
                spread.cubes,
                spread.cube_dim,
                size,
                gate.arg(),
                gate.alike(up),
                gate.alike(&y),
                (elements / size) as u32,
                spread.per_unit,
                gate.dtype,
            );
        }
    }
    Ok(y)
}

/// The gradients of `gate` and `up`: with `s = sigmoid(gate)`, `dup = g · gate·s` and
/// `dgate = g · up · s·(1 + gate·(1 − s))`.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    client: &Client,
    gate: Matrix<'_>,
    up: &Handle,
    grad: &Handle,
) -> Result<(Handle, Handle), KernelError> {
    check(client, &gate)?;
    let (dgate, dup) = (gate.empty(client), gate.empty(client));
    let elements = gate.elements();
    if elements > 0 {
        let size = vector_size(gate.dtype, elements);
        let spread = Spread::new(client, elements / size, UNITS);
        // SAFETY: the kernel guards every access by the number of vectors, and all buffers have that many.
        unsafe {
            backward_kernel::launch_unchecked(
                client,
                spread.cubes,
                spread.cube_dim,
                size,
                gate.arg(),
                gate.alike(up),
                gate.alike(grad),
                gate.alike(&dgate),
                gate.alike(&dup),
                (elements / size) as u32,
                spread.per_unit,
                gate.dtype,
            );
        }
    }
    Ok((dgate, dup))
}

#[cube(launch_unchecked)]
fn forward_kernel<F: Float, N: Size>(
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    y: &mut [Vector<F, N>],
    vectors: u32,
    per_unit: u32,
    #[define(F)] _dtype: ElemType,
) {
    let first = ABSOLUTE_POS as u32 * per_unit;
    for i in first..min(first + per_unit, vectors) {
        let at = i as usize;
        let gate = Vector::<f32, N>::cast_from(gate[at]);
        let silu = gate * sigmoid(gate);
        y[at] = Vector::cast_from(silu * Vector::cast_from(up[at]));
    }
}

#[cube(launch_unchecked)]
fn backward_kernel<F: Float, N: Size>(
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    grad: &[Vector<F, N>],
    dgate: &mut [Vector<F, N>],
    dup: &mut [Vector<F, N>],
    vectors: u32,
    per_unit: u32,
    #[define(F)] _dtype: ElemType,
) {
    let first = ABSOLUTE_POS as u32 * per_unit;
    for i in first..min(first + per_unit, vectors) {
        let at = i as usize;
        let gate = Vector::<f32, N>::cast_from(gate[at]);
        let grad = Vector::<f32, N>::cast_from(grad[at]);
        let sigmoid = sigmoid(gate);
        let silu = gate * sigmoid;
        // s·(1 + gate·(1 − s)) = s + silu − silu·s
        let slope = sigmoid + silu - silu * sigmoid;
        dgate[at] = Vector::cast_from(grad * Vector::cast_from(up[at]) * slope);
        dup[at] = Vector::cast_from(grad * silu);
    }
}

#[cube]
fn sigmoid<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    let one = Vector::<f32, N>::new(f32::new(1.0));
    one / (one + (Vector::<f32, N>::zeroed() - x).exp())
}
