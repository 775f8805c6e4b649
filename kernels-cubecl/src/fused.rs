//! The operations of a transformer block between its products, each in a pass over memory, for [`burn-fused`] on CubeCL
//! devices.
//!
//! Operands that are not contiguous are copied; all are computed in f32, whatever their type. All of these kernels but
//! attention's are bound by memory: the bytes that each moves are in its doc, to be divided by the device's bandwidth (RTX
//! 4090: 1.01 TB/s, H100 SXM: 3.35 TB/s).
//!
//! - [`attention`]: some lanes a query, or a key.
//! - [`rms_norm`], with and without the residual add, and [`cross_entropy`]: a plane a row (`rows`).
//! - [`glu`], [`rope`]: a vector of elements a unit.
//!
//! Only attention's backward pass takes memory beside operands and results, and says how much
//! ([`attention::backward_workspace_bytes`]), in `u128`, for a plan may ask for sizes that no device has. The caller computes otherwise what a kernel does not
//! [serve](rms_norm::serves), and knows what it keeps for the backward pass.
//!
//! A kernel with a [`ComptimeOption`] takes besides, by value, whether it is `Some`: CubeCL's stable hash of an instance leaves
//! out the variant of an enum (0.11.3, `KernelId::stable_hash`). It is the key of the kernels kept on disk, where an
//! instance would be taken for the other.
//!
//! [`burn-fused`]: https://github.com/burn-qlora/burn-qlora/tree/main/crates/burn-fused

pub mod attention;
pub mod cross_entropy;
pub mod glu;
pub mod rms_norm;
pub mod rope;
mod rows;
mod tanh;

use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;

use crate::error::{KernelError, check_length, is_served};
use crate::operand::{buffer, contiguous, elements, empty, tensor_buffer};

/// Bytes that a unit loads at once.
const LOAD: usize = 16;

/// Below every score and logit that is not lost anyway, and finite: not every shader language promises infinities.
const LOWEST: f32 = -1e30;

const F32: ElemType = ElemType::Float(FloatKind::F32);

/// Returns the elements of a load of `dtype` in rows of `columns`: as many as fit, and a divisor of it.
pub(crate) fn vector_size(dtype: ElemType, columns: usize) -> usize {
    let mut size = LOAD / dtype.size();
    while !columns.is_multiple_of(size) {
        size /= 2;
    }
    size
}

/// Returns whether all types are one, and one that the kernels are written for.
fn are_served_alike(dtypes: &[ElemType]) -> bool {
    let mut dtypes = dtypes.iter();
    dtypes
        .next()
        .is_some_and(|&first| is_served(first) && dtypes.all(|&dtype| dtype == first))
}

/// A contiguous tensor as a matrix of its last dimension.
struct Matrix {
    tensor: TensorHandle,
    rows: usize,
    columns: usize,
}

impl Matrix {
    fn new(client: &Client, tensor: TensorHandle) -> Self {
        let columns = tensor.shape().last().copied().unwrap_or(1);
        Self {
            rows: elements(&tensor) / columns.max(1),
            columns,
            tensor: contiguous(client, tensor),
        }
    }

    fn dtype(&self) -> ElemType {
        self.tensor.dtype
    }

    fn elements(&self) -> usize {
        self.rows * self.columns
    }

    fn arg(&self) -> BufferArg {
        tensor_buffer(&self.tensor)
    }

    /// Returns another operand of this shape and type, contiguous.
    fn like(
        &self,
        client: &Client,
        operation: &'static str,
        other: TensorHandle,
    ) -> Result<TensorHandle, KernelError> {
        if other.dtype != self.dtype() {
            let dtype = other.dtype;
            return Err(KernelError::UnsupportedType { operation, dtype });
        }
        check_length(operation, "operand", elements(&other), self.elements())?;
        Ok(contiguous(client, other))
    }

    /// Allocates a tensor of this shape and type.
    fn empty(&self, client: &Client) -> TensorHandle {
        empty(client, self.tensor.shape().clone(), self.dtype())
    }

    /// Allocates an f32 tensor with a number for each row, `[.., 1]`.
    fn one_a_row(&self, client: &Client) -> TensorHandle {
        let mut shape = self.tensor.shape().clone();
        if let Some(last) = shape.last_mut() {
            *last = 1;
        }
        empty(client, shape, F32)
    }

    /// Returns a tensor with a number for each row as a kernel argument.
    fn one_a_row_arg(&self, numbers: &TensorHandle) -> BufferArg {
        buffer(&numbers.handle, self.rows)
    }
}
