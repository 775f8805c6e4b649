//! The sum of all scales, in an order that does not depend on the device.
//!
//! The order is the host implementation's: the list is replaced by the sums of its groups of 256 until one is
//! left; within a group (filled up with zeros) entry `i` takes up entry `i + 128`, then `i + 64` of
//! those left, and so on.
//!
//! Roofline: reads 4 bytes a block, 1/64 of the weight: bound by the launches, of which two add up 65536
//! scales. Launch: one group a unit, or a share of them a thread.

use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::launch::LaunchConfig;
use crate::operand::buffer;

const GROUP: usize = 256;
const HALF: usize = GROUP / 2;
/// Units of a cube.
const UNITS: u32 = 64;

/// Returns the bits of the sum of the `len` f32 bit patterns in `values`, one word.
pub(super) fn launch(client: &Client, values: &Handle, len: usize) -> Handle {
    let (mut values, mut len) = (values.clone(), len);
    while len > 1 {
        let groups = len.div_ceil(GROUP);
        let output = client.empty(4 * groups);
        let config = LaunchConfig::new(client, groups, UNITS);
        // SAFETY: the kernel guards every access by the two lengths.
        unsafe {
            sum_kernel::launch_unchecked(
                client,
                config.cubes,
                config.cube_dim,
                buffer(&values, len),
                buffer(&output, groups),
                len as u32,
                groups as u32,
                config.per_unit,
            );
        }
        (values, len) = (output, groups);
    }
    values
}

#[cube(launch_unchecked)]
fn sum_kernel(values: &[u32], output: &mut [u32], len: u32, groups: u32, per_unit: u32) {
    let first_group = ABSOLUTE_POS as u32 * per_unit;
    let end_group = min(first_group + per_unit, groups);
    for group in first_group..end_group {
        let mut sums = Array::<f32>::new(HALF);
        for i in 0..HALF {
            let low = group * comptime!(GROUP as u32) + i as u32;
            sums[i] = value_or_zero(values, low, len)
                + value_or_zero(values, low + comptime!(HALF as u32), len);
        }
        #[unroll]
        for level in 1..8usize {
            let half = comptime!(HALF >> level);
            for i in 0..half {
                let other = sums[i + half];
                sums[i] += other;
            }
        }
        output[group as usize] = sums[0].to_bits();
    }
}

#[cube]
fn value_or_zero(values: &[u32], position: u32, len: u32) -> f32 {
    let mut value = f32::new(0.0);
    if position < len {
        value = f32::from_bits(values[position as usize]);
    }
    value
}
