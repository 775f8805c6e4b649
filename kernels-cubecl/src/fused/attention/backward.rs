//! The gradients: with `p = exp(s − lse)`, `dv = pᵀ·g`, `ds = p ∘ (g·vᵀ − rowsum(g ∘ y))`, `dq = ds·k`, `dk = dsᵀ·q`. One
//! kernel goes through the keys of each query, another through the queries of each key; nothing is added up in memory.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::{KernelSizes, Operands, Split, load, load_row, store_row, total, zeroed};
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
    let asked = CUBE_POS_X * CUBE_DIM_Y + UNIT_POS_Y;
    let query = min(asked, sizes.q_len - 1);
    let head = CUBE_POS_Y;
    let kv_head = head / (sizes.heads / sizes.kv_heads);
    let row = sizes.row(query, head);
    let (first, own) = (sizes.first::<I>(starts, query, packed), sizes.own(query));
    // The same for all rows of the cube, so that lanes stay together.
    let last = min((CUBE_POS_X + 1) * CUBE_DIM_Y, sizes.q_len) - 1;
    let end = sizes.own(last) + 1;

    let q = load_row::<F, N>(q, row, scale, lanes, vectors);
    let g = load_row::<F, N>(grad, row, f32::new(1.0), lanes, vectors);
    let mut products = Vector::<f32, N>::zeroed();
    #[unroll]
    for i in 0..vectors {
        products += g[i] * load::<F, N>(y, row, i, lanes, vectors);
    }
    let row_delta = total(products, lanes);
    let row_lse = lse[row as usize];
    let mut sums = zeroed::<N>(vectors);
    for key in 0..end {
        let key_row = sizes.key_row(key, kv_head);
        let mut scores = Vector::<f32, N>::zeroed();
        let mut slopes = Vector::<f32, N>::zeroed();
        #[unroll]
        for i in 0..vectors {
            scores += q[i] * load::<F, N>(k, key_row, i, lanes, vectors);
            slopes += g[i] * load::<F, N>(v, key_row, i, lanes, vectors);
        }
        let p = (total(scores, lanes) - row_lse).exp();
        let p = select(key >= first && key <= own, p, f32::new(0.0));
        let ds = p * (total(slopes, lanes) - row_delta);
        #[unroll]
        for i in 0..vectors {
            sums[i] += Vector::new(ds) * load::<F, N>(k, key_row, i, lanes, vectors);
        }
    }
    if asked < sizes.q_len {
        store_row::<F, N>(dq, row, &sums, scale, lanes, vectors);
        if UNIT_POS_X == 0 {
            delta[row as usize] = row_delta;
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
            let mut scores = Vector::<f32, N>::zeroed();
            let mut slopes = Vector::<f32, N>::zeroed();
            #[unroll]
            for i in 0..vectors {
                scores += k[i] * load::<F, N>(q, row, i, lanes, vectors);
                slopes += v[i] * load::<F, N>(grad, row, i, lanes, vectors);
            }
            let p = (total(scores, lanes) - lse[row as usize]).exp();
            let p = select(visible, p, f32::new(0.0));
            let ds = p * (total(slopes, lanes) - delta[row as usize]);
            #[unroll]
            for i in 0..vectors {
                v_sums[i] += Vector::new(p) * load::<F, N>(grad, row, i, lanes, vectors);
                k_sums[i] += Vector::new(ds) * load::<F, N>(q, row, i, lanes, vectors);
            }
        }
    }
    if asked < sizes.kv_len {
        store_row::<F, N>(dk, key_row, &k_sums, scale, lanes, vectors);
        store_row::<F, N>(dv, key_row, &v_sums, f32::new(1.0), lanes, vectors);
    }
}
