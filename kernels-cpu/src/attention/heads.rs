use std::ops::Range;

use crate::element::Element;
use crate::matmul::dense::DenseRef;
use crate::simd::Isa;
use nf4::attention::{AttentionConfig, AttentionShape};

/// Values `[batch, len, heads, d]` whose heads are each without gaps; batch, position and head may be in any order and
/// with any distance, as in a view of a cache, as long as positions do not overlap.
#[derive(Clone, Copy, Debug)]
pub struct HeadsRef<'a, E> {
    data: &'a [E],
    shape: [usize; 4],
    strides: [usize; 3],
}

impl<'a, E: Element> HeadsRef<'a, E> {
    /// Returns a view of `data` from its first value on, element `i` of dimension `n` being `i · strides[n]` after it;
    /// `None` if heads have gaps or positions overlap.
    pub fn new(data: &'a [E], shape: [usize; 4], strides: [isize; 4]) -> Option<Self> {
        let [_, len, _, d] = shape;
        let without_gaps = strides[3] == 1 || d == 1;
        let apart = strides[1] >= d as isize || len == 1;
        let [batch, position, head, _] = strides.map(usize::try_from);
        (without_gaps && strides[3] >= 0 && apart).then_some(())?;
        Some(Self {
            data,
            shape,
            strides: [batch.ok()?, position.ok()?, head.ok()?],
        })
    }

    /// Returns the shape, `[batch, len, heads, d]`.
    pub(super) fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Returns the values from one head of one position of a batch on.
    fn from(&self, batch: usize, position: usize, head: usize) -> &'a [E] {
        let [b, p, h] = self.strides;
        &self.data[batch * b + position * p + head * h..]
    }

    /// Copies the heads of a group at the positions `range`: `[range · group, d]`.
    pub(super) fn gather(
        &self,
        isa: Isa,
        batch: usize,
        range: Range<usize>,
        heads: Range<usize>,
        rows: &mut [E::Operand],
    ) {
        let (group, stride, d) = (heads.len(), self.strides[2], self.shape[3]);
        let width = group * d;
        // Heads side by side, as a projection leaves them, are one run of memory.
        let (run, runs) = if stride == d { (width, 1) } else { (d, group) };
        for (position, rows) in range.zip(rows.chunks_exact_mut(width)) {
            let from = self.from(batch, position, heads.start);
            for (i, row) in (0..runs).zip(rows.chunks_exact_mut(run)) {
                E::operands(isa, &from[i * stride..][..run], row);
            }
        }
    }

    /// Returns one head at the positions `range`: `[range, d]`.
    pub(super) fn positions(
        &self,
        batch: usize,
        range: Range<usize>,
        head: usize,
    ) -> DenseRef<'a, E> {
        let data = self.from(batch, range.start, head);
        DenseRef::with_stride(data, [range.len(), self.shape[3]], self.strides[1])
    }
}

/// The operands of an attention, keys and values in `K`.
#[derive(Clone, Copy, Debug)]
pub struct Operands<'a, E: Element, K: Element = <E as Element>::Operand> {
    /// `[batch, q_len, heads, d]`.
    pub q: HeadsRef<'a, E>,
    /// `[batch, kv_len, kv_heads, d]`.
    pub k: HeadsRef<'a, K>,
    /// `[batch, kv_len, kv_heads, d]`.
    pub v: HeadsRef<'a, K>,
    /// The first key that each query sees, `[batch, q_len]`, where rows hold several sequences. A query sees its own
    /// key whatever they say.
    pub sequence_offsets: Option<&'a [i64]>,
    /// Scale, window and bound of the scores.
    pub config: AttentionConfig,
}

impl<E: Element, K: Element> Operands<'_, E, K> {
    /// Returns the sizes.
    pub fn shape(&self) -> AttentionShape {
        AttentionShape::new(self.q.shape(), self.k.shape())
    }
}
