//! Attention of one more token of every row to those that are kept, which it joins: its rotation, its place among keys and values and
//! its attention in one launch.
//!
//! A cube has a query. Its rows of lanes go through the kept keys in turn, each with a running softmax of its own, and their sums
//! meet in shared memory. The new key is in no memory that another cube could read in time, so every cube of its head turns it
//! anew.
//!
//! Bytes: the keys and values that are kept, once for each query head of theirs, from caches but for the first.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;
use nf4::attention::{AttentionConfig, AttentionShape};

use super::grid::{Grid, LanePart};
use super::inputs::Mask;
use super::lane::{add_row, dot, dot_loaded, store_row};
use super::scores::Scores;
use super::{LOWEST, mask_arg, scores_arg, starts_dtype};
use crate::error::{KernelError, check_float, check_length, check_size, is_served};
use crate::fused::are_served_alike;
use crate::operand::{contiguous, elements, empty, tensor_buffer};

const OPERATION: &str = "cached attention";

/// Buffers of a launch: queries, keys and values, four tables, starts, what is kept, the result, and the sizes.
const BINDINGS: u32 = 12;
/// Elements of the sums that a cube keeps in shared memory, in f32: 16 KiB, which every device has.
const SHARED: usize = 4096;

/// The operands of an attention to kept tokens.
#[derive(Clone, Debug)]
pub struct CachedOperands {
    /// `[batch, 1, heads, head_dim]`.
    pub q: TensorHandle,
    /// `[batch, 1, kv_heads, head_dim]`.
    pub k: TensorHandle,
    /// Like `k`.
    pub v: TensorHandle,
    /// The rotation of queries and keys, if they rotate.
    pub angles: Option<Angles>,
    /// `[batch, room, kv_heads, head_dim]`, contiguous and nobody else's: the new keys are written to it, rounded to its type, in
    /// which they are attended to.
    pub keys: TensorHandle,
    /// Like `keys`, for the values.
    pub values: TensorHandle,
    /// The tokens of a row that are kept.
    pub len: usize,
    /// The first token that each query sees, `[batch, 1]` integers; its own it sees in any case.
    pub starts: Option<TensorHandle>,
    /// Scale, window and bound of the scores.
    pub config: AttentionConfig,
}

/// Cosines and sines, `[rows, n/2]` each; row `i` of the batch takes row `i % rows`.
#[derive(Clone, Debug)]
pub struct Angles {
    /// Of the queries.
    pub query: [TensorHandle; 2],
    /// Of the keys.
    pub key: [TensorHandle; 2],
}

/// Returns whether there is a kernel for `q`, `k` and `v` of types `new`, what is kept of types `kept` and tables of types `angles`,
/// of `q_len` tokens a row.
pub fn serves_cached(
    client: &Client,
    new: [ElemType; 3],
    kept: [ElemType; 2],
    angles: Option<[ElemType; 4]>,
    q_len: usize,
) -> bool {
    let tables = angles.is_none_or(|angles| are_served_alike(&angles));
    let operands = are_served_alike(&new) && are_served_alike(&kept);
    let bindings = client.properties().hardware.max_bindings;
    q_len == 1 && operands && tables && bindings >= BINDINGS
}

/// Returns the attention, like `q`, and has written the new keys and values behind the kept ones.
///
/// # Errors
/// [`KernelError::UnsupportedType`], [`KernelError::ShapeMismatch`], [`KernelError::TooLarge`].
pub fn forward_cached(
    client: &Client,
    operands: CachedOperands,
) -> Result<TensorHandle, KernelError> {
    let CachedOperands {
        q,
        k,
        v,
        angles,
        keys,
        values,
        len,
        starts,
        config,
    } = operands;
    for (dtype, others) in [(q.dtype, [&k, &v]), (keys.dtype, [&keys, &values])] {
        check_float(client, OPERATION, dtype)?;
        if let Some(other) = others.iter().find(|other| other.dtype != dtype) {
            return Err(KernelError::UnsupportedType {
                operation: OPERATION,
                dtype: other.dtype,
            });
        }
    }
    for other in [&k, &v, &keys, &values] {
        let rank = other.shape().num_dims();
        check_length(OPERATION, "operand's rank", rank, 4)?;
    }
    check_length(OPERATION, "query's rank", q.shape().num_dims(), 4)?;
    let [batch, room, kv_heads, head_dim] = keys.shape().dims();
    let shape = AttentionShape::new(q.shape().dims(), [batch, len + 1, kv_heads, head_dim]);
    check_size("query", elements(&q))?;
    check_size("kept keys", elements(&keys))?;
    check_length(OPERATION, "query", elements(&q), shape.q_elements())?;
    check_length(OPERATION, "query's length", shape.q_len, 1)?;
    for new in [&k, &v] {
        check_length(
            OPERATION,
            "new key",
            elements(new),
            batch * kv_heads * head_dim,
        )?;
    }
    check_length(OPERATION, "kept values", elements(&values), elements(&keys))?;
    check_length(OPERATION, "room", room.max(len + 1), room)?;
    if let Some(starts) = &starts {
        check_length(OPERATION, "starts", elements(starts), batch)?;
    }
    let angles = angles
        .map(|angles| tables(client, angles, head_dim))
        .transpose()?
        .filter(|tables| tables.half > 0);
    let half = angles.as_ref().map_or(0, |tables| tables.half);
    let grid = Grid::new(client, q.dtype, head_dim).dividing(half);
    let split = Split {
        part: grid.part,
        rows: grid.rows.min((SHARED / head_dim).max(1)),
        rotates: angles.is_some(),
    };
    let [q, k, v] = [q, k, v].map(|tensor| contiguous(client, tensor));
    let starts = starts.map(|starts| contiguous(client, starts));
    let y = empty(client, q.shape().clone(), q.dtype);
    if elements(&q) == 0 {
        return Ok(y);
    }
    let angles_dtype = angles.as_ref().map_or(q.dtype, |tables| tables.dtype);
    // SAFETY: the kernel reads and writes the rows of the batch and of its heads alone, of those that are kept the first `len`, and
    // writes the next, for which there is room.
    unsafe {
        cached_kernel::launch_unchecked(
            client,
            CubeCount::Static(1, shape.heads() as u32, batch as u32),
            CubeDim::new_2d(split.part.lanes as u32, split.rows as u32),
            grid.vector,
            tensor_buffer(&q),
            tensor_buffer(&k),
            tensor_buffer(&v),
            angles.map(|tables| tables.arg(grid.vector)).into(),
            tensor_buffer(&keys),
            tensor_buffer(&values),
            tensor_buffer(&y),
            mask_arg(&shape, &config, starts.as_ref()),
            scores_arg(&config),
            room as u32,
            split,
            q.dtype,
            keys.dtype,
            angles_dtype,
            starts_dtype(starts.as_ref()),
        );
    }
    Ok(y)
}

/// Checked tables, contiguous.
struct Tables {
    query: [TensorHandle; 2],
    key: [TensorHandle; 2],
    /// Elements of a row.
    half: usize,
    rows: usize,
    dtype: ElemType,
}

fn tables(client: &Client, angles: Angles, head_dim: usize) -> Result<Tables, KernelError> {
    let Angles { query, key } = angles;
    let dtype = query[0].dtype;
    let half = query[0].shape().last().copied().unwrap_or(0);
    check_float(client, OPERATION, dtype)?;
    check_length(
        OPERATION,
        "angles' last dimension",
        half,
        half.min(head_dim / 2),
    )?;
    for table in query.iter().chain(&key) {
        if table.dtype != dtype || !is_served(dtype) {
            return Err(KernelError::UnsupportedType {
                operation: OPERATION,
                dtype: table.dtype,
            });
        }
        check_length(OPERATION, "angles", elements(table), elements(&query[0]))?;
    }
    Ok(Tables {
        rows: elements(&query[0]) / half.max(1),
        query: query.map(|table| contiguous(client, table)),
        key: key.map(|table| contiguous(client, table)),
        half,
        dtype,
    })
}

impl Tables {
    fn arg<A: Float, N: Size>(&self, vector: usize) -> RotationLaunch<'static, A, N> {
        let [query_cos, query_sin] = self.query.each_ref().map(tensor_buffer);
        let [key_cos, key_sin] = self.key.each_ref().map(tensor_buffer);
        RotationLaunch::new(
            query_cos,
            query_sin,
            key_cos,
            key_sin,
            (self.half / vector) as u32,
            self.rows as u32,
        )
    }
}

/// How a cube shares its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Split {
    part: LanePart,
    /// Rows of lanes.
    rows: usize,
    /// Tells instances apart: see `fused`.
    rotates: bool,
}

/// The tables in a kernel.
#[derive(CubeType, CubeLaunch)]
struct Rotation<'a, A: Float, N: Size> {
    query_cos: &'a [Vector<A, N>],
    query_sin: &'a [Vector<A, N>],
    key_cos: &'a [Vector<A, N>],
    key_sin: &'a [Vector<A, N>],
    /// Vectors of a row.
    half: u32,
    rows: u32,
}

#[cube(launch_unchecked)]
fn cached_kernel<F: Float, C: Float, A: Float, I: Int, N: Size>(
    q: &[Vector<F, N>],
    k: &[Vector<F, N>],
    v: &[Vector<F, N>],
    rotation: ComptimeOption<Rotation<'_, A, N>>,
    keys: &mut [Vector<C, N>],
    values: &mut [Vector<C, N>],
    y: &mut [Vector<F, N>],
    mask: Mask<'_, I>,
    scores: Scores,
    room: u32,
    #[comptime] split: Split,
    #[define(F)] _dtype: ElemType,
    #[define(C)] _kept_dtype: ElemType,
    #[define(A)] _angles_dtype: ElemType,
    #[define(I)] _starts_dtype: ElemType,
) {
    let part = comptime!(split.part);
    let rows = comptime!(split.rows);
    let columns = comptime!(part.lanes * part.vectors);
    let sizes = mask.sizes;
    let len = sizes.own(0);
    let (head, batch) = (CUBE_POS_Y, CUBE_POS_Z);
    let group = sizes.heads / sizes.kv_heads;
    let kv_head = head / group;
    let new_row = batch * sizes.kv_heads + kv_head;

    let mut query = Array::<Vector<f32, N>>::new(part.vectors);
    let mut key = Array::<Vector<f32, N>>::new(part.vectors);
    let mut value = Array::<Vector<f32, N>>::new(part.vectors);
    let query_start = sizes.row(0, head) * comptime!(columns as u32);
    let key_start = new_row * comptime!(columns as u32);
    #[unroll]
    for i in 0..part.vectors {
        let column = comptime!((i * part.lanes) as u32) + UNIT_POS_X;
        let (query_at, key_at) = (query_start + column, key_start + column);
        value[i] = Vector::cast_from(v[key_at as usize]);
        #[comptime]
        match &rotation {
            ComptimeOption::Some(rotation) => {
                let (half, row) = (rotation.half, batch % rotation.rows * rotation.half);
                let (cos, sin) = (rotation.query_cos, rotation.query_sin);
                query[i] = turned::<F, A, N>(q, query_start, column, cos, sin, row, half);
                let (cos, sin) = (rotation.key_cos, rotation.key_sin);
                key[i] = turned::<F, A, N>(k, key_start, column, cos, sin, row, half);
            }
            ComptimeOption::None => {
                query[i] = Vector::cast_from(q[query_at as usize]);
                key[i] = Vector::cast_from(k[key_at as usize]);
            }
        }
        query[i] *= Vector::new(scores.factor());
        key[i] = as_kept::<C, N>(key[i]);
        value[i] = as_kept::<C, N>(value[i]);
    }

    let own = UNIT_POS_Y == 0;
    let kept = batch * room;
    if own && head % group == 0 {
        let row = (kept + len) * sizes.kv_heads + kv_head;
        store_row::<C, N>(keys, row, &key, f32::new(1.0), part);
        store_row::<C, N>(values, row, &value, f32::new(1.0), part);
    }

    // The first row of lanes begins with the new token, the others with nothing.
    let score = scores.score(dot_loaded::<N>(&query, &key, part));
    let mut maximum = select(own, score, f32::new(LOWEST));
    let mut sum = select(own, f32::new(1.0), f32::new(0.0));
    let mut out = Array::<Vector<f32, N>>::new(part.vectors);
    #[unroll]
    for i in 0..part.vectors {
        out[i] = value[i] * Vector::new(sum);
    }
    let first = mask.first(0);
    let rounds = (len - first).div_ceil(comptime!(rows as u32));
    for round in 0..rounds {
        let token = first + round * comptime!(rows as u32) + UNIT_POS_Y;
        let exists = token < len;
        let row = (kept + min(token, len - 1)) * sizes.kv_heads + kv_head;
        let score = scores.score(dot::<C, N>(&query, &*keys, row, part));
        let score = select(exists, score, f32::new(LOWEST));
        let before = maximum;
        maximum = max(maximum, score);
        let factor = (before - maximum).exp();
        let p = select(exists, (score - maximum).exp(), f32::new(0.0));
        sum = sum * factor + p;
        #[unroll]
        for i in 0..part.vectors {
            out[i] *= Vector::new(factor);
        }
        add_row::<C, N>(&mut out, p, &*values, row, part);
    }

    let mut maxima = Shared::<[f32]>::new_slice(rows);
    let mut sums = Shared::<[f32]>::new_slice(rows);
    let mut outs = Shared::<[Vector<f32, N>]>::new_slice(comptime!(rows * columns));
    if UNIT_POS_X == 0 {
        maxima[UNIT_POS_Y as usize] = maximum;
        sums[UNIT_POS_Y as usize] = sum;
    }
    #[unroll]
    for i in 0..part.vectors {
        let column = comptime!((i * part.lanes) as u32) + UNIT_POS_X;
        outs[(UNIT_POS_Y * comptime!(columns as u32) + column) as usize] = out[i];
    }
    sync_cube();
    let mut most = f32::new(LOWEST);
    for row in 0..rows {
        most = max(most, maxima[row]);
    }
    let mut column = UNIT_POS;
    while column < comptime!(columns as u32) {
        let mut total = f32::new(0.0);
        let mut result = Vector::<f32, N>::zeroed();
        for row in 0..rows {
            let factor = (maxima[row] - most).exp();
            total += sums[row] * factor;
            result += outs[row * columns + column as usize] * Vector::new(factor);
        }
        let result = result * Vector::new(f32::new(1.0) / total);
        y[(query_start + column) as usize] = Vector::cast_from(result);
        column += comptime!((rows * part.lanes) as u32);
    }
}

/// Returns a vector as it is read again from what is kept.
#[cube]
fn as_kept<C: Float, N: Size>(vector: Vector<f32, N>) -> Vector<f32, N> {
    Vector::cast_from(Vector::<C, N>::cast_from(vector))
}

/// Returns a vector of a head that begins at `start`, turned by the angles that begin at `angles` and rounded as if it were stored.
#[cube]
fn turned<F: Float, A: Float, N: Size>(
    x: &[Vector<F, N>],
    start: u32,
    column: u32,
    cos: &[Vector<A, N>],
    sin: &[Vector<A, N>],
    angles: u32,
    half: u32,
) -> Vector<f32, N> {
    let mut value = Vector::<f32, N>::cast_from(x[(start + column) as usize]);
    if column < 2 * half {
        let is_low = column < half;
        let low = column % half;
        let other = start + select(is_low, low + half, low);
        let other = Vector::<f32, N>::cast_from(x[other as usize]);
        let cos = Vector::<f32, N>::cast_from(cos[(angles + low) as usize]);
        let sin = Vector::<f32, N>::cast_from(sin[(angles + low) as usize]);
        let sign = select(is_low, f32::new(-1.0), f32::new(1.0));
        let turned = value * cos + other * (sin * Vector::new(sign));
        value = Vector::cast_from(Vector::<F, N>::cast_from(turned));
    }
    value
}
