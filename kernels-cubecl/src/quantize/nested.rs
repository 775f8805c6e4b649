//! Double quantization: the scales, less their mean, to 8 bits in blocks of 256.
//!
//! Roofline: a 64th of the weight's traffic: bound by the launch. Launch: one nested block a unit, or a share of
//! them a thread.

use cubecl::prelude::*;
use cubecl::server::Handle;
use nf4::{Layout, NESTED_BLOCK, NESTED_MAP};

use crate::launch::LaunchConfig;
use crate::operand::buffer;
use crate::rounding::{divides_exactly, reciprocal, rounded};

/// Units of a cube.
const UNITS: u32 = 64;
/// Words of a nested block's codes.
const WORDS: usize = NESTED_BLOCK / 4;

/// Fills all sections of `absmax` from the scales' bits and the bits of their sum.
pub(super) fn launch(
    client: &Client,
    scales: &Handle,
    total: &Handle,
    absmax: &Handle,
    layout: Layout,
) {
    let map = client.create_from_slice(f32::as_bytes(nf4::dynamic_map()));
    let blocks = layout.blocks();
    let config = LaunchConfig::new(client, layout.nested_blocks(), UNITS);
    // SAFETY: the kernel guards every access by the number of blocks; sections and map are as long
    // as they are declared.
    unsafe {
        nested_kernel::launch_unchecked(
            client,
            config.cubes,
            config.cube_dim,
            buffer(scales, blocks),
            buffer(total, 1),
            buffer(&map, NESTED_MAP),
            buffer(absmax, layout.absmax_words()),
            NestedSizesLaunch::new(
                blocks as u32,
                // Divided here, where division is exact.
                1.0 / blocks as f32,
                layout.nested_words().start as u32,
                layout.offset_word() as u32,
                config.per_unit,
                0,
            ),
            divides_exactly(client),
        );
    }
}

/// The scales and their sections in a kernel.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct NestedSizes {
    blocks: u32,
    /// `1 / blocks`.
    inverse_count: f32,
    /// First nested scale.
    nested: u32,
    /// The offset; the 8-bit map follows it.
    offset: u32,
    per_unit: u32,
    /// Always 0, which no compiler can know: see [`rounded`].
    zero: u32,
}

#[cube(launch_unchecked)]
fn nested_kernel(
    scales: &[u32],
    total: &[u32],
    map: &[f32],
    absmax: &mut [u32],
    sizes: &NestedSizes,
    #[comptime] exact_division: bool,
) {
    let mean = rounded(f32::from_bits(total[0]) * sizes.inverse_count, sizes.zero);
    let blocks = sizes.blocks;
    let nested_blocks = sizes.offset - sizes.nested;
    let first_block = ABSOLUTE_POS as u32 * sizes.per_unit;
    let end_block = min(first_block + sizes.per_unit, nested_blocks);
    for nested_block in first_block..end_block {
        let start = nested_block * comptime!(NESTED_BLOCK as u32);
        let end = min(start + comptime!(NESTED_BLOCK as u32), blocks);
        let mut scale = f32::new(0.0);
        for block in start..end {
            scale = max(scale, (f32::from_bits(scales[block as usize]) - mean).abs());
        }
        let inverse = reciprocal(scale, exact_division);
        for w in 0..comptime!(WORDS as u32) {
            let first = start + w * 4;
            if first < blocks {
                let mut word = 0u32;
                #[unroll]
                for i in 0..4usize {
                    if first + comptime!(i as u32) < blocks {
                        let centred = f32::from_bits(scales[first as usize + i]) - mean;
                        word |= nearest(map, centred * inverse, scale) << comptime!(8 * i as u32);
                    }
                }
                absmax[(first >> 2) as usize] = word;
            }
        }
        absmax[(sizes.nested + nested_block) as usize] = scale.to_bits();
    }
    if ABSOLUTE_POS == 0 {
        for entry in 0..NESTED_MAP {
            absmax[sizes.offset as usize + 1 + entry] = map[entry].to_bits();
        }
        absmax[sizes.offset as usize] = mean.to_bits();
    }
}

/// Returns the number of midpoints of `map` strictly below `scaled`; 0 in a block whose scale is 0.
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
