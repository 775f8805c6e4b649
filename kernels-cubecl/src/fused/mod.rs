//! The operations of a transformer block between its products, each in a pass over memory: what [`burn-fused`] calls
//! on CubeCL devices.
//!
//! Operands are contiguous; they are computed in f32, whatever their type. All of these kernels but attention's are bound by
//! memory: the bytes that each moves are in its doc, to be divided by the device's bandwidth (RTX 4090: 1.01 TB/s, H100 SXM:
//! 3.35 TB/s).
//!
//! - [`attention`]: some lanes a query, or a key.
//! - [`rms_norm`], with and without the residual add, and [`cross_entropy`]: a plane a row (`rows`).
//! - [`swiglu`], [`rope`]: a vector of elements a unit.
//!
//! [`burn-fused`]: https://github.com/burn-qlora/burn-qlora/tree/main/crates/burn-fused

pub mod attention;
pub mod cross_entropy;
pub mod rms_norm;
pub mod rope;
mod rows;
pub mod swiglu;

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;

/// Bytes that a unit loads at once.
const LOAD: usize = 16;

/// Elements of a load of `dtype` in rows of `columns`: as many as fit, and a divisor of it.
fn vector_size(dtype: ElemType, columns: usize) -> usize {
    let mut size = LOAD / dtype.size();
    while !columns.is_multiple_of(size) {
        size /= 2;
    }
    size
}

/// A contiguous matrix on a device.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// The buffer.
    pub handle: &'a Handle,
    /// f32, f16 or bf16.
    pub dtype: ElemType,
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub columns: usize,
}

impl Matrix<'_> {
    fn elements(&self) -> usize {
        self.rows * self.columns
    }

    /// `handle` as a kernel's argument, a matrix like this one.
    fn alike(&self, handle: &Handle) -> BufferArg {
        // SAFETY: whoever names a handle beside a matrix vouches that it is as large.
        unsafe { BufferArg::from_raw_parts(handle.clone(), self.elements()) }
    }

    fn arg(&self) -> BufferArg {
        self.alike(self.handle)
    }

    /// A new buffer for a matrix like this one.
    fn empty(&self, client: &Client) -> Handle {
        client.empty(self.elements() * self.dtype.size())
    }
}
