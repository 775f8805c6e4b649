//! `x · Wᵀ` and `x · W` from packed words.
//!
//! - `gemv`: up to eight rows on a GPU.
//! - `staged`: many rows on a GPU, through cubek-matmul, with matrix instructions where there are any.
//! - `dots`: a few rows forward on a CPU.
//! - `panels`: any number of rows on a CPU.
//! - `register_tiled`: any number of rows on a software rasterizer, and any shape anywhere.
//!
//! [`low_rank`] is the product of a LoRA layer, which adds a low-rank one to that with the weight, [`layers`](layers()) are the products
//! of several layers of one input, [`fused_layers`] have the norm before them and what becomes of them in the same launch, [`dense`] is
//! that of two dense matrices in f32, and [`dense_rows`] that of a few rows and a dense head.
//!
//! A [`Problem`] is checked once, where it is made. Its [candidates](ProductClass::candidates) are the kernels that the
//! device and the shape allow. `choice` takes the likeliest; with the feature `autotune` it has the device measure them
//! and takes the fastest: see `tune`. [`Problem::multiply`] runs a named one, for tests and benches.

mod choice;
pub mod dense;
mod dense_loader;
pub mod dense_rows;
mod dots;
mod fused;
mod gemv;
mod layers;
mod loader;
pub mod low_rank;
mod panels;
mod planes;
mod problem;
mod register_tiled;
mod select;
mod sources;
mod staged;
mod stored;
mod straddling;
#[cfg(feature = "autotune")]
mod tune;

pub use fused::{Epilogue, Norm, fused_layers, fuses_layers};
pub use gemv::MAX_ROWS as GEMV_MAX_ROWS;
pub use layers::{Layer, layers};
pub use problem::{Alignment, Problem};
pub use select::{DeviceKind, Kernel, ProductClass};

use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;
use nf4::Direction;

use choice::multiply;

use crate::error::KernelError;
use crate::weight::Weight;

/// Multiplies `x` by the weight, accumulating in f32, into a new contiguous tensor of `x`'s dtype.
///
/// `x: [.., in_features]` forward and `[.., out_features]` transposed; rows an equal distance apart are read where they lie.
/// Launches one kernel and returns at once; with the feature `autotune`, the first product of its kind measures the
/// candidates before, and waits for them.
///
/// # Errors
/// As [`Problem::new`], and [`KernelError::TooManyRows`].
pub fn matmul(
    client: &Client,
    x: TensorHandle,
    weight: Weight,
    direction: Direction,
) -> Result<TensorHandle, KernelError> {
    let problem = Problem::new(client, x, weight, direction)?;
    let y = problem.output();
    multiply(&problem, &y.handle)?;
    Ok(y)
}
