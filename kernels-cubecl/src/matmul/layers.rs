//! The products of linear layers that have one input.

use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;
use nf4::Direction;

use super::choice::multiply_each;
use super::low_rank::{Factors, LowRank, add_each};
use super::problem::Problem;
use crate::error::KernelError;
use crate::weight::Weight;

/// A linear layer: a weight, and the low-rank matrix beside it if it is adapted.
#[derive(Clone, Debug)]
pub struct Layer {
    /// `[out_features, in_features]`.
    pub weight: Weight,
    /// Of the weight's shape, transposed.
    pub low_rank: Option<LowRank>,
}

/// Returns what each layer makes of `x: [.., in_features]`, as [`matmul`](super::matmul()) forward and
/// [`low_rank::forward`](super::low_rank::forward()) do. A few rows are multiplied by neighbouring weights of one format in one
/// launch, on software rasterizers one row, and in two what low-rank matrices add.
///
/// # Errors
/// As these two.
pub fn layers(
    client: &Client,
    x: TensorHandle,
    layers: Vec<Layer>,
) -> Result<Vec<TensorHandle>, KernelError> {
    let (mut problems, mut factors) = (Vec::new(), Vec::new());
    for Layer { weight, low_rank } in layers {
        let shape = weight.layout.shape();
        let low_rank = low_rank.map(|low_rank| Factors::new(client, low_rank, shape));
        factors.push(low_rank.transpose()?);
        problems.push(Problem::new(client, x.clone(), weight, Direction::Forward)?);
    }
    let outputs: Vec<_> = problems.iter().map(Problem::output).collect();
    let handles: Vec<_> = outputs.iter().map(|output| output.handle.clone()).collect();
    multiply_each(&problems, &handles)?;
    let adapted = problems.iter().zip(&factors).zip(&outputs);
    let adapted = adapted.filter(|((problem, _), _)| !problem.is_empty());
    let adapted: Vec<_> = adapted
        .filter_map(|((_, factors), output)| Some((factors.as_ref()?, output)))
        .collect();
    if let Some(first) = problems.first() {
        add_each(client, &first.x, &adapted)?;
    }
    Ok(outputs)
}
