use burn_flex::FlexTensor;

use super::super::{buffer::f32, matmul::Matrix};

/// The f32 values of a tensor `[batch, len, heads, d]` whose heads are each without gaps; batch,
/// position and head may be in any order and with any distance, as in a view of a cache.
pub(super) struct Operand {
    tensor: FlexTensor,
    strides: [usize; 3],
    offset: usize,
    d: usize,
}

impl Operand {
    pub fn new(tensor: FlexTensor) -> Self {
        let tensor = f32(tensor);
        let ordinary = |t: &FlexTensor| {
            let strides = t.layout().strides();
            (strides[3] == 1 || t.layout().shape()[3] == 1) && strides.iter().all(|s| *s >= 0)
        };
        let tensor = if ordinary(&tensor) {
            tensor
        } else {
            tensor.to_contiguous()
        };
        let strides = tensor.layout().strides();
        Self {
            strides: [0, 1, 2].map(|dim| strides[dim] as usize),
            offset: tensor.layout().start_offset(),
            d: tensor.layout().shape()[3],
            tensor,
        }
    }

    /// One head at one position.
    pub fn head(&self, batch: usize, position: usize, head: usize) -> &[f32] {
        let [b, p, h] = self.strides;
        let start = self.offset + batch * b + position * p + head * h;
        &self.tensor.storage()[start..start + self.d]
    }

    /// One head at the positions `range`: `[range, d]`.
    pub fn positions(
        &self,
        batch: usize,
        range: core::ops::Range<usize>,
        head: usize,
    ) -> Matrix<'_> {
        let [b, p, h] = self.strides;
        let start = self.offset + batch * b + range.start * p + head * h;
        Matrix::new(&self.tensor.storage()[start..], range.len(), self.d, p)
    }

    /// Copies the heads of a group at the positions `range`, times `scale`: `[range · group, d]`.
    pub fn gather(
        &self,
        batch: usize,
        range: core::ops::Range<usize>,
        heads: core::ops::Range<usize>,
        scale: f32,
        rows: &mut [f32],
    ) {
        let mut rows = rows.chunks_exact_mut(self.d);
        for position in range {
            for head in heads.clone() {
                let row = rows.next().expect("there is a row for every head");
                for (to, from) in row.iter_mut().zip(self.head(batch, position, head)) {
                    *to = from * scale;
                }
            }
        }
    }
}
