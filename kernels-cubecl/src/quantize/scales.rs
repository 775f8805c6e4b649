//! The scale of each block and its reciprocal.
//!
//! Roofline: reads 4 bytes an element once, one comparison each: bound by the reads. Launch: one
//! unit a block; neighbouring units read a block apart, which caches absorb at the default 64.

use cubecl::prelude::*;
use cubecl::server::Handle;

use super::buffer;
use crate::format::Format;
use crate::rounding::reciprocal;

const UNITS: u32 = 64;

/// Writes the bits of the largest magnitude of each block to `scales`, its reciprocal to
/// `reciprocals`.
pub(super) fn launch(
    client: &Client,
    values: &Handle,
    scales: &Handle,
    reciprocals: &Handle,
    elements: usize,
    format: &Format,
) {
    let blocks = elements.div_ceil(format.block_size);
    let cube_dim = CubeDim::new_1d(UNITS);
    // SAFETY: the kernel guards every access by the number of elements and blocks.
    unsafe {
        scales_kernel::launch_unchecked(
            client,
            cubecl::calculate_cube_count_elemwise(client, blocks, cube_dim),
            cube_dim,
            buffer(values, elements),
            buffer(scales, blocks),
            buffer(reciprocals, blocks),
            elements as u32,
            format.block_size as u32,
        );
    }
}

#[cube(launch_unchecked)]
fn scales_kernel(
    values: &[f32],
    scales: &mut [u32],
    reciprocals: &mut [f32],
    elements: u32,
    block_size: u32,
) {
    let block = ABSOLUTE_POS as u32;
    let start = block * block_size;
    if start < elements {
        let end = min(start + block_size, elements);
        let mut absmax = f32::new(0.0);
        for i in start..end {
            absmax = max(absmax, values[i as usize].abs());
        }
        scales[block as usize] = absmax.to_bits();
        reciprocals[block as usize] = reciprocal(absmax);
    }
}
