//! The one choice of a kernel for a product.

use cubecl::server::Handle;

use super::fused::Fusion;
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
        if alike.len() > 1
            && let Some(launch) = launch_of_all(alike, &Fusion::NONE)
        {
            launch(alike, &Fusion::NONE, outputs)?;
            continue;
        }
        for (problem, output) in alike.iter().zip(outputs) {
            multiply(problem, output)?;
        }
    }
    Ok(())
}

/// Returns the launch for all of some products of one `x` and what is fused with them, if there is one.
pub(super) fn launch_of_all(problems: &[Problem], fusion: &Fusion) -> Option<LaunchTogether> {
    let [first, others @ ..] = problems else {
        return None;
    };
    // `x` and the sizes, of each weight the codes and the scales, and the results.
    let results = fusion.results(problems.len());
    let buffers = 2 + 2 * problems.len() + results + fusion.buffers();
    let bindable = buffers <= first.client.properties().hardware.max_bindings as usize;
    let alike = others.iter().all(|other| first.is_alike(other));
    if !bindable || !alike || problems.iter().any(Problem::is_empty) {
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
