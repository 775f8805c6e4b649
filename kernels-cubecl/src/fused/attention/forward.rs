//! The running softmax over the keys of each query.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;

use super::grid::Grid;
use super::inputs::{Inputs, Query};
use super::lane::{add_row, dot, load_row, store_row, zeroed};
use super::{Attention, LOWEST, Operands};
use crate::error::KernelError;
use crate::operand::tensor_buffer;

/// Keys between two looks at the maximum.
const TILE: usize = 4;

/// Returns attention like `q`, and the log-sum-exp of each row of scores, f32 `[batch, q_len, heads]`.
///
/// # Errors
/// [`KernelError::UnsupportedType`], [`KernelError::ShapeMismatch`], [`KernelError::TooLarge`].
pub fn forward(client: &Client, operands: Operands) -> Result<[TensorHandle; 2], KernelError> {
    let attention = Attention::new(client, operands)?;
    let Attention { q, shape, .. } = &attention;
    let grid = Grid::new(client, q.dtype, shape.head_dim);
    let y = attention.empty_like(client, q);
    let lse = attention.one_a_row(client);
    // SAFETY: the kernel clamps queries and keys to those there are, and writes only what was asked for.
    unsafe {
        forward_kernel::launch_unchecked(
            client,
            grid.cubes(shape.q_len, shape.heads(), shape.batch),
            grid.cube_dim(),
            grid.vector,
            attention.inputs_arg(grid.part),
            tensor_buffer(&y),
            tensor_buffer(&lse),
            q.dtype,
            attention.starts_dtype(),
        );
    }
    Ok([y, lse])
}

#[cube(launch_unchecked)]
fn forward_kernel<F: Float, I: Int, N: Size>(
    inputs: Inputs<'_, F, I, N>,
    y: &mut [Vector<F, N>],
    lse: &mut [f32],
    #[define(F)] _dtype: ElemType,
    #[define(I)] _starts_dtype: ElemType,
) {
    let part = comptime!(inputs.part);
    let (sizes, scoring) = (inputs.mask.sizes, inputs.scores);
    let query = Query::new::<F, I, N>(&inputs);
    let q = load_row::<F, N>(inputs.q, query.row, scoring.factor(), part);
    let mut out = zeroed::<N>(part.vectors);
    let mut maximum = f32::new(LOWEST);
    let mut sum = f32::new(0.0);
    let mut tile = query.begin;
    while tile < query.end {
        let before = maximum;
        let mut scores = Array::<f32>::new(TILE);
        #[unroll]
        for t in 0..TILE {
            let key = tile + comptime!(t as u32);
            let key_row = sizes.key_row(min(key, sizes.kv_len - 1), query.kv_head);
            let score = scoring.score(dot::<F, N>(&q, inputs.k, key_row, part));
            scores[t] = select(query.sees(key), score, f32::new(LOWEST));
            maximum = max(maximum, scores[t]);
        }
        let factor = (before - maximum).exp();
        sum *= factor;
        #[unroll]
        for i in 0..part.vectors {
            out[i] *= Vector::new(factor);
        }
        #[unroll]
        for t in 0..TILE {
            let key = tile + comptime!(t as u32);
            let key_row = sizes.key_row(min(key, sizes.kv_len - 1), query.kv_head);
            let p = (scores[t] - maximum).exp();
            let p = select(query.sees(key), p, f32::new(0.0));
            sum += p;
            add_row::<F, N>(&mut out, p, inputs.v, key_row, part);
        }
        tile += comptime!(TILE as u32);
    }
    if query.exists {
        store_row::<F, N>(y, query.row, &out, f32::new(1.0) / sum, part);
        if UNIT_POS_X == 0 {
            lse[query.row as usize] = sum.ln() + maximum;
        }
    }
}
