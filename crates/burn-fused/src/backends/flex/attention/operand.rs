use burn_flex::FlexTensor;
use core::ops::Range;
use qlora_cpu::dense::DenseRef;

use super::super::{buffer::cast, number::Number};

/// The values of a tensor `[batch, len, heads, d]` whose heads are each without gaps; batch, position and head may be in
/// any order and with any distance, as in a view of a cache, as long as positions do not overlap.
pub(super) struct Operand(FlexTensor);

impl Operand {
    /// The tensor in the type `E`.
    pub fn new<E: Number>(tensor: FlexTensor) -> Self {
        let tensor = cast(tensor, E::dtype());
        let layout = tensor.layout();
        let strides = layout.strides();
        let ordinary =
            (strides[3] == 1 || layout.shape()[3] == 1) && strides.iter().all(|s| *s >= 0);
        let apart = strides[1] >= layout.shape()[3] as isize || layout.shape()[1] == 1;
        Self(if ordinary && apart {
            tensor
        } else {
            tensor.to_contiguous()
        })
    }

    /// What the threads read.
    ///
    /// # Panics
    /// When `E` is not the type it was made with.
    pub fn view<E: Number>(&self) -> View<'_, E> {
        assert_eq!(self.0.dtype(), E::dtype());
        let layout = self.0.layout();
        let strides = layout.strides();
        View {
            data: &self.0.storage()[layout.start_offset()..],
            strides: [0, 1, 2].map(|dim| strides[dim] as usize),
            d: layout.shape()[3],
        }
    }
}

/// A borrowed [`Operand`].
#[derive(Clone, Copy)]
pub(super) struct View<'a, E> {
    data: &'a [E],
    strides: [usize; 3],
    d: usize,
}

impl<'a, E: Number> View<'a, E> {
    /// From one head of one position of a batch on.
    fn from(&self, batch: usize, position: usize, head: usize) -> &'a [E] {
        let [b, p, h] = self.strides;
        &self.data[batch * b + position * p + head * h..]
    }

    /// Copies the heads of a group at the positions `range`: `[range · group, d]`.
    pub fn gather(
        &self,
        batch: usize,
        range: Range<usize>,
        heads: Range<usize>,
        rows: &mut [E::Operand],
    ) {
        let (group, stride, d) = (heads.len(), self.strides[2], self.d);
        let width = group * d;
        // Heads side by side, as a projection leaves them, are one run of memory.
        let (run, runs) = if stride == d { (width, 1) } else { (d, group) };
        for (position, rows) in range.zip(rows.chunks_exact_mut(width)) {
            let from = self.from(batch, position, heads.start);
            for (i, row) in (0..runs).zip(rows.chunks_exact_mut(run)) {
                E::operands(&from[i * stride..][..run], row);
            }
        }
    }

    /// One head at the positions `range`: `[range, d]`.
    pub fn positions(&self, batch: usize, range: Range<usize>, head: usize) -> DenseRef<'a, E> {
        let data = self.from(batch, range.start, head);
        DenseRef::with_stride(data, [range.len(), self.d], self.strides[1])
    }
}
