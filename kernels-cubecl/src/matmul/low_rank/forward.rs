//! The product with a quantized matrix and a low-rank one.

use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;
use nf4::Direction;

use super::super::choice::chosen;
use super::super::problem::Problem;
use super::expand::expand;
use super::factors::{Factors, LowRank};
use super::project::project;
use crate::error::KernelError;
use crate::weight::Weight;

/// Returns `y = x·Wᵀ + s·(x·A)·B`, `[.., out_features]`, in a new contiguous tensor of `x`'s dtype.
///
/// `x: [.., in_features]`, in f32, f16 or bf16; rows an equal distance apart are read where they lie. Sums are in f32. The
/// product with `W` is rounded to `x`'s dtype before the low-rank one is added, and the sum again.
///
/// # Errors
/// As [`matmul`](super::super::matmul()), and [`KernelError::NotSingle`].
pub fn forward(
    client: &Client,
    x: TensorHandle,
    weight: Weight,
    low_rank: LowRank,
) -> Result<TensorHandle, KernelError> {
    let factors = Factors::new(client, low_rank, weight.layout.shape())?;
    let problem = Problem::new(client, x, weight, Direction::Forward)?;
    let y = problem.output();
    chosen(&problem)(&problem, &y.handle)?;
    if !problem.is_empty() {
        let xa = project(client, &problem.x, &factors.a_transposed, factors.scale)?;
        expand(client, &xa, &factors.b, &y)?;
    }
    Ok(y)
}
