//! The sum of all scales, in an order that does not depend on the device.
//!
//! The order is the host implementation's: the list is replaced by the sums of its groups of 256 until one is
//! left; within a group (filled up with zeros) entry `i` takes up entry `i + 128`, then `i + 64` of
//! those left, and so on.
//!
//! Roofline: reads 4 bytes a block, 1/64 of the weight: bound by the launches, of which two add up 65536
//! scales. Launch: one cube of 128 units a group.

use cubecl::prelude::*;
use cubecl::server::Handle;

use super::buffer;

const GROUP: usize = 256;
const UNITS: usize = GROUP / 2;

/// The bits of the sum of the `len` f32 bit patterns in `values`, one word.
pub(super) fn launch(client: &Client, values: &Handle, len: usize) -> Handle {
    let (mut values, mut len) = (values.clone(), len);
    while len > 1 {
        let groups = len.div_ceil(GROUP);
        let output = client.empty(4 * groups);
        let cube_dim = CubeDim::new_1d(UNITS as u32);
        // SAFETY: the kernel guards every access by the two lengths.
        unsafe {
            sum_kernel::launch_unchecked(
                client,
                cubecl::calculate_cube_count_elemwise(client, groups * UNITS, cube_dim),
                cube_dim,
                buffer(&values, len),
                buffer(&output, groups),
                len as u32,
                groups as u32,
            );
        }
        (values, len) = (output, groups);
    }
    values
}

#[cube(launch_unchecked)]
fn sum_kernel(values: &[u32], output: &mut [u32], len: u32, groups: u32) {
    let mut lanes = Shared::<[f32]>::new_slice(UNITS);
    let group = CUBE_POS as u32;
    let low = group * comptime!(GROUP as u32) + UNIT_POS;
    let high = low + comptime!(UNITS as u32);
    let mut sum = f32::new(0.0);
    if low < len {
        sum = f32::from_bits(values[low as usize]);
    }
    if high < len {
        sum += f32::from_bits(values[high as usize]);
    }
    lanes[UNIT_POS as usize] = sum;
    sync_cube();
    #[unroll]
    for level in 0..7usize {
        let half = comptime!(UNITS as u32 >> (level + 1));
        if UNIT_POS < half {
            let other = lanes[(UNIT_POS + half) as usize];
            lanes[UNIT_POS as usize] += other;
        }
        sync_cube();
    }
    if UNIT_POS == 0 && group < groups {
        output[group as usize] = lanes[0].to_bits();
    }
}
