//! Rows as tensors.

use super::Row;
use crate::model::IGNORED;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// Rows side by side, padded on the right to the longest.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Token ids `[batch, seq]`.
    pub input_ids: Tensor<2, Int>,
    /// The token after each place, or [`IGNORED`]: `[batch, seq]`.
    pub targets: Tensor<2, Int>,
    /// The place in its row at which each token's sequence begins, `[batch, seq]`, where a row holds several;
    /// padding is a sequence of one token each. `None` where every row is one sequence.
    pub starts: Option<Tensor<2, Int>>,
    /// Number of targets that are not ignored.
    pub target_tokens: usize,
    /// Number of tokens that are not padding.
    pub tokens: usize,
}

impl Batch {
    /// Puts `rows` side by side on `device`.
    ///
    /// Padding is token 0: nothing real attends to it and its targets are ignored, so any id will do.
    ///
    /// # Panics
    /// When there is no row.
    pub fn collate(rows: &[&Row], device: &Device) -> Self {
        assert!(!rows.is_empty(), "a batch should have at least one row");
        let seq = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        let shape = [rows.len(), seq];
        let mut input_ids = vec![0i64; rows.len() * seq];
        let mut targets = vec![IGNORED; rows.len() * seq];
        let packed = rows.iter().any(|row| row.sequences().count() > 1);
        let own_place = |place| (place % seq.max(1)) as i64;
        let mut starts: Vec<i64> = (0..rows.len() * seq).map(own_place).collect();
        for (place, row) in rows.iter().enumerate() {
            let start = place * seq;
            for sequence in row.sequences() {
                let begin = sequence.start as i64;
                starts[start + sequence.start..start + sequence.end].fill(begin);
            }
            for (at, (id, learn)) in row.ids.iter().zip(&row.learn).enumerate() {
                input_ids[start + at] = i64::from(*id);
                if *learn && at > 0 {
                    targets[start + at - 1] = i64::from(*id);
                }
            }
        }
        Self {
            target_tokens: targets.iter().filter(|target| **target != IGNORED).count(),
            tokens: rows.iter().map(|row| row.len()).sum(),
            input_ids: Tensor::from_data(TensorData::new(input_ids, shape), device),
            starts: packed.then(|| Tensor::from_data(TensorData::new(starts, shape), device)),
            targets: Tensor::from_data(TensorData::new(targets, shape), device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_shifted_and_padding_is_ignored() {
        let rows = [
            Row::new(vec![5, 6, 7, 8], vec![false, false, true, true]),
            Row::all(vec![3, 4]),
        ];
        let batch = Batch::collate(&[&rows[0], &rows[1]], &Device::flex());
        let values = |tensor: Tensor<2, Int>| tensor.into_data().iter::<i64>().collect::<Vec<_>>();
        assert_eq!(values(batch.input_ids), [5, 6, 7, 8, 3, 4, 0, 0]);
        assert_eq!(
            values(batch.targets),
            [-100, 7, 8, -100, 4, -100, -100, -100]
        );
        assert_eq!((batch.target_tokens, batch.tokens), (3, 6));
        assert!(batch.starts.is_none());
    }

    #[test]
    fn sequences_of_a_row_do_not_predict_each_other() {
        let mut row = Row::all(vec![5, 6, 7]);
        row.append(&Row::all(vec![8, 9]));
        let batch = Batch::collate(&[&row, &Row::all(vec![1, 2, 3, 4, 5, 6])], &Device::flex());
        let values = |tensor: Tensor<2, Int>| tensor.into_data().iter::<i64>().collect::<Vec<_>>();
        assert_eq!(
            values(batch.input_ids),
            [5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6]
        );
        assert_eq!(
            values(batch.targets),
            [6, 7, -100, 9, -100, -100, 2, 3, 4, 5, 6, -100]
        );
        assert_eq!(
            values(batch.starts.unwrap()),
            [0, 0, 0, 3, 3, 5, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!((batch.target_tokens, batch.tokens), (8, 11));
    }
}
