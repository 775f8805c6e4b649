//! Causal grouped-query attention that never holds a matrix of scores: forward with a running softmax (FlashAttention,
//! Dao et al. 2022, algorithm 1), backward with probabilities computed again from the log-sum-exp of each row.
//!
//! A few neighbouring lanes share a row, of a query or of a key: each has a part of the head in registers, and what they
//! find meets in shuffles. The lanes of a plane go through the other side's rows together, so that every load of those is
//! one address for all rows of the plane; nothing is staged in shared memory and nothing waits. Every sum has an order of its
//! own. Keys that a window hides from all rows of a cube, and queries that it hides from all its keys, are not gone through:
//! with a window the time grows with it, not with the keys.
//!
//! # Roofline
//!
//! Bound by the f32 units: forward takes 4·d operations for each query and visible key, backward 14·d, of which 4·d
//! compute scores again; a soft cap adds about 30 to each score. 512 tokens of 32 heads of 128 (LLaMA-7B), causal: 2.1 and
//! 7.5 GFLOP, 26 and 90 µs on an RTX 4090's units (83 TFLOP/s) if nothing else took time; matrix instructions would take
//! less. Bytes: `q`, `k`, `v` and `y` once (16.8 MB in f16, 17 µs), where scores alone would be 16.8 MB written and read
//! again for each of them. Predictions: none was run.

mod backward;
mod cached;
mod forward;
mod grid;
mod inputs;
mod lane;
mod scores;

pub use backward::backward;
pub use cached::{Angles, CachedOperands, forward_cached, serves_cached};
pub use forward::forward;

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;
use nf4::attention::{AttentionConfig, AttentionShape};

use self::grid::LanePart;
use self::inputs::{InputsLaunch, MaskLaunch, Present, SizesLaunch};
use self::scores::ScoresLaunch;
use super::{F32, LOWEST, are_served_alike};
use crate::error::{KernelError, check_float, check_length, check_size};
use crate::operand::{contiguous, elements, empty, tensor_buffer};

const OPERATION: &str = "attention";

/// Returns whether there is a kernel for `q` and `k` of so many elements and for all operands, of types `dtypes`. Of nothing
/// there is none.
pub fn serves(dtypes: &[ElemType], [q_elements, k_elements]: [usize; 2]) -> bool {
    are_served_alike(dtypes) && q_elements > 0 && k_elements > 0
}

/// Returns the bytes that the backward pass takes beside operands and results: an f32 for each row of scores. The forward
/// pass takes none.
pub const fn backward_workspace_bytes(shape: &AttentionShape) -> u128 {
    4 * shape.batch as u128 * shape.q_len as u128 * shape.heads() as u128
}

/// The operands of an attention.
#[derive(Clone, Debug)]
pub struct Operands {
    /// `[batch, q_len, heads, head_dim]`.
    pub q: TensorHandle,
    /// `[batch, kv_len, kv_heads, head_dim]`; query `i` has the position `kv_len - q_len + i`.
    pub k: TensorHandle,
    /// Like `k`.
    pub v: TensorHandle,
    /// The first key that each query of packed rows sees, `[batch, q_len]` integers; its own it sees in any case.
    pub starts: Option<TensorHandle>,
    /// Scale, window and bound of the scores.
    pub config: AttentionConfig,
}

/// Checked operands, contiguous.
struct Attention {
    q: TensorHandle,
    k: TensorHandle,
    v: TensorHandle,
    starts: Option<TensorHandle>,
    config: AttentionConfig,
    shape: AttentionShape,
}

impl Attention {
    fn new(client: &Client, operands: Operands) -> Result<Self, KernelError> {
        let Operands {
            q,
            k,
            v,
            starts,
            config,
        } = operands;
        check_float(client, OPERATION, q.dtype)?;
        let mismatched = [&k, &v].into_iter().find(|tensor| tensor.dtype != q.dtype);
        if let Some(dtype) = mismatched.map(|tensor| tensor.dtype) {
            return Err(KernelError::UnsupportedType {
                operation: OPERATION,
                dtype,
            });
        }
        for tensor in [&q, &k] {
            check_length(OPERATION, "operand's rank", tensor.shape().num_dims(), 4)?;
        }
        let shape = AttentionShape::new(q.shape().dims(), k.shape().dims());
        check_size("query", elements(&q))?;
        check_size("key", elements(&k))?;
        check_length(OPERATION, "query", elements(&q), shape.q_elements())?;
        check_length(OPERATION, "key", elements(&k), shape.kv_elements())?;
        check_length(OPERATION, "value", elements(&v), shape.kv_elements())?;
        if let Some(starts) = &starts {
            let queries = shape.batch * shape.q_len;
            check_length(OPERATION, "starts", elements(starts), queries)?;
        }
        let [q, k, v] = [q, k, v].map(|tensor| contiguous(client, tensor));
        Ok(Self {
            q,
            k,
            v,
            starts: starts.map(|starts| contiguous(client, starts)),
            config,
            shape,
        })
    }

    /// Returns another operand like `q`, contiguous.
    fn like_q(&self, client: &Client, other: TensorHandle) -> Result<TensorHandle, KernelError> {
        if other.dtype != self.q.dtype {
            return Err(KernelError::UnsupportedType {
                operation: OPERATION,
                dtype: other.dtype,
            });
        }
        let len = self.shape.q_elements();
        check_length(OPERATION, "operand", elements(&other), len)?;
        Ok(contiguous(client, other))
    }

    /// Allocates a tensor like `q` or `k`.
    fn empty_like(&self, client: &Client, operand: &TensorHandle) -> TensorHandle {
        empty(client, operand.shape().clone(), operand.dtype)
    }

    /// Allocates an f32 for each row of scores, `[batch, q_len, heads]`.
    fn one_a_row(&self, client: &Client) -> TensorHandle {
        let AttentionShape { batch, q_len, .. } = self.shape;
        empty(client, [batch, q_len, self.shape.heads()], F32)
    }

    /// Returns the operands as kernels take them.
    fn inputs_arg<F: Float, I: Int, N: Size>(
        &self,
        part: LanePart,
    ) -> InputsLaunch<'static, F, I, N> {
        InputsLaunch::new(
            tensor_buffer(&self.q),
            tensor_buffer(&self.k),
            tensor_buffer(&self.v),
            mask_arg(&self.shape, &self.config, self.starts.as_ref()),
            scores_arg(&self.config),
            part,
        )
    }

    /// Returns the type of the starts; any where there are none.
    fn starts_dtype(&self) -> ElemType {
        starts_dtype(self.starts.as_ref())
    }
}

/// Returns what queries see as kernels take it.
fn mask_arg<I: Int>(
    shape: &AttentionShape,
    config: &AttentionConfig,
    starts: Option<&TensorHandle>,
) -> MaskLaunch<'static, I> {
    let window = config.hiding_window(shape);
    MaskLaunch::new(
        starts.map(tensor_buffer).into(),
        SizesLaunch::new(
            shape.q_len as u32,
            shape.heads() as u32,
            shape.kv_len as u32,
            shape.kv_heads as u32,
        ),
        window.map(|window| window.max(1) as u32).into(),
        Present {
            starts: starts.is_some(),
            window: window.is_some(),
            softcap: config.softcap.is_some(),
        },
    )
}

/// Returns the factor and the cap of scores as kernels take them.
fn scores_arg(config: &AttentionConfig) -> ScoresLaunch {
    let softcap = config.softcap.map(|cap| cap as f32);
    ScoresLaunch::new(config.scale as f32, softcap.into())
}

/// Returns the type of the starts; any where there are none.
fn starts_dtype(starts: Option<&TensorHandle>) -> ElemType {
    starts.map_or(u32::elem_type_native(), |starts| starts.dtype)
}
