//! The one choice of a kernel for a product.

use cubecl::server::Handle;

use super::problem::Problem;
use super::select::{Kernel, LaunchTogether};
#[cfg(feature = "autotune")]
use super::tune;
use crate::error::KernelError;

/// Writes the product by the likeliest kernel for the problem, or by the fastest where the device measures them. The output of an
/// empty product is complete where it is allocated.
///
/// # Errors
/// [`KernelError::TooManyRows`].
pub(super) fn multiply(problem: &Problem, output: &Handle) -> Result<(), KernelError> {
    if problem.is_empty() {
        return Ok(());
    }
    chosen(problem).launch()(problem, output)
}

/// Writes products of one `x`, neighbours in one launch where their kernel takes them together.
///
/// # Errors
/// As [`multiply`].
pub(super) fn multiply_each(problems: &[Problem], outputs: &[Handle]) -> Result<(), KernelError> {
    let mut first = 0;
    for alike in problems.chunk_by(Problem::is_alike) {
        let outputs = &outputs[first..first + alike.len()];
        first += alike.len();
        match together(alike) {
            Some(launch) => launch(alike, outputs)?,
            None => {
                for (problem, output) in alike.iter().zip(outputs) {
                    multiply(problem, output)?;
                }
            }
        }
    }
    Ok(())
}

/// Returns the launch for several problems that are alike, if there is one.
fn together(problems: &[Problem]) -> Option<LaunchTogether> {
    let [first, _, ..] = problems else {
        return None;
    };
    // `x` and the sizes, and of each the codes, the scales and the output.
    let buffers = 2 + 3 * problems.len() as u32;
    let bindable = buffers <= first.client.properties().hardware.max_bindings;
    if !bindable || problems.iter().any(Problem::is_empty) {
        return None;
    }
    chosen(first).launch_together(first.direction, first.x.m)
}

fn chosen(problem: &Problem) -> Kernel {
    let candidates = problem.candidates();
    let likeliest = candidates[0];
    #[cfg(feature = "autotune")]
    let likeliest = tune::fastest(problem, candidates).unwrap_or(likeliest);
    likeliest
}
