//! `s·(x·Fᵀ)`, from a layer's width to the rank: dot products of rows of `x` and rows of the factor.
//!
//! - `lanes`: planes with tiles, whose lanes share the width.
//! - `tiles`: units with tiles, on a software rasterizer.

mod lanes;
mod tiles;

use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;

use super::super::problem::Rows;
use super::super::select::DeviceKind;
use super::factors::{Factor, OPERATION, Projected};
use crate::error::{KernelError, check_float, check_length, check_single, check_size};

/// The kernels for the product of rows and a factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// `lanes`.
    Lanes,
    /// `tiles`.
    Tiles,
}

impl Projection {
    /// All kernels.
    pub const ALL: [Self; 2] = [Self::Lanes, Self::Tiles];

    /// Returns the kernel for so many rows on the client's device: a software rasterizer takes units with tiles where they
    /// fill a cube, all others planes.
    pub fn of(client: &Client, m: usize) -> Self {
        if DeviceKind::of(client) == DeviceKind::Rasterizer && m >= tiles::CUBE_ROWS {
            Self::Tiles
        } else {
            Self::Lanes
        }
    }

    /// Returns `scale·(x·Fᵀ)`, f32 `[m, rank]`, by this kernel, for tests and benches.
    ///
    /// `x: [m, width]`, in f32, f16 or bf16; `factor: [rank, width]`, f32; none is empty.
    ///
    /// # Errors
    /// [`KernelError::UnsupportedType`], [`KernelError::NotSingle`], [`KernelError::ShapeMismatch`],
    /// [`KernelError::TooLarge`].
    pub fn multiply(
        self,
        client: &Client,
        x: TensorHandle,
        factor: TensorHandle,
        scale: f32,
    ) -> Result<TensorHandle, KernelError> {
        check_float(client, OPERATION, x.dtype)?;
        check_single(OPERATION, factor.dtype)?;
        let dimensions = [x.shape().len(), factor.shape().len()];
        for dimensions in dimensions {
            check_length(OPERATION, "operand's dimensions", dimensions, 2)?;
        }
        let [m, width] = [x.shape()[0], x.shape()[1]];
        let [rank, of_factor] = [factor.shape()[0], factor.shape()[1]];
        check_length(OPERATION, "factor's columns", of_factor, width)?;
        let elements = m * width * rank;
        check_length(OPERATION, "operands", elements, elements.max(1))?;
        check_size("factor", rank * width)?;
        let x = Rows::new(client, x);
        check_size("input", x.m * x.stride.max(width))?;
        let factor = Factor::new(client, factor);
        Ok(self.launch(client, &x, &factor, scale)?.values)
    }

    fn launch(
        self,
        client: &Client,
        x: &Rows,
        factor: &Factor,
        scale: f32,
    ) -> Result<Projected, KernelError> {
        let projected = Projected::empty(client, x.m, factor.rank)?;
        let launch = match self {
            Self::Lanes => lanes::launch,
            Self::Tiles => tiles::launch,
        };
        launch(client, x, factor, scale, &projected);
        Ok(projected)
    }
}

/// Returns `scale·(x·Fᵀ)`, `[m, rank]`, for rows of the factor's width; at least one row and one column.
///
/// # Errors
/// [`KernelError::TooLarge`].
pub(super) fn project(
    client: &Client,
    x: &Rows,
    factor: &Factor,
    scale: f32,
) -> Result<Projected, KernelError> {
    Projection::of(client, x.m).launch(client, x, factor, scale)
}
