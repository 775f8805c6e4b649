//! The rows of a step.

use std::cmp::Reverse;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The rows of every step, as a function of the step alone: a resumed run needs to remember nothing else.
///
/// Every epoch goes through all rows once, in an order of its own when shuffled; its last step may be
/// short.
#[derive(Debug, Clone)]
pub struct Order {
    rows: usize,
    rows_per_step: usize,
    shuffle: Option<u64>,
    epoch: Option<usize>,
    /// The rows of the epoch in their order: four bytes a row, which is all that grows with the data.
    permutation: Vec<u32>,
    /// The length of every row, where rows of like lengths come together: four bytes a row more.
    lengths: Option<Vec<u32>>,
}

/// Steps whose rows are sorted by length together, at most; of a small set a quarter of all steps.
const GROUPED_STEPS: usize = 50;

impl Order {
    /// Returns an order over `rows` rows, `rows_per_step` at a time, shuffled by a seed or as they come.
    ///
    /// # Panics
    /// When one of the two numbers is 0, or there are more rows than 2³².
    pub fn new(rows: usize, rows_per_step: usize, shuffle: Option<u64>) -> Self {
        assert!(
            rows > 0 && rows_per_step > 0,
            "an order needs rows and steps that take some"
        );
        assert!(rows - 1 <= u32::MAX as usize, "{rows} rows are too many");
        Self {
            rows,
            rows_per_step,
            shuffle,
            epoch: None,
            permutation: Vec::new(),
            lengths: None,
        }
    }

    /// Returns it with shuffled rows sorted by their `lengths` within groups of up to 50 steps, the longest of all first, so
    /// that batches have little padding (transformers' `get_length_grouped_indices`).
    ///
    /// # Panics
    /// When there is not a length a row.
    #[must_use]
    pub fn grouped_by_length(mut self, lengths: Vec<u32>) -> Self {
        assert_eq!(lengths.len(), self.rows, "a length a row");
        self.lengths = Some(lengths);
        self
    }

    /// Returns the number of steps of one pass over all rows.
    pub fn steps_per_epoch(&self) -> usize {
        self.rows.div_ceil(self.rows_per_step)
    }

    /// Returns the rows of `step`, counted from 0 over all epochs.
    pub fn rows_of(&mut self, step: usize) -> Vec<usize> {
        let steps = self.steps_per_epoch();
        let (epoch, place) = (step / steps, step % steps);
        let start = place.saturating_mul(self.rows_per_step);
        let rows = start..start.saturating_add(self.rows_per_step).min(self.rows);
        let Some(seed) = self.shuffle else {
            return rows.collect();
        };
        if self.epoch != Some(epoch) {
            self.shuffle(seed, epoch);
        }
        let rows = self.permutation[rows].iter();
        rows.map(|row| *row as usize).collect()
    }

    /// Shuffles as Fisher and Yates do, spelled out so that no release of a library changes what a seed means.
    fn shuffle(&mut self, seed: u64, epoch: usize) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(epoch as u64);
        self.permutation.clear();
        self.permutation.extend(0..=(self.rows - 1) as u32);
        for last in (1..self.rows).rev() {
            let other = below(&mut rng, last as u64 + 1) as usize;
            self.permutation.swap(last, other);
        }
        self.group();
        self.epoch = Some(epoch);
    }

    /// Sorts the permutation within groups of steps, where it is to be.
    fn group(&mut self) {
        let Some(lengths) = &self.lengths else {
            return;
        };
        let len = |row: &u32| lengths[*row as usize];
        let steps = self.rows / self.rows_per_step.saturating_mul(4);
        let group = self
            .rows_per_step
            .saturating_mul(steps.clamp(1, GROUPED_STEPS));
        for rows in self.permutation.chunks_mut(group) {
            rows.sort_by_key(|row| Reverse(len(row)));
        }
        // If a step takes too much memory, it is the first.
        let firsts = (0..self.rows).step_by(group);
        if let Some(longest) = firsts.min_by_key(|place| Reverse(len(&self.permutation[*place]))) {
            self.permutation.swap(0, longest);
        }
    }
}

/// Draws an unbiased number in `0..bound`.
pub(super) fn below(rng: &mut ChaCha8Rng, bound: u64) -> u64 {
    let fair = u64::MAX - u64::MAX % bound;
    loop {
        let value = rng.next_u64();
        if value < fair {
            return value % bound;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(order: &mut Order, epoch: usize) -> Vec<usize> {
        let steps = order.steps_per_epoch();
        (epoch * steps..(epoch + 1) * steps)
            .flat_map(|step| order.rows_of(step))
            .collect()
    }

    #[test]
    fn every_epoch_has_every_row_once_in_its_own_order() {
        let mut order = Order::new(10, 4, Some(7));
        let [first, second] = [epoch(&mut order, 0), epoch(&mut order, 1)];
        for rows in [&first, &second] {
            let mut sorted = rows.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(first, second);
        assert_eq!(order.rows_of(2).len(), 2);
        // A step's rows do not depend on the steps before it.
        assert_eq!(Order::new(10, 4, Some(7)).rows_of(4), order.rows_of(4));
        assert_ne!(epoch(&mut Order::new(10, 4, Some(8)), 0), first);
    }

    /// A permutation of torch's and what transformers 5's `get_length_grouped_indices(lengths, 2)` makes of it.
    #[test]
    fn rows_of_like_lengths_come_together() {
        let lengths: Vec<u32> = (0..23).map(|row| row * 37 % 29 + 1).collect();
        let mut order = Order::new(23, 2, Some(0)).grouped_by_length(lengths);
        order.permutation = vec![
            9, 4, 20, 11, 22, 6, 13, 12, 1, 19, 3, 2, 16, 7, 18, 0, 8, 10, 17, 15, 14, 5, 21,
        ];
        order.group();
        let grouped = [
            18, 9, 4, 11, 6, 13, 12, 22, 3, 2, 1, 19, 20, 7, 16, 0, 10, 17, 8, 15, 14, 21, 5,
        ];
        assert_eq!(order.permutation, grouped);

        let mut sorted = epoch(&mut order, 1);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..23).collect::<Vec<_>>());
    }

    #[test]
    fn unshuffled_rows_come_as_they_are() {
        let mut order = Order::new(5, 2, None);
        assert_eq!(epoch(&mut order, 3), [0, 1, 2, 3, 4]);
    }
}
