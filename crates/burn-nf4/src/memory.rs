//! The bytes of a LoRA layer on every backend but Flex: on CubeCL's devices those of their kernels, else those of the layer
//! composed of products. The words on the host and the tile of a backend without kernels are not among them.
//!
//! `m` rows, a matrix whose `widths` are `[in_features, out_features]`, and `x` in `dtype_bytes`. In `u128`, for a plan may
//! ask for sizes that no device has.

/// Returns the bytes that the backward pass of [`BlockwiseOps::blockwise_lora_matmul`](crate::BlockwiseOps::blockwise_lora_matmul) needs beside
/// weight and factors: `x`, which others may keep too.
pub const fn lora_saved_bytes(m: u128, in_features: u128, dtype_bytes: u128) -> u128 {
    m * in_features * dtype_bytes
}

/// Returns the most bytes that the backward pass takes beside operands and results, with a matrix in any format: no kernel
/// decodes more of it than into registers, caches or shared memory.
pub fn lora_backward_workspace_bytes(
    m: u128,
    widths: [u128; 2],
    rank: u128,
    dtype_bytes: u128,
) -> u128 {
    // Fusion runs the default bodies.
    #[cfg(all(feature = "cubecl-backend", not(feature = "fusion")))]
    {
        let ([from, to], _) = (widths.map(|width| width as usize), dtype_bytes);
        let (m, rank) = (m as usize, rank as usize);
        qlora_cubecl::matmul::low_rank::backward_workspace_bytes(m, [to, from], rank)
    }
    #[cfg(any(not(feature = "cubecl-backend"), feature = "fusion"))]
    crate::reference::backward_workspace_bytes(m, widths, rank, dtype_bytes)
}
