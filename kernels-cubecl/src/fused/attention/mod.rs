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

pub use backward::{Gradients, backward};
pub use forward::forward;

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::vector_size;
use crate::error::{KernelError, check_size};
use crate::launch::plane_size;
use crate::matmul::check_float;

/// Units of a cube.
const UNITS: usize = 128;
/// Elements of a head that a lane has of each array: more would not leave registers enough for the sums.
const LANE_ELEMENTS: usize = 32;
/// What a hidden score is set to, finite for shader languages without infinities.
const LOWEST: f32 = -1e30;

/// The operands of an attention; all contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Operands<'a> {
    /// `[batch, q_len, heads, head_dim]`.
    pub q: &'a Handle,
    /// `[batch, kv_len, kv_heads, head_dim]`.
    pub k: &'a Handle,
    /// Like `k`.
    pub v: &'a Handle,
    /// Of all three: f32, f16 or bf16.
    pub dtype: ElemType,
    /// Their sizes.
    pub sizes: Sizes,
    /// What packed rows hide.
    pub starts: Option<Starts<'a>>,
    /// Of the scores.
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

/// The first key that each query sees, `[batch, q_len]`; its own it sees in any case.
#[derive(Clone, Copy, Debug)]
pub struct Starts<'a> {
    /// The buffer.
    pub handle: &'a Handle,
    /// An integer.
    pub dtype: ElemType,
}

impl Sizes {
    fn q_elements(&self) -> usize {
        self.rows() * self.head_dim
    }

    fn kv_elements(&self) -> usize {
        self.batch * self.kv_len * self.kv_heads * self.head_dim
    }

    /// Rows of scores.
    fn rows(&self) -> usize {
        self.batch * self.q_len * self.heads
    }

    fn launch_arg(self) -> KernelSizesLaunch {
        KernelSizesLaunch::new(
            self.q_len as u32,
            self.heads as u32,
            self.kv_len as u32,
            self.kv_heads as u32,
        )
    }
}

impl Operands<'_> {
    fn check(&self, client: &Client) -> Result<(), KernelError> {
        check_float(client, "attention", self.dtype)?;
        check_size("query", self.sizes.q_elements())?;
        check_size("key", self.sizes.kv_elements()).map(|_| ())
    }

    /// `handle` as an argument like `q`.
    fn like_q(&self, handle: &Handle) -> BufferArg {
        // SAFETY: callers name buffers of this size.
        unsafe { BufferArg::from_raw_parts(handle.clone(), self.sizes.q_elements()) }
    }

    /// `handle` as an argument like `k`.
    fn like_k(&self, handle: &Handle) -> BufferArg {
        // SAFETY: callers name buffers of this size.
        unsafe { BufferArg::from_raw_parts(handle.clone(), self.sizes.kv_elements()) }
    }

    /// `handle` as an argument with an f32 for each row of scores.
    fn one_a_row(&self, handle: &Handle) -> BufferArg {
        // SAFETY: callers name buffers of this size.
        unsafe { BufferArg::from_raw_parts(handle.clone(), self.sizes.rows()) }
    }

    /// The starts, and their type; `q` in their place where there are none, which is not looked at.
    fn starts_arg(&self) -> (BufferArg, ElemType) {
        match self.starts {
            Some(Starts { handle, dtype }) => {
                let len = self.sizes.batch * self.sizes.q_len;
                // SAFETY: there is a start for each query.
                (
                    unsafe { BufferArg::from_raw_parts(handle.clone(), len) },
                    dtype,
                )
            }
            None => (self.like_q(self.q), u32::elem_type_native()),
        }
    }
}

/// How rows are spread over a device.
#[derive(Clone, Copy)]
struct Split {
    /// Lanes that share a row.
    lanes: usize,
    /// Rows of a cube.
    rows: usize,
    /// Elements of a vector.
    size: usize,
    /// Vectors of a row that a lane has.
    vectors: usize,
}

impl Split {
    fn new(client: &Client, dtype: ElemType, head_dim: usize) -> Self {
        let most = plane_size(client).unwrap_or(1) as usize;
        let mut lanes = head_dim
            .div_ceil(LANE_ELEMENTS)
            .next_power_of_two()
            .min(most);
        while !head_dim.is_multiple_of(lanes) {
            lanes /= 2;
        }
        let size = vector_size(dtype, head_dim / lanes);
        Self {
            lanes,
            // Units of a CPU are threads.
            rows: match client.properties().hardware.num_cpu_cores {
                Some(cores) => cores as usize,
                None => UNITS / lanes.min(UNITS),
            },
            size,
            vectors: head_dim / lanes / size,
        }
    }

    /// A cube for some neighbouring rows of one head.
    fn cubes(&self, len: usize, heads: usize, batch: usize) -> CubeCount {
        CubeCount::Static(len.div_ceil(self.rows) as u32, heads as u32, batch as u32)
    }

    fn cube_dim(&self) -> CubeDim {
        CubeDim::new_2d(self.lanes as u32, self.rows as u32)
    }
}

/// [`Sizes`] in a kernel that launches a cube for each batch.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct KernelSizes {
    q_len: u32,
    heads: u32,
    kv_len: u32,
    kv_heads: u32,
}

#[cube]
impl KernelSizes {
    /// The number of the row of scores of a query.
    fn row(&self, query: u32, head: u32) -> u32 {
        (CUBE_POS_Z * self.q_len + query) * self.heads + head
    }

    /// The number of the row of `k` and `v`.
    fn key_row(&self, key: u32, kv_head: u32) -> u32 {
        (CUBE_POS_Z * self.kv_len + key) * self.kv_heads + kv_head
    }

    /// The last key that a query sees, its own.
    fn own(&self, query: u32) -> u32 {
        self.kv_len - self.q_len + query
    }

    /// The first key that a query sees.
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
    /// Whether there is such a query: units beyond the last stay and do the last one's work.
    exists: bool,
    /// The number of its row of scores.
    row: u32,
    kv_head: u32,
    /// The first key that it sees.
    first: u32,
    /// The last key that it sees, its own.
    own: u32,
    /// Where the keys end that any query of the cube sees, so that lanes go through them together.
    end: u32,
}

#[cube]
impl Query {
    /// The query of the unit that asks, in a cube for each head.
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

/// This lane's vectors of a row, times `factor`.
#[cube]
fn load_row<F: Float, N: Size>(
    rows: &[Vector<F, N>],
    row: u32,
    factor: f32,
    #[comptime] lanes: usize,
    #[comptime] vectors: usize,
) -> Array<Vector<f32, N>> {
    let mut loaded = Array::<Vector<f32, N>>::new(vectors);
    #[unroll]
    for i in 0..vectors {
        loaded[i] = load::<F, N>(rows, row, i, lanes, vectors) * Vector::new(factor);
    }
    loaded
}

/// This lane's `i`-th vector of a row.
#[cube]
fn load<F: Float, N: Size>(
    rows: &[Vector<F, N>],
    row: u32,
    #[comptime] i: usize,
    #[comptime] lanes: usize,
    #[comptime] vectors: usize,
) -> Vector<f32, N> {
    let at = row * comptime!((lanes * vectors) as u32) + comptime!((i * lanes) as u32) + UNIT_POS_X;
    Vector::cast_from(rows[at as usize])
}

/// Writes this lane's vectors of a row, times `factor`.
#[cube]
fn store_row<F: Float, N: Size>(
    rows: &mut [Vector<F, N>],
    row: u32,
    values: &Array<Vector<f32, N>>,
    factor: f32,
    #[comptime] lanes: usize,
    #[comptime] vectors: usize,
) {
    #[unroll]
    for i in 0..vectors {
        let at =
            row * comptime!((lanes * vectors) as u32) + comptime!((i * lanes) as u32) + UNIT_POS_X;
        rows[at as usize] = Vector::cast_from(values[i] * Vector::new(factor));
    }
}

/// The product of two rows, one of them in registers.
#[cube]
fn dot<F: Float, N: Size>(
    values: &Array<Vector<f32, N>>,
    rows: &[Vector<F, N>],
    row: u32,
    #[comptime] lanes: usize,
    #[comptime] vectors: usize,
) -> f32 {
    let mut products = Vector::<f32, N>::zeroed();
    #[unroll]
    for i in 0..vectors {
        products += values[i] * load::<F, N>(rows, row, i, lanes, vectors);
    }
    total(products, lanes)
}

/// Adds a row times `factor`.
#[cube]
fn add_row<F: Float, N: Size>(
    sums: &mut Array<Vector<f32, N>>,
    factor: f32,
    rows: &[Vector<F, N>],
    row: u32,
    #[comptime] lanes: usize,
    #[comptime] vectors: usize,
) {
    #[unroll]
    for i in 0..vectors {
        sums[i] += Vector::new(factor) * load::<F, N>(rows, row, i, lanes, vectors);
    }
}

/// The sum over the elements of a vector and over the lanes of the row.
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

/// Sums of nothing yet, as many as a lane has vectors.
#[cube]
fn zeroed<N: Size>(#[comptime] vectors: usize) -> Array<Vector<f32, N>> {
    let mut values = Array::<Vector<f32, N>>::new(vectors);
    #[unroll]
    for i in 0..vectors {
        values[i] = Vector::zeroed();
    }
    values
}
