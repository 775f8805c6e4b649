//! The numbers of a data set.

use std::collections::BTreeMap;

use anyhow::Result;
use burn_finetune::{Counts, Dataset, ExampleKind, Told};
use serde::Serialize;

use crate::run::{DataRun, Training};

/// What is known of a data set under the flags of a run.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Examples that were looked at.
    pub examples: usize,
    /// Rows that can be used, an example each before they are packed.
    pub rows: usize,
    /// Tokens of these rows.
    pub tokens: u64,
    /// Tokens of them that count in the loss.
    pub targets: u64,
    /// Rows whose answer is labelled as desirable, and as undesirable, where answers are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// The longest row allowed.
    pub seq_len: usize,
    /// Rows that were cut to it.
    pub cut: usize,
    /// Tokens that were cut off.
    pub cut_tokens: u64,
    /// Rows that were left out.
    pub dropped: Option<Told>,
    /// Examples that cannot be used, by what is wrong with them.
    pub refused: Vec<Told>,
    /// What else the user should hear.
    pub warnings: Vec<Told>,
    /// Lengths in tokens, before rows are cut and those that are too long among them.
    pub lengths: Option<Lengths>,
    /// Rows that are held out by `--eval-split`.
    pub held_out: Option<usize>,
    /// The steps of an epoch with a row an example, and with examples packed.
    pub steps: Option<Steps>,
    /// Whether the run packs.
    pub packing: bool,
}

/// The labels of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Labels {
    /// Rows whose answer is desirable.
    pub desirable: usize,
    /// Rows whose answer is not.
    pub undesirable: usize,
}

/// The lengths of rows.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Lengths {
    /// The shortest.
    pub shortest: usize,
    /// Half of the rows are no longer.
    pub median: usize,
    /// 95 of 100 rows are no longer.
    pub p95: usize,
    /// The longest.
    pub longest: usize,
    /// How many there are from one length to another.
    pub histogram: Vec<Bin>,
}

/// The rows of some lengths.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Bin {
    /// The least length.
    pub from: usize,
    /// The greatest.
    pub to: usize,
    /// The rows.
    pub rows: usize,
}

/// The steps of an epoch.
#[derive(Debug, Serialize)]
pub struct Steps {
    /// With a row an example.
    pub apart: Epoch,
    /// With `--packing`.
    pub packed: Epoch,
}

/// The batches of the first epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Epoch {
    /// Rows to train on.
    pub rows: usize,
    /// Steps.
    pub steps: usize,
    /// Mean number of tokens of a step, without padding.
    pub tokens_a_step: f64,
    /// The share of the batches that is padding, 0 to 1.
    pub padding: f64,
}

impl Measured {
    /// Measures rows that `counts` tells of under the flags of a run.
    ///
    /// # Errors
    /// Rows that cannot be read.
    pub fn of(run: &DataRun, seq_len: usize, data: &Dataset) -> Result<Self> {
        let Counts {
            examples,
            rows,
            tokens,
            targets,
            desirable,
            undesirable,
            cut,
            cut_tokens,
            dropped,
            refused,
            warnings,
            lengths,
            ..
        } = data.counts().clone();
        let training = &run.training;
        let (train, held_out) = match run.eval_split {
            Some(share) if !data.is_empty() => {
                let split = data.split(share, training.seed())?;
                (split.train, Some(split.held_out.len()))
            }
            _ => (data.clone(), None),
        };
        let steps = if train.is_empty() {
            None
        } else {
            Some(Steps {
                apart: Epoch::of(training, &train)?,
                packed: Epoch::of(training, &train.packed(seq_len)?)?,
            })
        };
        Ok(Self {
            examples,
            rows,
            tokens,
            targets,
            labels: (desirable + undesirable > 0).then_some(Labels {
                desirable,
                undesirable,
            }),
            seq_len,
            cut,
            cut_tokens,
            dropped,
            refused,
            warnings,
            lengths: Lengths::of(&lengths),
            held_out,
            steps,
            packing: training.packing,
        })
    }
}

impl Lengths {
    fn of(rows: &BTreeMap<usize, usize>) -> Option<Self> {
        let (shortest, _) = rows.first_key_value()?;
        let (longest, _) = rows.last_key_value()?;
        let count: usize = rows.values().sum();
        let share = |part: usize| {
            let mut left = (count * part).div_ceil(100);
            let reached = rows.iter().find(|(_, rows)| {
                left = left.saturating_sub(**rows);
                left == 0
            });
            reached.map_or(*longest, |(len, _)| *len)
        };
        let mut histogram = Vec::new();
        let mut from = 1;
        while from <= *longest {
            let to = 2 * from - 1;
            let rows = rows.range(from..=to).map(|(_, rows)| rows).sum();
            if rows > 0 || !histogram.is_empty() {
                histogram.push(Bin { from, to, rows });
            }
            from *= 2;
        }
        Some(Self {
            shortest: *shortest,
            median: share(50),
            p95: share(95),
            longest: *longest,
            histogram,
        })
    }
}

impl Epoch {
    fn of(training: &Training, data: &Dataset) -> Result<Self> {
        // The two of a pair have rows of their own in a batch.
        let is_apart = data.kind()? == ExampleKind::Pairs && data.examples() == data.len();
        let mut order = training.order(data)?;
        let steps = order.steps_per_epoch();
        let (mut tokens, mut places) = (0, 0);
        for step in 0..steps {
            for batch in order.rows_of(step).chunks(training.batch_size()) {
                let mut lens = Vec::new();
                for row in batch {
                    if is_apart {
                        lens.extend(data.row(*row)?.sequences().map(|places| places.len()));
                    } else {
                        lens.push(data.row_len(*row)?);
                    }
                }
                tokens += lens.iter().sum::<usize>();
                places += lens.iter().max().unwrap_or(&0) * lens.len();
            }
        }
        Ok(Self {
            rows: data.len(),
            steps,
            tokens_a_step: tokens as f64 / steps as f64,
            padding: 1.0 - tokens as f64 / places.max(1) as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_told_by_shares_and_doubling_bins() {
        assert_eq!(Lengths::of(&BTreeMap::new()), None);
        let rows = BTreeMap::from([(3, 1), (5, 17), (7, 1), (40, 1)]);
        let bin = |from, to, rows| Bin { from, to, rows };
        let expected = Lengths {
            shortest: 3,
            median: 5,
            p95: 7,
            longest: 40,
            histogram: vec![
                bin(2, 3, 1),
                bin(4, 7, 18),
                bin(8, 15, 0),
                bin(16, 31, 0),
                bin(32, 63, 1),
            ],
        };
        assert_eq!(Lengths::of(&rows), Some(expected));
    }
}
