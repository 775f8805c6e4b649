use nf4::attention::AttentionShape;
use std::ops::Range;

/// The first key that every query of a batch sees.
pub(super) struct FirstKeys {
    /// `[rows, q_len]`, or empty where that is key 0.
    keys: Vec<usize>,
    /// Rows of the batch that have first keys of their own, or 1.
    rows: usize,
    q_len: usize,
}

impl FirstKeys {
    /// Takes the first keys of the queries' sequences, `[batch, q_len]`, and a window; a query sees its own key whatever
    /// they say.
    pub fn new(offsets: Option<&[i64]>, window: Option<usize>, shape: &AttentionShape) -> Self {
        let of_window =
            |i: usize| window.map_or(0, |window| shape.visible(i).saturating_sub(window));
        let (rows, keys) = match offsets {
            Some(offsets) => {
                assert_eq!(
                    offsets.len(),
                    shape.batch * shape.q_len,
                    "attention: there must be one sequence offset for every query"
                );
                let queries = (0..shape.batch).flat_map(|_| 0..shape.q_len);
                let first = |(offset, i): (&i64, usize)| {
                    let own = shape.visible(i) - 1;
                    let sequence = (*offset).clamp(0, own as i64) as usize;
                    sequence.max(of_window(i).min(own))
                };
                (
                    shape.batch,
                    offsets.iter().zip(queries).map(first).collect(),
                )
            }
            None if window.is_some() => (1, (0..shape.q_len).map(of_window).collect()),
            None => (1, Vec::new()),
        };
        Self {
            keys,
            rows,
            q_len: shape.q_len,
        }
    }

    /// Returns the first keys of the queries `range` of row `batch`; none where that is key 0.
    pub fn of(&self, batch: usize, range: Range<usize>) -> &[usize] {
        if self.keys.is_empty() {
            &[]
        } else {
            &self.keys[batch % self.rows * self.q_len..][range]
        }
    }
}
