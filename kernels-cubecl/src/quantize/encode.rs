//! The code of each element.
//!
//! Roofline: reads 4 bytes an element and writes half a byte, 15 comparisons each: bound by the
//! reads. Launch: one unit a packed word (eight elements).

use cubecl::prelude::*;
use cubecl::server::Handle;

use super::buffer;
use crate::format::{CodeTable, Format};

const UNITS: u32 = 256;

/// Writes the packed codes; positions beyond the last element get code 0.
pub(super) fn launch(
    client: &Client,
    values: &Handle,
    reciprocals: &Handle,
    packed: &Handle,
    elements: usize,
    format: &Format,
) {
    let words = elements.div_ceil(8);
    let cube_dim = CubeDim::new_1d(UNITS);
    // SAFETY: the kernel guards every access by the number of elements and words.
    unsafe {
        encode_kernel::launch_unchecked(
            client,
            cubecl::calculate_cube_count_elemwise(client, words, cube_dim),
            cube_dim,
            buffer(values, elements),
            buffer(reciprocals, elements.div_ceil(format.block_size)),
            buffer(packed, words),
            elements as u32,
            format.block_size.trailing_zeros(),
            format.table,
        );
    }
}

#[cube(launch_unchecked)]
fn encode_kernel(
    values: &[f32],
    reciprocals: &[f32],
    packed: &mut [u32],
    elements: u32,
    block_shift: u32,
    #[comptime] codes: CodeTable,
) {
    let first = ABSOLUTE_POS as u32 * 8;
    if first < elements {
        // Blocks are multiples of eight, so a word lies in one.
        let reciprocal = reciprocals[(first >> block_shift) as usize];
        let mut word = 0u32;
        for i in 0..min(8u32, elements - first) {
            let scaled = values[(first + i) as usize] * reciprocal;
            word |= encode(scaled, codes) << (i * 4);
        }
        packed[ABSOLUTE_POS] = word;
    }
}

/// The code of the value nearest to `scaled`, the lower of two equally near.
#[cube]
fn encode(scaled: f32, #[comptime] codes: CodeTable) -> u32 {
    let mut code = u32::new(comptime!(codes.codes_by_rank[0] as i64));
    #[unroll]
    for rank in 0..15usize {
        if scaled > f32::new(comptime!(f32::from_bits(codes.midpoints[rank]))) {
            code = u32::new(comptime!(codes.codes_by_rank[rank + 1] as i64));
        }
    }
    code
}
