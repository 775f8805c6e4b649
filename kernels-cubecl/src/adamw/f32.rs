//! The update with f32 moments.
//!
//! Roofline: 16 bytes read and 12 written an element: bound by memory. Launch: one unit an element.

use cubecl::prelude::*;
use cubecl::server::Handle;
use nf4::adamw::AdamWStep;

use super::{Run, Step, launch_arg, updated};
use crate::error::{KernelError, check_size};
use crate::operand::buffer;

const UNITS: u32 = 256;

/// Updates one run: reads `param` and `grad` (f32, contiguous), writes `output`, of the same size, and changes
/// `page`, where the run is its first moments and then its second ones, each half as long as the run.
///
/// # Errors
/// [`KernelError::TooLarge`].
pub fn update_f32(
    client: &Client,
    [param, grad, output]: [&Handle; 3],
    page: &Handle,
    run: Run,
    step: AdamWStep,
) -> Result<(), KernelError> {
    check_size("parameter", run.parameter)?;
    check_size("page", run.page_words)?;
    if run.elements == 0 {
        return Ok(());
    }
    let cube_dim = CubeDim::new_1d(UNITS);
    // SAFETY: the kernel guards every access by the number of elements; a run lies in its page and its
    // parameter, whose sizes the caller states.
    unsafe {
        update_kernel::launch_unchecked(
            client,
            cubecl::calculate_cube_count_elemwise(client, run.elements, cube_dim),
            cube_dim,
            buffer(param, run.parameter),
            buffer(grad, run.parameter),
            buffer(output, run.parameter),
            buffer(page, run.page_words),
            run.first as u32,
            run.elements as u32,
            run.offset as u32,
            ((run.end - run.offset) / 2) as u32,
            launch_arg(step),
        );
    }
    Ok(())
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn update_kernel(
    param: &[f32],
    grad: &[f32],
    output: &mut [f32],
    page: &mut [f32],
    first: u32,
    elements: u32,
    offset: u32,
    half: u32,
    step: &Step,
) {
    let i = ABSOLUTE_POS as u32;
    if i < elements {
        let at = (first + i) as usize;
        let first_moment = (offset + i) as usize;
        let second_moment = (offset + half + i) as usize;
        let g = grad[at];
        let m = page[first_moment];
        let m = m + step.rate_1 * (g - m);
        let v = page[second_moment] * step.beta_2 + step.rate_2 * g * g;
        page[first_moment] = m;
        page[second_moment] = v;
        output[at] = updated(param[at], m, v, step);
    }
}
