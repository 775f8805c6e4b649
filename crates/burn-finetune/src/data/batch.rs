//! Rows as tensors.

use super::row::Row;
use burn::tensor::{Device, Tensor, TensorData};
use burn_qlora::{CausalLm, TokenBatch};
use std::borrow::Borrow;

/// Rows as the tensors that a model is given.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The tensors that a model is given.
    pub tensors: TokenBatch,
    /// Number of targets that are not ignored.
    pub target_tokens: usize,
    /// Number of tokens that are not padding.
    pub tokens: usize,
}

/// How the rows of a batch lie in its tensors. Loss and gradients are the same but for the order of sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchLayout {
    /// Side by side, `[rows, longest]`, padded on the right.
    Padded,
    /// Rows of several lengths one behind the other, `[1, tokens]`, each a sequence or more of [`TokenBatch::starts`]: nothing is
    /// computed for padding. Rows of one length are side by side.
    EndToEnd,
}

impl BatchLayout {
    /// Returns the one that costs `model` the least. [Noise](burn_qlora::BackwardPass::noise) is measured by the length of padded
    /// rows, and asks for them.
    pub fn of<M: CausalLm>(model: &M, noise: f64) -> Self {
        if model.prefers_packed_rows() && noise == 0.0 {
            Self::EndToEnd
        } else {
            Self::Padded
        }
    }

    /// Returns the shape of the tensors, and the place of each row's first token in them.
    pub(crate) fn places<'a>(
        self,
        rows: impl Iterator<Item = &'a Row> + Clone,
    ) -> ([usize; 2], Vec<usize>) {
        let lens = rows.map(Row::len);
        let (count, tokens) = lens
            .clone()
            .fold((0, 0), |(n, sum), len| (n + 1, sum + len));
        let longest = lens.clone().max().unwrap_or(0);
        if self == Self::Padded || tokens == count * longest {
            let starts = (0..count).map(|row| row * longest);
            return ([count, longest], starts.collect());
        }
        let starts = lens.scan(0, |end, len| {
            *end += len;
            Some(*end - len)
        });
        ([1, tokens], starts.collect())
    }
}

impl Batch {
    /// Puts `rows` side by side on `device`, as [`BatchLayout::Padded`] says.
    ///
    /// # Panics
    /// When there is no row.
    pub fn collate<R: Borrow<Row>>(rows: &[R], device: &Device) -> Self {
        Self::laid_out(rows, BatchLayout::Padded, device)
    }

    /// Puts `rows` on `device`.
    ///
    /// Padding is token 0: nothing real attends to it and its targets are ignored, so any id will do.
    ///
    /// # Panics
    /// When there is no row.
    pub fn laid_out<R: Borrow<Row>>(rows: &[R], layout: BatchLayout, device: &Device) -> Self {
        assert!(!rows.is_empty(), "a batch should have at least one row");
        let rows = rows.iter().map(Borrow::borrow);
        let (shape @ [_, seq], places) = layout.places(rows.clone());
        let count = shape.iter().product();
        let mut input_ids = vec![0i64; count];
        let mut targets = vec![TokenBatch::IGNORED; count];
        let in_row = |place: usize| (place % seq.max(1)) as i64;
        // Padding begins where it is.
        let mut starts: Vec<i64> = (0..count).map(in_row).collect();
        let mut sequences = 0;
        for (row, first) in rows.clone().zip(places) {
            for (at, (id, learn)) in row.ids.iter().zip(&row.learn).enumerate() {
                input_ids[first + at] = i64::from(*id);
                if *learn && at > 0 {
                    targets[first + at - 1] = i64::from(*id);
                }
            }
            for sequence in row.sequences() {
                let places = first + sequence.start..first + sequence.end;
                let start = in_row(places.start);
                starts[places].fill(start);
                sequences += 1;
            }
        }
        let tensor = |values| Tensor::from_data(TensorData::new(values, shape), device);
        Self {
            target_tokens: targets
                .iter()
                .filter(|target| **target != TokenBatch::IGNORED)
                .count(),
            tokens: rows.map(Row::len).sum(),
            tensors: TokenBatch {
                input_ids: tensor(input_ids),
                starts: (sequences > shape[0]).then(|| tensor(starts)),
                targets: tensor(targets),
            },
        }
    }
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

    #[test]
    fn rows_of_several_lengths_are_laid_end_to_end() {
        let mut packed = Row::all(vec![5, 6, 7]);
        packed.append(&Row::all(vec![8, 9]));
        let values = |tensor: Tensor<2, Int>| tensor.into_data().iter::<i64>().collect::<Vec<_>>();
        let laid = |rows: &[&Row]| Batch::laid_out(rows, BatchLayout::EndToEnd, &Device::flex());

        let batch = laid(&[&Row::all(vec![1, 2]), &packed, &Row::all(vec![3, 4, 5, 6])]);
        assert_eq!(batch.tensors.input_ids.dims(), [1, 11]);
        assert_eq!(
            values(batch.tensors.input_ids),
            [1, 2, 5, 6, 7, 8, 9, 3, 4, 5, 6]
        );
        assert_eq!(
            values(batch.tensors.targets),
            [2, -100, 6, 7, -100, 9, -100, 4, 5, 6, -100]
        );
        assert_eq!(
            values(batch.tensors.starts.unwrap()),
            [0, 0, 2, 2, 2, 5, 5, 7, 7, 7, 7]
        );
        assert_eq!((batch.target_tokens, batch.tokens), (7, 11));

        let alike = [&Row::all(vec![1, 2]), &Row::all(vec![3, 4])];
        let batch = laid(&alike);
        assert_eq!(batch.tensors.input_ids.dims(), [2, 2]);
        assert!(batch.tensors.starts.is_none());
    }
}
