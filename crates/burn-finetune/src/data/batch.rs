//! Rows as tensors.

use super::row::Row;
use burn::tensor::{Device, Tensor, TensorData};
use burn_qlora::TokenBatch;
use std::borrow::Borrow;

/// Rows side by side, padded on the right to the longest.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The tensors that a model is given.
    pub tensors: TokenBatch,
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
    pub fn collate<R: Borrow<Row>>(rows: &[R], device: &Device) -> Self {
        assert!(!rows.is_empty(), "a batch should have at least one row");
        let rows: Vec<&Row> = rows.iter().map(Borrow::borrow).collect();
        let seq = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        let shape = [rows.len(), seq];
        let mut input_ids = vec![0i64; rows.len() * seq];
        let mut targets = vec![TokenBatch::IGNORED; rows.len() * seq];
        for (place, row) in rows.iter().enumerate() {
            let start = place * seq;
            for (at, (id, learn)) in row.ids.iter().zip(&row.learn).enumerate() {
                input_ids[start + at] = i64::from(*id);
                if *learn && at > 0 {
                    targets[start + at - 1] = i64::from(*id);
                }
            }
        }
        Self {
            target_tokens: targets
                .iter()
                .filter(|target| **target != TokenBatch::IGNORED)
                .count(),
            tokens: rows.iter().map(|row| row.len()).sum(),
            tensors: TokenBatch {
                input_ids: Tensor::from_data(TensorData::new(input_ids, shape), device),
                starts: rows
                    .iter()
                    .any(|row| row.sequences().count() > 1)
                    .then(|| Tensor::from_data(TensorData::new(starts(&rows, seq), shape), device)),
                targets: Tensor::from_data(TensorData::new(targets, shape), device),
            },
        }
    }
}

/// Returns the place at which each token's sequence begins, `[rows, seq]`; padding begins where it is.
fn starts(rows: &[&Row], seq: usize) -> Vec<i64> {
    let starts = rows.iter().flat_map(|row| {
        let of_tokens = row
            .sequences()
            .flat_map(|sequence| std::iter::repeat_n(sequence.start, sequence.len()));
        of_tokens.chain(row.len()..seq)
    });
    starts.map(|start| start as i64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Int;

    #[test]
    fn targets_are_shifted_and_padding_is_ignored() {
        let rows = [
            Row::new(vec![5, 6, 7, 8], vec![false, false, true, true]),
            Row::all(vec![3, 4]),
        ];
        let batch = Batch::collate(&[&rows[0], &rows[1]], &Device::flex());
        let values = |tensor: Tensor<2, Int>| tensor.into_data().iter::<i64>().collect::<Vec<_>>();
        assert_eq!(values(batch.tensors.input_ids), [5, 6, 7, 8, 3, 4, 0, 0]);
        assert_eq!(
            values(batch.tensors.targets),
            [-100, 7, 8, -100, 4, -100, -100, -100]
        );
        assert_eq!((batch.target_tokens, batch.tokens), (3, 6));
        assert!(batch.tensors.starts.is_none());
    }

    #[test]
    fn sequences_of_a_row_do_not_predict_each_other() {
        let mut row = Row::all(vec![5, 6, 7]);
        row.append(&Row::all(vec![8, 9]));
        let batch = Batch::collate(&[&row, &Row::all(vec![1, 2, 3, 4, 5, 6])], &Device::flex());
        let values = |tensor: Tensor<2, Int>| tensor.into_data().iter::<i64>().collect::<Vec<_>>();
        assert_eq!(
            values(batch.tensors.input_ids),
            [5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6]
        );
        assert_eq!(
            values(batch.tensors.targets),
            [6, 7, -100, 9, -100, -100, 2, 3, 4, 5, 6, -100]
        );
        assert_eq!(
            values(batch.tensors.starts.unwrap()),
            [0, 0, 0, 3, 3, 5, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!((batch.target_tokens, batch.tokens), (8, 11));
    }
}
