//! The bytes of a LoRA layer where it is composed of products: on every backend but Flex.
//!
//! `m` rows, a matrix whose `widths` are `[in_features, out_features]`, and `x` in `dtype_bytes`. In `u128`, for a plan may
//! ask for sizes that no device has.

const F32: u128 = 4;

/// Returns the bytes that the backward pass of [`Nf4Ops::nf4_lora_matmul`](crate::Nf4Ops::nf4_lora_matmul) needs beside
/// weight and factors: `x`, which others may keep too.
pub const fn lora_saved_bytes(m: u128, in_features: u128, dtype_bytes: u128) -> u128 {
    m * in_features * dtype_bytes
}

/// Returns the bytes that the forward pass takes beside operands and result: a half-precision `x` in f32 and `x · A`, then
/// that and the branch's result in f32, then that and a copy in half precision.
pub fn lora_forward_workspace_bytes(
    m: u128,
    [in_features, out_features]: [u128; 2],
    rank: u128,
    dtype_bytes: u128,
) -> u128 {
    let xa = F32 * m * rank;
    let delta = F32 * m * out_features;
    (widened(m * in_features, dtype_bytes) + xa)
        .max(xa + delta)
        .max(delta + narrowed(m * out_features, dtype_bytes))
}

/// Returns the bytes that the backward pass takes beside operands and results: the gradient of `x · A` and, one after another,
/// the gradient in f32; the branch's part of `dx` in f32 and in half precision; `x` and the gradient in f32, and `x · A`.
pub fn lora_backward_workspace_bytes(
    m: u128,
    [in_features, out_features]: [u128; 2],
    rank: u128,
    dtype_bytes: u128,
) -> u128 {
    let xa = F32 * m * rank;
    let grad = widened(m * out_features, dtype_bytes);
    let delta = F32 * m * in_features + narrowed(m * in_features, dtype_bytes);
    let factors = widened(m * in_features, dtype_bytes) + grad + xa;
    xa + grad.max(delta).max(factors)
}

/// Returns the bytes of a copy in f32, if the elements are of less.
fn widened(elements: u128, dtype_bytes: u128) -> u128 {
    if dtype_bytes < F32 { F32 * elements } else { 0 }
}

/// Returns the bytes of a copy in half precision, if that is the dtype.
fn narrowed(elements: u128, dtype_bytes: u128) -> u128 {
    if dtype_bytes < F32 {
        dtype_bytes * elements
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_in_f32_needs_no_copies() {
        let (m, widths, rank) = (512, [4096, 11008], 16);
        let xa = 4 * m * rank;
        let forward = lora_forward_workspace_bytes(m, widths, rank, 4);
        assert_eq!(forward, xa + 4 * m * widths[1]);
        let backward = lora_backward_workspace_bytes(m, widths, rank, 4);
        assert_eq!(backward, xa + 4 * m * widths[0]);
    }

    #[test]
    fn a_layer_in_half_precision_widens_its_operands() {
        let (m, widths, rank) = (512, [4096, 11008], 16);
        let backward = lora_backward_workspace_bytes(m, widths, rank, 2);
        assert_eq!(backward, 4 * m * (widths[0] + widths[1] + 2 * rank));
    }
}
