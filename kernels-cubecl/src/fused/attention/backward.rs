//! The gradients: with `p = exp(s − lse)`, `dv = pᵀ·g`, `ds = p ∘ (g·vᵀ − rowsum(g ∘ y))`, `dq = ds·k`, `dk = dsᵀ·q`, where a
//! soft cap `c` takes `ds` times `1 − (s/c)²`. One kernel goes through the keys of each query, another through the queries
//! of each key; nothing is added up in memory.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;

use super::grid::Grid;
use super::inputs::{Inputs, Query};
use super::lane::{add_row, dot, load_row, store_row, zeroed};
use super::{Attention, OPERATION, Operands};
use crate::error::{KernelError, check_length, check_single};
use crate::operand::{contiguous, elements, tensor_buffer};

/// Returns the gradients of `q`, `k` and `v` from the results of [`forward`](super::forward()), `y` and `lse`, and from the
/// gradient of `y`, like `q`.
///
/// # Errors
/// As [`forward`](super::forward()), and [`KernelError::NotSingle`] for `lse`.
pub fn backward(
    client: &Client,
    operands: Operands,
    [y, lse]: [TensorHandle; 2],
    grad: TensorHandle,
) -> Result<[TensorHandle; 3], KernelError> {
    let attention = Attention::new(client, operands)?;
    let Attention { q, k, v, shape, .. } = &attention;
    check_single(OPERATION, lse.dtype)?;
    let rows = shape.batch * shape.q_len * shape.heads();
    check_length(OPERATION, "log-sum-exp", elements(&lse), rows)?;
    let lse = contiguous(client, lse);
    let y = attention.like_q(client, y)?;
    let grad = attention.like_q(client, grad)?;
    let [dq, dk, dv] = [q, k, v].map(|operand| attention.empty_like(client, operand));
    let delta = attention.one_a_row(client);
    let grid = Grid::new(client, q.dtype, shape.head_dim);
    // SAFETY: the kernels clamp queries and keys to those there are, and write only what was asked for.
    unsafe {
        queries_kernel::launch_unchecked(
            client,
            grid.cubes(shape.q_len, shape.heads(), shape.batch),
            grid.cube_dim(),
            grid.vector,
            attention.inputs_arg(grid.part),
            tensor_buffer(&y),
            tensor_buffer(&lse),
            tensor_buffer(&grad),
            tensor_buffer(&delta),
            tensor_buffer(&dq),
            q.dtype,
            attention.starts_dtype(),
        );
        keys_kernel::launch_unchecked(
            client,
            grid.cubes(shape.kv_len, shape.kv_heads, shape.batch),
            grid.cube_dim(),
            grid.vector,
            attention.inputs_arg(grid.part),
            tensor_buffer(&lse),
            tensor_buffer(&grad),
            tensor_buffer(&delta),
            tensor_buffer(&dk),
            tensor_buffer(&dv),
            q.dtype,
            attention.starts_dtype(),
        );
    }
    Ok([dq, dk, dv])
}

/// Writes `dq`, and `delta = rowsum(g ∘ y)` for [`keys_kernel`].
#[cube(launch_unchecked)]
fn queries_kernel<F: Float, I: Int, N: Size>(
    inputs: Inputs<'_, F, I, N>,
    y: &[Vector<F, N>],
    lse: &[f32],
    grad: &[Vector<F, N>],
    delta: &mut [f32],
    dq: &mut [Vector<F, N>],
    #[define(F)] _dtype: ElemType,
    #[define(I)] _starts_dtype: ElemType,
) {
    let part = comptime!(inputs.part);
    let (sizes, scores) = (inputs.mask.sizes, inputs.scores);
    let query = Query::new::<F, I, N>(&inputs);
    let q = load_row::<F, N>(inputs.q, query.row, scores.factor(), part);
    let g = load_row::<F, N>(grad, query.row, f32::new(1.0), part);
    let row_delta = dot::<F, N>(&g, y, query.row, part);
    let row_lse = lse[query.row as usize];
    if query.exists && UNIT_POS_X == 0 {
        delta[query.row as usize] = row_delta;
    }
    let mut sums = zeroed::<N>(part.vectors);
    for key in query.begin..query.end {
        let key_row = sizes.key_row(key, query.kv_head);
        let score = scores.score(dot::<F, N>(&q, inputs.k, key_row, part));
        let p = (score - row_lse).exp();
        let p = select(query.sees(key), p, f32::new(0.0));
        let ds = p * (dot::<F, N>(&g, inputs.v, key_row, part) - row_delta);
        let ds = scores.through(ds, score);
        add_row::<F, N>(&mut sums, ds, inputs.k, key_row, part);
    }
    if query.exists {
        store_row::<F, N>(dq, query.row, &sums, scores.scale, part);
    }
}

/// Writes `dk` and `dv`.
#[cube(launch_unchecked)]
fn keys_kernel<F: Float, I: Int, N: Size>(
    inputs: Inputs<'_, F, I, N>,
    lse: &[f32],
    grad: &[Vector<F, N>],
    delta: &[f32],
    dk: &mut [Vector<F, N>],
    dv: &mut [Vector<F, N>],
    #[define(F)] _dtype: ElemType,
    #[define(I)] _starts_dtype: ElemType,
) {
    let part = comptime!(inputs.part);
    let (sizes, scores) = (inputs.mask.sizes, inputs.scores);
    let asked = CUBE_POS_X * CUBE_DIM_Y + UNIT_POS_Y;
    let key = min(asked, sizes.kv_len - 1);
    let kv_head = CUBE_POS_Y;
    let group = sizes.heads / sizes.kv_heads;
    let key_row = sizes.key_row(key, kv_head);
    // The queries that see any of the cube's keys, the same for all of its rows.
    let first_key = CUBE_POS_X * CUBE_DIM_Y;
    let before = sizes.own(0);
    let first_query = max(first_key, before) - before;
    let last_key = first_key + (CUBE_DIM_Y - 1);
    let end_query = inputs.mask.window_end(last_key);

    let k = load_row::<F, N>(inputs.k, key_row, scores.factor(), part);
    let v = load_row::<F, N>(inputs.v, key_row, f32::new(1.0), part);
    let mut k_sums = zeroed::<N>(part.vectors);
    let mut v_sums = zeroed::<N>(part.vectors);
    for query in first_query..end_query {
        let visible = key >= inputs.mask.first(query) && key <= sizes.own(query);
        for member in 0..group {
            let row = sizes.row(query, kv_head * group + member);
            let score = scores.score(dot::<F, N>(&k, inputs.q, row, part));
            let p = (score - lse[row as usize]).exp();
            let p = select(visible, p, f32::new(0.0));
            let ds = p * (dot::<F, N>(&v, grad, row, part) - delta[row as usize]);
            let ds = scores.through(ds, score);
            add_row::<F, N>(&mut v_sums, p, grad, row, part);
            add_row::<F, N>(&mut k_sums, ds, inputs.q, row, part);
        }
    }
    if asked < sizes.kv_len {
        store_row::<F, N>(dk, key_row, &k_sums, scores.scale, part);
        store_row::<F, N>(dv, key_row, &v_sums, f32::new(1.0), part);
    }
}
