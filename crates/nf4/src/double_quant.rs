//! The offset of double quantization (QLoRA §3).

use crate::layout::NESTED_BLOCK;

/// Returns the mean of all scales, summed in an order that is the same everywhere and suits a GPU.
///
/// The list is replaced by the sums of its groups of 256 consecutive entries until one is left; a short group is
/// filled with zeros. Within a group entry `i + 128` is added to entry `i`, then (of those left) `i + 64`, and so on down
/// to `i + 1`. The total is multiplied by the f32 reciprocal of the count. All in f32.
pub fn mean(scales: &[f32]) -> f32 {
    if scales.is_empty() {
        return 0.0;
    }
    let mut sums: Vec<f32> = scales.chunks(NESTED_BLOCK).map(group_sum).collect();
    while sums.len() > 1 {
        sums = sums.chunks(NESTED_BLOCK).map(group_sum).collect();
    }
    sums[0] * (1.0 / scales.len() as f32)
}

fn group_sum(group: &[f32]) -> f32 {
    let mut lanes = [0.0; NESTED_BLOCK];
    lanes[..group.len()].copy_from_slice(group);
    let mut half = NESTED_BLOCK / 2;
    while half > 0 {
        let (low, high) = lanes.split_at_mut(half);
        low.iter_mut()
            .zip(&*high)
            .for_each(|(low, high)| *low += high);
        half /= 2;
    }
    lanes[0]
}
