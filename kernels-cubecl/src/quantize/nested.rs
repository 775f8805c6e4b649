//! Double quantization: the scales, less their mean, to 8 bits in blocks of 256.
//!
//! Roofline: a 64th of the weight's traffic: bound by the launch. Launch: one cube of 64 units a
//! nested block, four scales (one word of codes) a unit.

use cubecl::prelude::*;
use cubecl::server::Handle;

use super::buffer;
use crate::format::{NESTED_MAP, Sections};
use crate::rounding::{reciprocal, rounded};

/// Four scales a unit fill a nested block.
const UNITS: u32 = 64;

/// Fills all sections of `absmax` from the scales' bits and the bits of their sum.
pub(super) fn launch(
    client: &Client,
    scales: &Handle,
    total: &Handle,
    map: &[f32; NESTED_MAP],
    absmax: &Handle,
    sections: &Sections,
) {
    let map = client.create_from_slice(f32::as_bytes(map));
    let cube_dim = CubeDim::new_1d(UNITS);
    let cubes = sections.nested_blocks * UNITS as usize;
    // SAFETY: the kernel guards every access by the number of blocks; sections and map are as long
    // as they are declared.
    unsafe {
        nested_kernel::launch_unchecked(
            client,
            cubecl::calculate_cube_count_elemwise(client, cubes, cube_dim),
            cube_dim,
            buffer(scales, sections.blocks),
            buffer(total, 1),
            buffer(&map, NESTED_MAP),
            buffer(absmax, sections.absmax_words),
            sections.blocks as u32,
            // Divided here, where division is exact.
            1.0 / sections.blocks as f32,
            sections.nested as u32,
            sections.offset as u32,
            0,
        );
    }
}

#[cube(launch_unchecked)]
fn nested_kernel(
    scales: &[u32],
    total: &[u32],
    map: &[f32],
    absmax: &mut [u32],
    blocks: u32,
    inverse_count: f32,
    nested: u32,
    offset: u32,
    zero: u32,
) {
    let nested_block = CUBE_POS as u32;
    let unit = UNIT_POS;
    let mut maxima = Shared::<[f32]>::new_slice(comptime!(UNITS as usize));
    let mean = rounded(f32::from_bits(total[0]) * inverse_count, zero);

    let first = nested_block * 256 + unit * 4;
    let mut centred = Array::<f32>::new(4usize);
    let mut largest = f32::new(0.0);
    #[unroll]
    for i in 0..4usize {
        let mut value = f32::new(0.0);
        if first + comptime!(i as u32) < blocks {
            value = f32::from_bits(scales[first as usize + i]) - mean;
        }
        centred[i] = value;
        largest = max(largest, value.abs());
    }
    maxima[unit as usize] = largest;
    sync_cube();

    let mut scale = f32::new(0.0);
    for other in 0..comptime!(UNITS as usize) {
        scale = max(scale, maxima[other]);
    }
    let inverse = reciprocal(scale);
    if first < blocks {
        let mut word = 0u32;
        #[unroll]
        for i in 0..4usize {
            if first + comptime!(i as u32) < blocks {
                word |= nearest(map, centred[i] * inverse, scale) << comptime!(8 * i as u32);
            }
        }
        absmax[(first >> 2) as usize] = word;
        if unit == 0 {
            absmax[(nested + nested_block) as usize] = scale.to_bits();
        }
    }
    if nested_block == 0 {
        #[unroll]
        for i in 0..4usize {
            let entry = unit as usize * 4 + i;
            absmax[offset as usize + 1 + entry] = map[entry].to_bits();
        }
        if unit == 0 {
            absmax[offset as usize] = mean.to_bits();
        }
    }
}

/// The number of midpoints of `map` strictly below `scaled`; 0 in a block whose scale is 0.
#[cube]
fn nearest(map: &[f32], scaled: f32, scale: f32) -> u32 {
    let mut code = 0u32;
    if scale > 0.0 {
        #[unroll]
        for level in 0..8usize {
            let step = comptime!(128u32 >> level);
            let below = (code + step - 1) as usize;
            let midpoint = (map[below] + map[below + 1]) * 0.5;
            if midpoint < scaled {
                code += step;
            }
        }
    }
    code
}
