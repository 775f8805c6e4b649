//! The update with moments in blocks of 8-bit codes (bitsandbytes `kOptimizerStatic8bit2StateBlockwise`).
//!
//! Roofline: 10 bytes read and 6 written an element, against two searches of eight steps: bound by the searches
//! on small devices and by memory on large ones. Launch: one cube of 64 units a block of 256, four elements (one word
//! of codes of either moment) a unit; on a CPU one unit a block.

use cubecl::bytes::Bytes;
use cubecl::prelude::*;
use cubecl::server::Handle;
use nf4::adamw::{AdamWStep, BLOCK, BLOCK_BYTES};

use super::{Run, Step, launch_arg, updated};
use crate::error::{KernelError, check_size};
use crate::operand::buffer;

/// Words of a block: the codes of the first moments, those of the second, and the two scales.
const BLOCK_WORDS: usize = BLOCK_BYTES / 4;

/// Words of codes of either moment.
const CODE_WORDS: usize = BLOCK / 4;

/// Entries of both maps.
const MAPS: usize = 512;

/// Uploads the maps that [`update_dynamic8`] codes moments with: the 256 entries of the signed dynamic map, rising, and those
/// of the unsigned one.
pub fn dynamic_maps(client: &Client) -> Handle {
    let maps = [nf4::dynamic_map(), nf4::dynamic_map_unsigned()];
    let values: Vec<f32> = maps.into_iter().flatten().copied().collect();
    client.create(Bytes::from_elems(values))
}

/// Updates one run of blocks, which [`BLOCK_BYTES`] lays out. As [`update_f32`](super::update_f32); `maps` are
/// [`dynamic_maps`].
///
/// # Errors
/// [`KernelError::TooLarge`].
pub fn update_dynamic8(
    client: &Client,
    [param, grad, output]: [&Handle; 3],
    page: &Handle,
    maps: &Handle,
    run: Run,
    step: AdamWStep,
) -> Result<(), KernelError> {
    check_size("parameter", run.parameter)?;
    check_size("page", run.page_words)?;
    if run.elements == 0 {
        return Ok(());
    }
    // On a CPU the units of a cube that synchronize are threads of the system, as many as there are units.
    let units = match client.properties().hardware.num_cpu_cores {
        Some(_) => 1,
        None => CODE_WORDS,
    };
    let cube_dim = CubeDim::new_1d(units as u32);
    let all_units = run.elements.div_ceil(BLOCK) * units;
    // SAFETY: the kernel guards every access by the number of elements; a run lies in its page and its
    // parameter, whose sizes the caller states.
    unsafe {
        update_kernel::launch_unchecked(
            client,
            cubecl::calculate_cube_count_elemwise(client, all_units, cube_dim),
            cube_dim,
            buffer(param, run.parameter),
            buffer(grad, run.parameter),
            buffer(output, run.parameter),
            buffer(page, run.page_words),
            buffer(maps, MAPS),
            run.first as u32,
            run.elements as u32,
            run.offset as u32,
            launch_arg(step),
            units,
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
    step: &Step,
    #[comptime] units: usize,
) {
    let per_unit = comptime!(CODE_WORDS / units);
    let begin = CUBE_POS as u32 * comptime!(BLOCK as u32);
    let words = offset + CUBE_POS as u32 * comptime!(BLOCK_WORDS as u32);
    let scales = (words + comptime!(2 * CODE_WORDS as u32)) as usize;
    let mut m = Array::<f32>::new(comptime!(4 * per_unit));
    let mut v = Array::<f32>::new(comptime!(4 * per_unit));
    let mut largest_1 = f32::new(0.0);
    let mut largest_2 = f32::new(0.0);
    if begin < elements {
        let scale_1 = f32::from_bits(page[scales]);
        let scale_2 = f32::from_bits(page[scales + 1]);
        #[unroll(per_unit == 1)]
        for nth in 0..per_unit {
            let word = UNIT_POS + nth as u32 * comptime!(units as u32);
            let word_1 = page[(words + word) as usize];
            let word_2 = page[(words + comptime!(CODE_WORDS as u32) + word) as usize];
            #[unroll]
            for i in 0..4usize {
                let mut new_m = f32::new(0.0);
                let mut new_v = f32::new(0.0);
                let element = begin + word * 4 + comptime!(i as u32);
                if element < elements {
                    let at = (first + element) as usize;
                    let code_1 = (word_1 >> comptime!(8 * i as u32)) & 255;
                    let code_2 = (word_2 >> comptime!(8 * i as u32)) & 255;
                    let g = grad[at];
                    let old = maps[code_1 as usize] * scale_1;
                    new_m = old + step.rate_1 * (g - old);
                    new_v =
                        maps[(256 + code_2) as usize] * scale_2 * step.beta_2 + step.rate_2 * g * g;
                    output[at] = updated(param[at], new_m, new_v, step);
                }
                m[nth * 4 + i] = new_m;
                v[nth * 4 + i] = new_v;
                largest_1 = max(largest_1, new_m.abs());
                largest_2 = max(largest_2, new_v.abs());
            }
        }
    }
    let scale_1 = largest_of_cube(largest_1, units);
    let scale_2 = largest_of_cube(largest_2, units);

    if begin < elements {
        #[unroll(per_unit == 1)]
        for nth in 0..per_unit {
            let word = UNIT_POS + nth as u32 * comptime!(units as u32);
            let mut word_1 = 0u32;
            let mut word_2 = 0u32;
            #[unroll]
            for i in 0..4usize {
                if begin + word * 4 + comptime!(i as u32) < elements {
                    let shift = comptime!(8 * i as u32);
                    word_1 |= code(maps, 0u32, m[nth * 4 + i], scale_1) << shift;
                    word_2 |= code(maps, 256u32, v[nth * 4 + i], scale_2) << shift;
                }
            }
            page[(words + word) as usize] = word_1;
            page[(words + comptime!(CODE_WORDS as u32) + word) as usize] = word_2;
        }
        if UNIT_POS == 0 {
            page[scales] = scale_1.to_bits();
            page[scales + 1] = scale_2.to_bits();
        }
    }
}

/// Returns the largest `value` of all units of the cube.
#[cube]
fn largest_of_cube(value: f32, #[comptime] units: usize) -> f32 {
    let mut largest = value;
    if comptime!(units > 1) {
        let mut values = Shared::<[f32]>::new_slice(units);
        values[UNIT_POS as usize] = value;
        sync_cube();
        for other in 0..units {
            largest = max(largest, values[other]);
        }
    }
    largest
}

/// Returns the code of the entry nearest to `value / scale` in the map at `map`, the lower of two equally near, but never
/// one of the other sign; 0 in a block of zeros.
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
