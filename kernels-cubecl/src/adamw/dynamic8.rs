//! The update with moments in blocks of 8-bit codes (bitsandbytes `kOptimizerStatic8bit2StateBlockwise`).
//!
//! Roofline: 10 bytes read and 6 written an element, against two searches of eight steps: bound by the searches
//! on small devices and by memory on large ones. Launch: one cube of 64 units a block of 256, four elements (one word
//! of codes of either moment) a unit.

use cubecl::prelude::*;
use cubecl::server::Handle;

use super::{Factors, KernelFactors, Run, updated};
use crate::error::{KernelError, check_size};
use crate::quantize::buffer;

/// Elements of a block.
pub const BLOCK: usize = 256;

/// Words of a block: the codes of the first moments, those of the second, and the two scales.
pub const BLOCK_WORDS: usize = 2 * BLOCK / 4 + 2;

/// Four elements a unit fill a block.
const UNITS: u32 = 64;

/// Entries of both maps.
const MAPS: usize = 512;

/// Updates one run of blocks. As the update of f32 moments; `maps` are the 256 entries of the map of
/// the first moment, rising, and those of the second.
///
/// # Errors
/// [`KernelError::TooLarge`].
pub fn update(
    client: &Client,
    [param, grad, output]: [&Handle; 3],
    page: &Handle,
    maps: &Handle,
    run: Run,
    factors: Factors,
) -> Result<(), KernelError> {
    check_size("parameter", run.parameter)?;
    check_size("page", run.page_words)?;
    if run.elements == 0 {
        return Ok(());
    }
    let cube_dim = CubeDim::new_1d(UNITS);
    let units = run.elements.div_ceil(BLOCK) * UNITS as usize;
    // SAFETY: the kernel guards every access by the number of elements; a run lies in its page and its
    // parameter, whose sizes the caller states.
    unsafe {
        update_kernel::launch_unchecked(
            client,
            cubecl::calculate_cube_count_elemwise(client, units, cube_dim),
            cube_dim,
            buffer(param, run.parameter),
            buffer(grad, run.parameter),
            buffer(output, run.parameter),
            buffer(page, run.page_words),
            buffer(maps, MAPS),
            run.first as u32,
            run.elements as u32,
            run.offset as u32,
            super::launch_arg(factors),
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
    page: &mut [u32],
    maps: &[f32],
    first: u32,
    elements: u32,
    offset: u32,
    factors: &KernelFactors,
) {
    let unit = UNIT_POS;
    let begin = CUBE_POS as u32 * 256 + unit * 4;
    let words = offset + CUBE_POS as u32 * comptime!(BLOCK_WORDS as u32);
    let codes_1 = (words + unit) as usize;
    let codes_2 = (words + 64 + unit) as usize;
    let mut maxima_1 = Shared::<[f32]>::new_slice(comptime!(UNITS as usize));
    let mut maxima_2 = Shared::<[f32]>::new_slice(comptime!(UNITS as usize));
    let mut m = Array::<f32>::new(4usize);
    let mut v = Array::<f32>::new(4usize);
    let mut largest_1 = f32::new(0.0);
    let mut largest_2 = f32::new(0.0);
    if begin < elements {
        let scale_1 = f32::from_bits(page[(words + 128) as usize]);
        let scale_2 = f32::from_bits(page[(words + 129) as usize]);
        let word_1 = page[codes_1];
        let word_2 = page[codes_2];
        #[unroll]
        for i in 0..4usize {
            let mut new_m = f32::new(0.0);
            let mut new_v = f32::new(0.0);
            if begin + comptime!(i as u32) < elements {
                let at = (first + begin) as usize + i;
                let code_1 = (word_1 >> comptime!(8 * i as u32)) & 255;
                let code_2 = (word_2 >> comptime!(8 * i as u32)) & 255;
                let g = grad[at];
                let old = maps[code_1 as usize] * scale_1;
                new_m = old + factors.rate_1 * (g - old);
                new_v = maps[(256 + code_2) as usize] * scale_2 * factors.beta_2
                    + factors.rate_2 * g * g;
                output[at] = updated(param[at], new_m, new_v, factors);
            }
            m[i] = new_m;
            v[i] = new_v;
            largest_1 = max(largest_1, new_m.abs());
            largest_2 = max(largest_2, new_v.abs());
        }
    }
    maxima_1[unit as usize] = largest_1;
    maxima_2[unit as usize] = largest_2;
    sync_cube();

    let mut scale_1 = f32::new(0.0);
    let mut scale_2 = f32::new(0.0);
    for other in 0..comptime!(UNITS as usize) {
        scale_1 = max(scale_1, maxima_1[other]);
        scale_2 = max(scale_2, maxima_2[other]);
    }
    if begin < elements {
        let mut word_1 = 0u32;
        let mut word_2 = 0u32;
        #[unroll]
        for i in 0..4usize {
            if begin + comptime!(i as u32) < elements {
                word_1 |= code(maps, 0u32, m[i], scale_1) << comptime!(8 * i as u32);
                word_2 |= code(maps, 256u32, v[i], scale_2) << comptime!(8 * i as u32);
            }
        }
        page[codes_1] = word_1;
        page[codes_2] = word_2;
        if unit == 0 {
            page[(words + 128) as usize] = scale_1.to_bits();
            page[(words + 129) as usize] = scale_2.to_bits();
        }
    }
}

/// The code of the entry nearest to `value / scale` in the map at `map`, the lower of two equally near, but never one
/// of the other sign; 0 in a block of zeros.
#[cube]
fn code(maps: &[f32], map: u32, value: f32, scale: f32) -> u32 {
    let mut code = 0u32;
    if scale > 0.0 {
        let relative = value / scale;
        #[unroll]
        for level in 0..8usize {
            let step = comptime!(128u32 >> level);
            let below = (map + code + step - 1) as usize;
            let midpoint = (maps[below] + maps[below + 1]) * 0.5;
            if midpoint < relative {
                code += step;
            }
        }
        let entry = maps[(map + code) as usize];
        if entry < 0.0 && relative > 0.0 {
            code += 1;
        } else if entry > 0.0 && relative < 0.0 {
            code -= 1;
        }
    }
    code
}
