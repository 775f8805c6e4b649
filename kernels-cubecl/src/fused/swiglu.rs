//! `silu(gate) · up`, and the gradients of both.
//!
//! Bytes: forward reads two matrices and writes one, backward reads three and writes two. 512 rows of 11008 in f16:
//! 33.8 and 56.4 MB, 34 and 56 µs on an RTX 4090.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;

use super::{Matrix, are_served_alike, vector_size};
use crate::error::{KernelError, check_float, check_size};
use crate::launch::LaunchConfig;
use crate::operand::{elements, tensor_buffer};

const OPERATION: &str = "swiglu";

/// Units of a cube.
const UNITS: u32 = 256;

/// Returns whether there is a kernel for operands of these types.
pub fn serves(dtypes: &[ElemType]) -> bool {
    are_served_alike(dtypes)
}

/// Checked operands.
struct Gated {
    gate: Matrix,
    up: TensorHandle,
    vector: usize,
}

impl Gated {
    fn new(client: &Client, gate: TensorHandle, up: TensorHandle) -> Result<Self, KernelError> {
        check_float(client, OPERATION, gate.dtype)?;
        check_size("input", elements(&gate))?;
        let gate = Matrix::new(client, gate);
        Ok(Self {
            up: gate.like(client, OPERATION, up)?,
            vector: vector_size(gate.dtype(), gate.elements().max(1)),
            gate,
        })
    }
}

/// Returns `silu(gate) · up`, all of one shape and type.
///
/// # Errors
/// [`KernelError::UnsupportedType`], [`KernelError::ShapeMismatch`], [`KernelError::TooLarge`].
pub fn forward(
    client: &Client,
    gate: TensorHandle,
    up: TensorHandle,
) -> Result<TensorHandle, KernelError> {
    let Gated { gate, up, vector } = Gated::new(client, gate, up)?;
    let y = gate.empty(client);
    let vectors = gate.elements() / vector;
    if vectors > 0 {
        let config = LaunchConfig::new(client, vectors, UNITS);
        // SAFETY: the kernel guards every access by the number of vectors, and all buffers have that many.
        unsafe {
            forward_kernel::launch_unchecked(
                client,
                config.cubes,
                config.cube_dim,
                vector,
                gate.arg(),
                tensor_buffer(&up),
                tensor_buffer(&y),
                vectors as u32,
                config.per_unit,
                gate.dtype(),
            );
        }
    }
    Ok(y)
}

/// Returns the gradients of `gate` and `up`: with `s = sigmoid(gate)`, `dup = g · gate·s` and
/// `dgate = g · up · s·(1 + gate·(1 − s))`.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    client: &Client,
    gate: TensorHandle,
    up: TensorHandle,
    grad: TensorHandle,
) -> Result<[TensorHandle; 2], KernelError> {
    let Gated { gate, up, vector } = Gated::new(client, gate, up)?;
    let grad = gate.like(client, OPERATION, grad)?;
    let (dgate, dup) = (gate.empty(client), gate.empty(client));
    let vectors = gate.elements() / vector;
    if vectors > 0 {
        let config = LaunchConfig::new(client, vectors, UNITS);
        // SAFETY: the kernel guards every access by the number of vectors, and all buffers have that many.
        unsafe {
            backward_kernel::launch_unchecked(
                client,
                config.cubes,
                config.cube_dim,
                vector,
                gate.arg(),
                tensor_buffer(&up),
                tensor_buffer(&grad),
                tensor_buffer(&dgate),
                tensor_buffer(&dup),
                vectors as u32,
                config.per_unit,
                gate.dtype(),
            );
        }
    }
    Ok([dgate, dup])
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
