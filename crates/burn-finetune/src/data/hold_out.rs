//! Examples held out from training.

use crate::data::dataset::{Dataset, Selection};
use crate::data::order::below;
use crate::error::FinetuneError;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The stream of the generator that no epoch draws from.
const STREAM: u64 = u64::MAX;

/// A data set in two parts.
#[derive(Debug, Clone)]
pub struct Split {
    /// The rows to train on.
    pub train: Dataset,
    /// The rows to measure on.
    pub held_out: Dataset,
}

impl Dataset {
    /// Parts the data set in two: a `share` of the examples held out, at least one and not all, drawn by `seed`, and the
    /// rest, both in the file's order. Rows of one example stay together.
    ///
    /// # Errors
    /// [`FinetuneError::InvalidConfig`] where there is but one example, [`FinetuneError::Read`], [`FinetuneError::Write`].
    pub fn split(&self, share: f64, seed: u64) -> Result<Split, FinetuneError> {
        let mut examples = 0;
        for goes_on in self.goes_on() {
            examples += usize::from(!goes_on?);
        }
        let choice = Choice::new(share, examples, seed);
        let mut choice = choice.ok_or_else(|| FinetuneError::InvalidConfig {
            field: "eval-split",
            value: format!("{share} of {examples} example"),
            expected: "a share of two examples or more",
        })?;
        let (mut train, mut held_out) = (Selection::of(self), Selection::of(self));
        let mut chosen = false;
        for (place, goes_on) in self.goes_on().enumerate() {
            if !goes_on? {
                chosen = choice.next();
            }
            let part = if chosen { &mut held_out } else { &mut train };
            part.push([place])?;
        }
        Ok(Split {
            train: train.finish()?,
            held_out: held_out.finish()?,
        })
    }
}

/// Chooses a share of some examples, one after the other.
///
/// Each set of examples of the right number is as likely as any other (selection sampling: Knuth, The Art of Computer
/// Programming 2, §3.4.2, algorithm S). Nothing is kept.
#[derive(Debug)]
struct Choice {
    rng: ChaCha8Rng,
    examples: u64,
    wanted: u64,
}

impl Choice {
    /// Returns a choice of `share` of so many examples, at least one of them and not all, by a seed; `None` where there are
    /// not two.
    fn new(share: f64, examples: usize, seed: u64) -> Option<Self> {
        let wanted = (share * examples as f64).round() as usize;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(STREAM);
        (examples > 1).then(|| Self {
            rng,
            examples: examples as u64,
            wanted: wanted.clamp(1, examples - 1) as u64,
        })
    }

    /// Returns whether the next example is chosen.
    fn next(&mut self) -> bool {
        let chosen = self.examples > 0 && below(&mut self.rng, self.examples) < self.wanted;
        self.examples = self.examples.saturating_sub(1);
        self.wanted -= u64::from(chosen);
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::builder::DatasetBuilder;
    use crate::data::row::Row;

    fn chosen(share: f64, examples: usize, seed: u64) -> Vec<usize> {
        let mut choice = Choice::new(share, examples, seed).unwrap();
        (0..examples).filter(|_| choice.next()).collect()
    }

    #[test]
    fn the_share_is_chosen_all_over() {
        let found = chosen(0.05, 1000, 1);
        assert_eq!(found.len(), 50);
        assert!(found[0] < 200 && found[49] >= 800, "{found:?}");
        assert_eq!(found, chosen(0.05, 1000, 1));
        assert_ne!(found, chosen(0.05, 1000, 2));
        assert_eq!(chosen(0.001, 10, 1).len(), 1);
        assert_eq!(chosen(0.99, 10, 1).len(), 9);
        assert!(Choice::new(0.5, 1, 1).is_none());
    }

    #[test]
    fn every_row_is_in_one_part_beside_those_of_its_example() {
        let mut builder = DatasetBuilder::default().with_memory(0);
        for example in 0..40 {
            let row = |row| Row::all(vec![example, row, 3]);
            let rows: Vec<Row> = (0..1 + example % 3).map(row).collect();
            builder.push_example(&rows).unwrap();
        }
        let data = builder.finish().unwrap();
        let Split { train, held_out } = data.split(0.25, 3).unwrap();
        let rows =
            |data: &Dataset| -> Vec<Vec<u32>> { data.rows().map(|row| row.unwrap().ids).collect() };
        let examples = |data: &Dataset| {
            let mut examples: Vec<u32> = rows(data).iter().map(|ids| ids[0]).collect();
            examples.dedup();
            examples
        };
        let (trained, held) = (examples(&train), examples(&held_out));
        assert_eq!((trained.len(), held.len()), (30, 10));
        assert!(trained.iter().all(|example| !held.contains(example)));
        let mut all = [rows(&train), rows(&held_out)].concat();
        all.sort();
        assert_eq!(all, rows(&data));
        assert_eq!(train.longest(), 3);
        assert_eq!(train.len() + held_out.len(), data.len());
        let again = data.split(0.25, 3).unwrap().train;
        assert_eq!(train.fingerprint().unwrap(), again.fingerprint().unwrap());
        // A part is a data set like any other.
        assert_eq!(train.packed(6).unwrap().examples(), train.len());
        assert!(
            Dataset::from_rows(vec![Row::all(vec![1, 2])])
                .split(0.5, 3)
                .is_err()
        );
    }
}
