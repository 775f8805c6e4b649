//! The running softmax over the keys of each query.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::{
    KernelSizes, LOWEST, Operands, Query, Split, add_row, dot, load_row, store_row, zeroed,
};
use crate::error::KernelError;

/// Keys between two looks at the maximum.
const TILE: usize = 4;

/// Attention like `q`, and the log-sum-exp of each row of scores, f32 `[batch, q_len, heads]`.
///
/// # Errors
/// [`KernelError::UnsupportedType`], [`KernelError::TooLarge`].
pub fn forward(client: &Client, operands: Operands<'_>) -> Result<(Handle, Handle), KernelError> {
    operands.check(client)?;
    let Operands {
        q,
        k,
        v,
        dtype,
        sizes,
        scale,
        ..
    } = operands;
    let split = Split::new(client, dtype, sizes.head_dim);
    let y = client.empty(sizes.q_elements() * dtype.size());
    let lse = client.empty(4 * sizes.rows());
    let (starts, starts_dtype) = operands.starts_arg();
    // SAFETY: the kernel clamps queries and keys to those there are, and writes only what was asked for.
    unsafe {
        forward_kernel::launch_unchecked(
            client,
            split.cubes(sizes.q_len, sizes.heads, sizes.batch),
            split.cube_dim(),
            split.size,
            operands.like_q(q),
            operands.like_k(k),
            operands.like_k(v),
            starts,
            operands.like_q(&y),
            operands.one_a_row(&lse),
            sizes.launch_arg(),
            scale,
            operands.starts.is_some(),
            split.lanes,
            split.vectors,
            dtype,
            starts_dtype,
        );
    }
    Ok((y, lse))
}

#[cube(launch_unchecked)]
fn forward_kernel<F: Float, I: Int, N: Size>(
    q: &[Vector<F, N>],
    k: &[Vector<F, N>],
    v: &[Vector<F, N>],
    starts: &[I],
    y: &mut [Vector<F, N>],
    lse: &mut [f32],
    sizes: &KernelSizes,
    scale: f32,
    #[comptime] packed: bool,
    #[comptime] lanes: usize,
    #[comptime] vectors: usize,
    #[define(F)] _dtype: ElemType,
    #[define(I)] _starts_dtype: ElemType,
) {
    let query = Query::new::<I>(sizes, starts, packed);
    let q = load_row::<F, N>(q, query.row, scale, lanes, vectors);
    let mut out = zeroed::<N>(vectors);
    let mut maximum = f32::new(LOWEST);
    let mut sum = f32::new(0.0);
    let mut tile = 0u32;
    while tile < query.end {
        let before = maximum;
        let mut scores = Array::<f32>::new(TILE);
        #[unroll]
        for t in 0..TILE {
            let key = tile + comptime!(t as u32);
            let key_row = sizes.key_row(min(key, sizes.kv_len - 1), query.kv_head);
            let score = dot::<F, N>(&q, k, key_row, lanes, vectors);
            scores[t] = select(query.sees(key), score, f32::new(LOWEST));
            maximum = max(maximum, scores[t]);
        }
        let factor = (before - maximum).exp();
        sum *= factor;
        #[unroll]
        for i in 0..vectors {
            out[i] *= Vector::new(factor);
        }
        #[unroll]
        for t in 0..TILE {
            let key = tile + comptime!(t as u32);
            let key_row = sizes.key_row(min(key, sizes.kv_len - 1), query.kv_head);
            let p = (scores[t] - maximum).exp();
            let p = select(query.sees(key), p, f32::new(0.0));
            sum += p;
            add_row::<F, N>(&mut out, p, v, key_row, lanes, vectors);
        }
        tile += comptime!(TILE as u32);
    }
    if query.exists {
        store_row::<F, N>(y, query.row, &out, f32::new(1.0) / sum, lanes, vectors);
        if UNIT_POS_X == 0 {
            lse[query.row as usize] = sum.ln() + maximum;
        }
    }
}
