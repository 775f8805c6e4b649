//! The gradients: with `p = exp(s − lse)`, `dv = pᵀ·g`, `ds = p ∘ (g·vᵀ − rowsum(g ∘ y))`, `dq = ds·k`, `dk = dsᵀ·q`. One
//! kernel goes through the keys of each query, another through the queries of each key; nothing is added up in memory.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::{KernelSizes, Operands, Query, Split, add_row, dot, load_row, store_row, zeroed};
use crate::error::KernelError;

/// The gradients of an attention's operands, like them.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// Of `q`.
    pub q: Handle,
    /// Of `k`.
    pub k: Handle,
    /// Of `v`.
    pub v: Handle,
}

/// The gradients from what [`forward`](super::forward()) returned, `y` and `lse`, and from the gradient of `y`, `grad`, both
/// like `q`.
///
/// # Errors
/// As [`forward`](super::forward()).
pub fn backward(
    client: &Client,
    operands: Operands<'_>,
    [y, lse, grad]: [&Handle; 3],
) -> Result<Gradients, KernelError> {
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
    let [(starts, starts_dtype), (starts_again, _)] = [(); 2].map(|()| operands.starts_arg());
    let gradients = Gradients {
        q: client.empty(sizes.q_elements() * dtype.size()),
        k: client.empty(sizes.kv_elements() * dtype.size()),
        v: client.empty(sizes.kv_elements() * dtype.size()),
    };
    let delta = client.empty(4 * sizes.rows());
    // SAFETY: the kernels clamp queries and keys to those there are, and write only what was asked for.
    unsafe {
        queries_kernel::launch_unchecked(
            client,
            split.cubes(sizes.q_len, sizes.heads, sizes.batch),
            split.cube_dim(),
            split.size,
            operands.like_q(q),
            operands.like_k(k),
            operands.like_k(v),
            starts,
            operands.like_q(y),
            operands.one_a_row(lse),
            operands.like_q(grad),
            operands.one_a_row(&delta),
            operands.like_q(&gradients.q),
            sizes.launch_arg(),
            scale,
            operands.starts.is_some(),
            split.lanes,
            split.vectors,
            dtype,
            starts_dtype,
        );
        keys_kernel::launch_unchecked(
            client,
            split.cubes(sizes.kv_len, sizes.kv_heads, sizes.batch),
            split.cube_dim(),
            split.size,
            operands.like_q(q),
            operands.like_k(k),
            operands.like_k(v),
            starts_again,
            operands.one_a_row(lse),
            operands.like_q(grad),
            operands.one_a_row(&delta),
            operands.like_k(&gradients.k),
            operands.like_k(&gradients.v),
            sizes.launch_arg(),
            scale,
            operands.starts.is_some(),
            split.lanes,
            split.vectors,
            dtype,
            starts_dtype,
        );
    }
    Ok(gradients)
}

/// `dq`, and `delta = rowsum(g ∘ y)` for [`keys_kernel`].
#[cube(launch_unchecked)]
fn queries_kernel<F: Float, I: Int, N: Size>(
    q: &[Vector<F, N>],
    k: &[Vector<F, N>],
    v: &[Vector<F, N>],
    starts: &[I],
    y: &[Vector<F, N>],
    lse: &[f32],
    grad: &[Vector<F, N>],
    delta: &mut [f32],
    dq: &mut [Vector<F, N>],
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
    let g = load_row::<F, N>(grad, query.row, f32::new(1.0), lanes, vectors);
    let row_delta = dot::<F, N>(&g, y, query.row, lanes, vectors);
    let row_lse = lse[query.row as usize];
    let mut sums = zeroed::<N>(vectors);
    for key in 0..query.end {
        let key_row = sizes.key_row(key, query.kv_head);
        let p = (dot::<F, N>(&q, k, key_row, lanes, vectors) - row_lse).exp();
        let p = select(query.sees(key), p, f32::new(0.0));
        let ds = p * (dot::<F, N>(&g, v, key_row, lanes, vectors) - row_delta);
        add_row::<F, N>(&mut sums, ds, k, key_row, lanes, vectors);
    }
    if query.exists {
        store_row::<F, N>(dq, query.row, &sums, scale, lanes, vectors);
        if UNIT_POS_X == 0 {
            delta[query.row as usize] = row_delta;
        }
    }
}

/// `dk` and `dv`.
#[cube(launch_unchecked)]
fn keys_kernel<F: Float, I: Int, N: Size>(
    q: &[Vector<F, N>],
    k: &[Vector<F, N>],
    v: &[Vector<F, N>],
    starts: &[I],
    lse: &[f32],
    grad: &[Vector<F, N>],
    delta: &[f32],
    dk: &mut [Vector<F, N>],
    dv: &mut [Vector<F, N>],
    sizes: &KernelSizes,
    scale: f32,
    #[comptime] packed: bool,
    #[comptime] lanes: usize,
    #[comptime] vectors: usize,
    #[define(F)] _dtype: ElemType,
    #[define(I)] _starts_dtype: ElemType,
) {
    let asked = CUBE_POS_X * CUBE_DIM_Y + UNIT_POS_Y;
    let key = min(asked, sizes.kv_len - 1);
    let kv_head = CUBE_POS_Y;
    let group = sizes.heads / sizes.kv_heads;
    let key_row = sizes.key_row(key, kv_head);
    // The first query that sees the cube's first key, the same for all of its rows.
    let first_key = CUBE_POS_X * CUBE_DIM_Y;
    let before = sizes.own(0);
    let first_query = max(first_key, before) - before;

    let k = load_row::<F, N>(k, key_row, scale, lanes, vectors);
    let v = load_row::<F, N>(v, key_row, f32::new(1.0), lanes, vectors);
    let mut k_sums = zeroed::<N>(vectors);
    let mut v_sums = zeroed::<N>(vectors);
    for query in first_query..sizes.q_len {
        let visible = key >= sizes.first::<I>(starts, query, packed) && key <= sizes.own(query);
        for member in 0..group {
            let row = sizes.row(query, kv_head * group + member);
            let score = dot::<F, N>(&k, q, row, lanes, vectors);
            let p = (score - lse[row as usize]).exp();
            let p = select(visible, p, f32::new(0.0));
            let ds = p * (dot::<F, N>(&v, grad, row, lanes, vectors) - delta[row as usize]);
            add_row::<F, N>(&mut v_sums, p, grad, row, lanes, vectors);
            add_row::<F, N>(&mut k_sums, ds, q, row, lanes, vectors);
        }
    }
    if asked < sizes.kv_len {
        store_row::<F, N>(dk, key_row, &k_sums, scale, lanes, vectors);
        store_row::<F, N>(dv, key_row, &v_sums, f32::new(1.0), lanes, vectors);
    }
}
