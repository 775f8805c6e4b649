//! Causal grouped-query attention that never holds a matrix of scores: forward with a running softmax (FlashAttention,
//! Dao et al. 2022, algorithm 1), backward with probabilities computed again from the log-sum-exp of each row.
//!
//! A few neighbouring lanes share a row, of a query or of a key: each has a part of the head in registers, and what they
//! find meets in shuffles. The lanes of a plane go through the other side's rows together, so that every load of those is
//! one address for all rows of the plane; nothing is staged in shared memory and nothing waits. Every sum has an order of its
//! own.
//!
//! # Roofline
//!
//! Bound by the f32 units: forward takes 4·d operations for each query and visible key, backward 14·d, of which 4·d
//! compute scores again. 512 tokens of 32 heads of 128 (LLaMA-7B), causal: 2.1 and 7.5 GFLOP, 26 and 90 µs on an RTX 4090's
//! units (83 TFLOP/s) if nothing else took time; matrix instructions would take less. Bytes: `q`, `k`, `v` and `y` once (16.8 MB in
//! f16, 17 µs), where scores alone would be 16.8 MB written and read again for each of them. Predictions: none was run.

mod backward;
mod forward;

pub use backward::backward;
pub use forward::forward;

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;

use super::{F32, are_served_alike, vector_size};
use crate::error::{KernelError, check_float, check_length, check_size};
use crate::launch::plane_size;
use crate::operand::{buffer, contiguous, elements, empty, tensor_buffer};

const OPERATION: &str = "attention";

/// Units of a cube.
const UNITS: usize = 128;
/// Elements of a head that a lane has of each array: more would not leave registers enough for the sums.
const LANE_ELEMENTS: usize = 32;
/// The score of a hidden key, finite for shader languages without infinities.
const LOWEST: f32 = -1e30;

/// Returns whether there is a kernel for `q` and `k` of so many elements and for all operands, of types `dtypes`. Of nothing
/// there is none.
pub fn serves(dtypes: &[ElemType], [q_elements, k_elements]: [usize; 2]) -> bool {
    are_served_alike(dtypes) && q_elements > 0 && k_elements > 0
}

/// The operands of an attention.
#[derive(Clone, Debug)]
pub struct Operands {
    /// `[batch, q_len, heads, head_dim]`.
    pub q: TensorHandle,
    /// `[batch, kv_len, kv_heads, head_dim]`.
    pub k: TensorHandle,
    /// Like `k`.
    pub v: TensorHandle,
    /// The first key that each query of packed rows sees, `[batch, q_len]` integers; its own it sees in any case.
    pub starts: Option<TensorHandle>,
    /// The factor of the scores.
    pub scale: f32,
}

/// Sizes of an attention, none of them 0. Query `i` sees the keys up to `kv_len - q_len + i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Batches.
    pub batch: usize,
    /// Queries, at most as many as keys.
    pub q_len: usize,
    /// Heads of `q`, a multiple of `kv_heads`.
    pub heads: usize,
    /// Keys.
    pub kv_len: usize,
    /// Heads of `k` and `v`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

impl Sizes {
    const fn q_elements(&self) -> usize {
        self.rows() * self.head_dim
    }

    const fn kv_elements(&self) -> usize {
        self.batch * self.kv_len * self.kv_heads * self.head_dim
    }

    /// Returns the rows of scores.
    const fn rows(&self) -> usize {
        self.batch * self.q_len * self.heads
    }

    /// Returns the bytes that the forward pass takes beside operands and results.
    pub const fn forward_workspace_bytes(&self) -> u128 {
        0
    }

    /// Returns the bytes that the backward pass takes beside operands and results: an f32 for each row of scores.
    pub const fn backward_workspace_bytes(&self) -> u128 {
        4 * self.rows_u128()
    }

    const fn rows_u128(&self) -> u128 {
        self.batch as u128 * self.q_len as u128 * self.heads as u128
    }
}

/// Checked operands, contiguous.
struct Attention {
    q: TensorHandle,
    k: TensorHandle,
    v: TensorHandle,
    starts: Option<TensorHandle>,
    scale: f32,
    sizes: Sizes,
}

impl Attention {
    fn new(client: &Client, operands: Operands) -> Result<Self, KernelError> {
        let Operands {
            q,
            k,
            v,
            starts,
            scale,
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
        let ([batch, q_len, heads, head_dim], [_, kv_len, kv_heads, _]) =
            (q.shape().dims(), k.shape().dims());
        let sizes = Sizes {
            batch,
            q_len,
            heads,
            kv_len,
            kv_heads,
            head_dim,
        };
        check_size("query", elements(&q))?;
        check_size("key", elements(&k))?;
        check_length(OPERATION, "key", elements(&k), sizes.kv_elements())?;
        check_length(OPERATION, "value", elements(&v), sizes.kv_elements())?;
        if let Some(starts) = &starts {
            check_length(OPERATION, "starts", elements(starts), batch * q_len)?;
        }
        let [q, k, v] = [q, k, v].map(|tensor| contiguous(client, tensor));
        Ok(Self {
            q,
            k,
            v,
            starts: starts.map(|starts| contiguous(client, starts)),
            scale,
            sizes,
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
        check_length(
            OPERATION,
            "operand",
            elements(&other),
            self.sizes.q_elements(),
        )?;
        Ok(contiguous(client, other))
    }

    /// Allocates a tensor like `q` or `k`.
    fn empty_like(&self, client: &Client, operand: &TensorHandle) -> TensorHandle {
        empty(client, operand.shape().clone(), operand.dtype)
    }

    /// Allocates an f32 for each row of scores, `[batch, q_len, heads]`.
    fn one_a_row(&self, client: &Client) -> TensorHandle {
        let Sizes {
            batch,
            q_len,
            heads,
            ..
        } = self.sizes;
        empty(client, [batch, q_len, heads], F32)
    }

    fn sizes_arg(&self) -> KernelSizesLaunch {
        KernelSizesLaunch::new(
            self.sizes.q_len as u32,
            self.sizes.heads as u32,
            self.sizes.kv_len as u32,
            self.sizes.kv_heads as u32,
            self.scale,
        )
    }

    /// Returns the starts as an argument, and their type; `q` in their place where there are none, which is not looked at.
    fn starts_arg(&self) -> (BufferArg, ElemType) {
        match &self.starts {
            Some(starts) => {
                let len = self.sizes.batch * self.sizes.q_len;
                (buffer(&starts.handle, len), starts.dtype)
            }
            None => (tensor_buffer(&self.q), u32::elem_type_native()),
        }
    }
}

/// The grid of a launch over the rows of all heads.
#[derive(Clone, Copy)]
struct HeadLaunch {
    /// Rows of a cube.
    rows: usize,
    /// Elements of a vector.
    vector: usize,
    part: LanePart,
}

/// A lane's share of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct LanePart {
    /// Lanes that share a row.
    lanes: usize,
    /// Vectors of a row that a lane has.
    vectors: usize,
}

impl HeadLaunch {
    fn new(client: &Client, dtype: ElemType, head_dim: usize) -> Self {
        let most = plane_size(client).unwrap_or(1) as usize;
        let mut lanes = head_dim
            .div_ceil(LANE_ELEMENTS)
            .next_power_of_two()
            .min(most);
        while !head_dim.is_multiple_of(lanes) {
            lanes /= 2;
        }
        let vector = vector_size(dtype, head_dim / lanes);
        Self {
            // Units of a CPU are threads.
            rows: match client.properties().hardware.num_cpu_cores {
                Some(cores) => cores as usize,
                None => UNITS / lanes.min(UNITS),
            },
            vector,
            part: LanePart {
                lanes,
                vectors: head_dim / lanes / vector,
            },
        }
    }

    /// Returns the grid with a cube for some neighbouring rows of one head.
    fn cubes(&self, len: usize, heads: usize, batch: usize) -> CubeCount {
        CubeCount::Static(len.div_ceil(self.rows) as u32, heads as u32, batch as u32)
    }

    fn cube_dim(&self) -> CubeDim {
        CubeDim::new_2d(self.part.lanes as u32, self.rows as u32)
    }
}

/// [`Sizes`] and the factor of the scores in a kernel with a cube for each batch.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct KernelSizes {
    q_len: u32,
    heads: u32,
    kv_len: u32,
    kv_heads: u32,
    scale: f32,
}

#[cube]
impl KernelSizes {
    /// Returns the number of the row of scores of a query.
    fn row(&self, query: u32, head: u32) -> u32 {
        (CUBE_POS_Z * self.q_len + query) * self.heads + head
    }

    /// Returns the number of the row of `k` and `v`.
    fn key_row(&self, key: u32, kv_head: u32) -> u32 {
        (CUBE_POS_Z * self.kv_len + key) * self.kv_heads + kv_head
    }

    /// Returns the last key that a query sees, its own.
    fn own(&self, query: u32) -> u32 {
        self.kv_len - self.q_len + query
    }

    /// Returns the first key that a query sees.
    fn first<I: Int>(&self, starts: &[I], query: u32, #[comptime] packed: bool) -> u32 {
        let mut first = 0u32;
        if comptime!(packed) {
            let start = i32::cast_from(starts[(CUBE_POS_Z * self.q_len + query) as usize]);
            first = min(max(start, 0) as u32, self.own(query));
        }
        first
    }
}

/// A query and what it sees.
#[derive(CubeType, Clone, Copy)]
struct Query {
    /// False in units beyond the last query, which stay and do the last one's work.
    exists: bool,
    /// The number of its row of scores.
    row: u32,
    kv_head: u32,
    /// The first key that it sees.
    first: u32,
    /// The last key that it sees, its own.
    own: u32,
    /// The end of the keys that any query of the cube sees, so that lanes go through them together.
    end: u32,
}

#[cube]
impl Query {
    /// Returns the query of the unit that asks, in a cube for each head.
    fn new<I: Int>(sizes: &KernelSizes, starts: &[I], #[comptime] packed: bool) -> Query {
        let asked = CUBE_POS_X * CUBE_DIM_Y + UNIT_POS_Y;
        let query = min(asked, sizes.q_len - 1);
        let head = CUBE_POS_Y;
        let last_of_cube = min((CUBE_POS_X + 1) * CUBE_DIM_Y, sizes.q_len) - 1;
        Query {
            exists: asked < sizes.q_len,
            row: sizes.row(query, head),
            kv_head: head / (sizes.heads / sizes.kv_heads),
            first: sizes.first::<I>(starts, query, packed),
            own: sizes.own(query),
            end: sizes.own(last_of_cube) + 1,
        }
    }

    fn sees(&self, key: u32) -> bool {
        key >= self.first && key <= self.own
    }
}

/// Returns this lane's vectors of a row, times `factor`.
#[cube]
fn load_row<F: Float, N: Size>(
    rows: &[Vector<F, N>],
    row: u32,
    factor: f32,
    #[comptime] part: LanePart,
) -> Array<Vector<f32, N>> {
    let mut loaded = Array::<Vector<f32, N>>::new(part.vectors);
    #[unroll]
    for i in 0..part.vectors {
        loaded[i] = load::<F, N>(rows, row, i, part) * Vector::new(factor);
    }
    loaded
}

/// Returns this lane's `i`-th vector of a row.
#[cube]
fn load<F: Float, N: Size>(
    rows: &[Vector<F, N>],
    row: u32,
    #[comptime] i: usize,
    #[comptime] part: LanePart,
) -> Vector<f32, N> {
    let at = row * comptime!((part.lanes * part.vectors) as u32)
        + comptime!((i * part.lanes) as u32)
        + UNIT_POS_X;
    Vector::cast_from(rows[at as usize])
}

/// Writes this lane's vectors of a row, times `factor`.
#[cube]
fn store_row<F: Float, N: Size>(
    rows: &mut [Vector<F, N>],
    row: u32,
    values: &Array<Vector<f32, N>>,
    factor: f32,
    #[comptime] part: LanePart,
) {
    #[unroll]
    for i in 0..part.vectors {
        let at = row * comptime!((part.lanes * part.vectors) as u32)
            + comptime!((i * part.lanes) as u32)
            + UNIT_POS_X;
        rows[at as usize] = Vector::cast_from(values[i] * Vector::new(factor));
    }
}

/// Returns the product of two rows, one of them in registers.
#[cube]
fn dot<F: Float, N: Size>(
    values: &Array<Vector<f32, N>>,
    rows: &[Vector<F, N>],
    row: u32,
    #[comptime] part: LanePart,
) -> f32 {
    let mut products = Vector::<f32, N>::zeroed();
    #[unroll]
    for i in 0..part.vectors {
        products += values[i] * load::<F, N>(rows, row, i, part);
    }
    total(products, part.lanes)
}

/// Adds a row times `factor`.
#[cube]
fn add_row<F: Float, N: Size>(
    sums: &mut Array<Vector<f32, N>>,
    factor: f32,
    rows: &[Vector<F, N>],
    row: u32,
    #[comptime] part: LanePart,
) {
    #[unroll]
    for i in 0..part.vectors {
        sums[i] += Vector::new(factor) * load::<F, N>(rows, row, i, part);
    }
}

/// Returns the sum over the elements of a vector and over the lanes of the row.
#[cube]
fn total<N: Size>(partial: Vector<f32, N>, #[comptime] lanes: usize) -> f32 {
    let size = N::value();
    let mut sum = partial.extract(0usize);
    #[unroll]
    for e in 1..size {
        sum += partial.extract(e);
    }
    let steps = comptime!(lanes.ilog2());
    #[unroll]
    for step in 0..steps {
        sum += plane_shuffle_xor(sum, comptime!(1u32 << step).runtime());
    }
    sum
}

/// Returns sums of nothing yet, as many as a lane has vectors.
#[cube]
fn zeroed<N: Size>(#[comptime] vectors: usize) -> Array<Vector<f32, N>> {
    let mut values = Array::<Vector<f32, N>>::new(vectors);
    #[unroll]
    for i in 0..vectors {
        values[i] = Vector::zeroed();
    }
    values
}
