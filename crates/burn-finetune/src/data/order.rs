//! The rows of a step.

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
    epoch: Option<(usize, Vec<usize>)>,
}

impl Order {
    /// Returns an order over `rows` rows, `rows_per_step` at a time, shuffled by a seed or as they come.
    ///
    /// # Panics
    /// When one of the two numbers is 0.
    pub fn new(rows: usize, rows_per_step: usize, shuffle: Option<u64>) -> Self {
        assert!(
            rows > 0 && rows_per_step > 0,
            "an order needs rows and steps that take some"
        );
        Self {
            rows,
            rows_per_step,
            shuffle,
            epoch: None,
        }
    }

    /// Returns the number of steps of one pass over all rows.
    pub fn steps_per_epoch(&self) -> usize {
        self.rows.div_ceil(self.rows_per_step)
    }

    /// Returns the rows of `step`, counted from 0 over all epochs.
    pub fn rows_of(&mut self, step: usize) -> &[usize] {
        let steps = self.steps_per_epoch();
        let (epoch, place) = (step / steps, step % steps);
        if self.epoch.as_ref().map(|(current, _)| *current) != Some(epoch) {
            self.epoch = Some((epoch, self.permutation(epoch)));
        }
        let rows = self.epoch.as_ref().map_or(&[][..], |(_, rows)| rows);
        let start = place * self.rows_per_step;
        &rows[start..(start + self.rows_per_step).min(self.rows)]
    }

    /// Shuffles as Fisher and Yates do, spelled out so that no release of a library changes what a seed means.
    fn permutation(&self, epoch: usize) -> Vec<usize> {
        let mut rows: Vec<usize> = (0..self.rows).collect();
        if let Some(seed) = self.shuffle {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(epoch as u64);
            for last in (1..rows.len()).rev() {
                rows.swap(last, below(&mut rng, last as u64 + 1) as usize);
            }
        }
        rows
    }
}

/// Draws an unbiased number in `0..bound`.
fn below(rng: &mut ChaCha8Rng, bound: u64) -> u64 {
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
            .flat_map(|step| order.rows_of(step).to_vec())
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

    #[test]
    fn unshuffled_rows_come_as_they_are() {
        let mut order = Order::new(5, 2, None);
        assert_eq!(epoch(&mut order, 3), [0, 1, 2, 3, 4]);
    }
}
