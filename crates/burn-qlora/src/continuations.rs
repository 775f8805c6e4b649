//! A text and what may follow it.

use burn::tensor::{Device, Tensor, TensorData};

use crate::causal_lm::TokenBatch;

/// The tokens of a text, and those of what may follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuations {
    /// The text, one token at least.
    pub context: Vec<u32>,
    /// What may follow it, each of one token at least.
    pub continuations: Vec<Vec<u32>>,
}

impl Continuations {
    /// Returns the tokens of the text with its longest continuation.
    pub fn longest(&self) -> usize {
        let lengths = self.continuations.iter().map(Vec::len);
        self.context.len() + lengths.max().unwrap_or(0)
    }
}

impl TokenBatch {
    /// Returns a row for every continuation of `asked` in turn, with its text before it, of which the continuation's tokens are
    /// the targets. Its last token is left out: nothing is asked behind it.
    pub fn of_continuations(asked: &[Continuations], device: &Device) -> Self {
        let rows = asked.iter().flat_map(|asked| {
            let of_each = asked.continuations.iter();
            of_each.map(|continuation| (&asked.context, continuation))
        });
        let rows: Vec<_> = rows.collect();
        let lengths = rows
            .iter()
            .map(|(context, next)| context.len() + next.len());
        let seq = lengths.max().unwrap_or(1) - 1;
        let mut ids = Vec::with_capacity(rows.len() * seq);
        let mut targets = Vec::with_capacity(rows.len() * seq);
        let padded = |values: &mut Vec<i64>, row: usize, padding: i64| {
            values.resize((row + 1) * seq, padding);
        };
        for (row, (context, next)) in rows.iter().enumerate() {
            let tokens = context.iter().chain(next.iter()).map(|id| i64::from(*id));
            ids.extend(tokens.take(context.len() + next.len() - 1));
            padded(&mut ids, row, 0);
            targets.extend(std::iter::repeat_n(Self::IGNORED, context.len() - 1));
            targets.extend(next.iter().map(|id| i64::from(*id)));
            padded(&mut targets, row, Self::IGNORED);
        }
        let tensor = |values: Vec<i64>| {
            Tensor::from_data(TensorData::new(values, [rows.len(), seq]), device)
        };
        Self {
            input_ids: tensor(ids),
            starts: None,
            targets: tensor(targets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_continuation_is_a_row_behind_its_text() {
        let asked = [
            Continuations {
                context: vec![1, 2, 3],
                continuations: vec![vec![4], vec![5, 6]],
            },
            Continuations {
                context: vec![7],
                continuations: vec![vec![8, 9, 10]],
            },
        ];
        assert_eq!(asked.each_ref().map(Continuations::longest), [5, 4]);
        let batch = TokenBatch::of_continuations(&asked, &Device::flex());
        let values = |tensor: Tensor<2, burn::tensor::Int>| {
            let data = tensor.into_data();
            data.iter::<i64>().collect::<Vec<_>>()
        };
        assert_eq!(batch.input_ids.dims(), [3, 4]);
        assert_eq!(
            values(batch.input_ids),
            [1, 2, 3, 0, 1, 2, 3, 5, 7, 8, 9, 0]
        );
        assert_eq!(
            values(batch.targets),
            [-100, -100, 4, -100, -100, -100, 5, 6, 8, 9, 10, -100]
        );
    }
}
