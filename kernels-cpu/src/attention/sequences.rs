use std::ops::Range;

use super::shape::AttentionShape;

/// The sequence offset of every query of a batch: the first key that the query sees.
pub(super) struct SequenceOffsets {
    /// `[batch, q_len]`, or empty where all begin at 0.
    offsets: Vec<usize>,
    q_len: usize,
}

impl SequenceOffsets {
    /// Takes `offsets: [batch, q_len]`; a query sees its own key whatever they say.
    pub fn new(offsets: Option<&[i64]>, shape: &AttentionShape) -> Self {
        let offsets = offsets.map_or_else(Vec::new, |offsets| {
            assert_eq!(
                offsets.len(),
                shape.batch * shape.q_len,
                "attention: there must be one sequence offset for every query"
            );
            let own = (0..shape.batch).flat_map(|_| (0..shape.q_len).map(|i| shape.visible(i) - 1));
            let inside = |(offset, own): (&i64, usize)| (*offset).clamp(0, own as i64) as usize;
            offsets.iter().zip(own).map(inside).collect()
        });
        Self {
            offsets,
            q_len: shape.q_len,
        }
    }

    /// Returns the offsets of the queries `range` of row `batch`; none where all begin at 0.
    pub fn of(&self, batch: usize, range: Range<usize>) -> &[usize] {
        if self.offsets.is_empty() {
            &[]
        } else {
            &self.offsets[batch * self.q_len..][range]
        }
    }
}
