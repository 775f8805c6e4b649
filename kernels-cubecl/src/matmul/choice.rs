//! The one choice of a kernel for a product.

use cubecl::server::Handle;

use super::problem::Problem;
use super::select::Launch;
#[cfg(feature = "autotune")]
use super::tune;
use crate::error::KernelError;

/// Returns the launch of the likeliest kernel for the problem, or of the fastest where the device measures them.
pub(super) fn chosen(problem: &Problem) -> Launch {
    if problem.is_empty() {
        return nothing;
    }
    let candidates = problem.candidates();
    let likeliest = candidates[0];
    #[cfg(feature = "autotune")]
    let likeliest = tune::fastest(problem, candidates).unwrap_or(likeliest);
    likeliest.launch()
}

/// The output of an empty product is complete where it is allocated.
fn nothing(_: &Problem, _: &Handle) -> Result<(), KernelError> {
    Ok(())
}
