//! The dynamic 8-bit maps that bitsandbytes quantizes scales and optimizer state with.

use std::sync::OnceLock;

use crate::layout::NESTED_MAP;

/// Returns the 256 values of the 8-bit codes, rising: 0, 1, and for each decade from 1e-6 to 1 the midpoints of evenly
/// spaced edges from 0.1 to 1, positive and negative (bitsandbytes `create_dynamic_map(signed=True)`), bit for bit.
///
/// Only for quantizing: a checkpoint carries its own map.
pub fn dynamic_map() -> &'static [f32; NESTED_MAP] {
    static MAP: OnceLock<[f32; NESTED_MAP]> = OnceLock::new();
    MAP.get_or_init(|| create(true))
}

/// Returns the map without negative values and with twice as many positive ones (`signed=False`), which bitsandbytes'
/// 8-bit optimizers code second moments with.
pub fn dynamic_map_unsigned() -> &'static [f32; NESTED_MAP] {
    static MAP: OnceLock<[f32; NESTED_MAP]> = OnceLock::new();
    MAP.get_or_init(|| create(false))
}

fn create(signed: bool) -> [f32; NESTED_MAP] {
    let mut map = [0.0; NESTED_MAP];
    // The first two stay 0 and 1, which the decades do not have.
    map[1] = 1.0;
    let mut next = 2;
    for exponent in -6..=0 {
        let decade = 10f64.powi(exponent) as f32;
        let bits = exponent + if signed { 6 } else { 7 };
        let count = (1 << bits) + 1;
        for i in 0..count - 1 {
            let value = decade * ((edge(i, count) + edge(i + 1, count)) / 2.0);
            map[next] = value;
            next += 1;
            if signed {
                map[next] = -value;
                next += 1;
            }
        }
    }
    map.sort_by(f32::total_cmp);
    map
}

/// Returns edge `i` of `count` evenly spaced ones from 0.1 to 1, as torch's vectorised `linspace` rounds it: from
/// whichever end is nearer, with a fused multiply-add.
fn edge(i: u32, count: u32) -> f32 {
    let step = (1.0 - 0.1f32) / (count - 1) as f32;
    if i < count / 2 {
        step.mul_add(i as f32, 0.1)
    } else {
        (-step).mul_add((count - 1 - i) as f32, 1.0)
    }
}

/// Returns the 255 midpoints of a map, and an infinity to fill a power of two. The nearest entry to `s` is the number of
/// midpoints strictly below it: a tie takes the lower entry.
pub fn midpoints(map: &[f32; NESTED_MAP]) -> [f32; NESTED_MAP] {
    std::array::from_fn(|i| match map.get(i + 1) {
        Some(next) => 0.5 * (map[i] + next),
        None => f32::INFINITY,
    })
}
