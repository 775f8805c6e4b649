use burn_flex::FlexTensor;
use core::ops::Range;

use super::super::{buffer::f32, matmul::Matrix, simd::vectorised};

/// The f32 values of a tensor `[batch, len, heads, d]` whose heads are each without gaps; batch,
/// position and head may be in any order and with any distance, as in a view of a cache.
pub(super) struct Operand(FlexTensor);

impl Operand {
    pub fn new(tensor: FlexTensor) -> Self {
        let tensor = f32(tensor);
        let layout = tensor.layout();
        let strides = layout.strides();
        let ordinary =
            (strides[3] == 1 || layout.shape()[3] == 1) && strides.iter().all(|s| *s >= 0);
        Self(if ordinary {
            tensor
        } else {
            tensor.to_contiguous()
        })
    }

    /// What the threads read.
    pub fn view(&self) -> View<'_> {
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
pub(super) struct View<'a> {
    data: &'a [f32],
    strides: [usize; 3],
    d: usize,
}

impl<'a> View<'a> {
    /// From one head of one position of a batch on.
    fn from(&self, batch: usize, position: usize, head: usize) -> &'a [f32] {
        let [b, p, h] = self.strides;
        &self.data[batch * b + position * p + head * h..]
    }

    /// One head at the positions `range`: `[range, d]`.
    pub fn positions(&self, batch: usize, range: Range<usize>, head: usize) -> Matrix<'a> {
        let data = self.from(batch, range.start, head);
        Matrix::new(data, range.len(), self.d, self.strides[1])
    }

    /// Copies the heads of a group at the positions `range`, times `scale`: `[range · group, d]`.
    pub fn gather(
        &self,
        batch: usize,
        range: Range<usize>,
        heads: Range<usize>,
        scale: f32,
        rows: &mut [f32],
    ) {
        let width = heads.len() * self.d;
        for (position, rows) in range.zip(rows.chunks_exact_mut(width)) {
            let group = self.from(batch, position, heads.start);
            scale_heads(group, self.strides[2], self.d, scale, rows);
        }
    }
}

vectorised! {
    /// `rows`, `d` wide, become the heads that lie `stride` apart in `heads`, times `scale`.
    fn scale_heads(heads: &[f32], stride: usize, d: usize, scale: f32, rows: &mut [f32]) {
        for (head, row) in rows.chunks_exact_mut(d).enumerate() {
            for (to, from) in row.iter_mut().zip(&heads[head * stride..][..d]) {
                *to = from * scale;
            }
        }
    }
}
