//! The choice of the pages that stay, and the bytes that a step moves.
//!
//! An optimizer visits every page once a step, in the same order. Let the state be `S` bytes in pages and
//! let `R` bytes of them fit beside the two buffers that pages are streamed through.
//!
//! **LRU**, which driver paging is in effect, keeps the pages that were used last. When `R < S`, the page
//! that comes next is the one used longest ago and was just thrown out: every page misses, and a step moves
//! `2 · S`, in and out, however little is missing.
//!
//! **What is done here**: a fixed set of pages of `R` bytes stays and the others are streamed, so a step
//! moves `2 · (S − R)`. No policy moves less: between two steps at most `R` bytes and what is in the
//! buffers can lie where the update runs, so the rest, every byte of which the update reads and changes, must come
//! in and must have gone out. (Buffers that were left filled between steps could save two pages more; they are
//! written back, so that between steps the two buffers are all that is neither resident nor safe in the backing store.)
//!
//! The order is known, so the next streamed page is brought in while the current one is updated, and the one before
//! is written back behind.

use crate::budget::Budget;

/// The pages that stay, chosen in the order in which they are visited.
#[derive(Debug, Default)]
pub(crate) struct Residency {
    resident: Vec<bool>,
}

impl Residency {
    pub fn is_resident(&self, page: usize) -> bool {
        self.resident[page]
    }

    pub fn pages(&self) -> usize {
        self.resident.len()
    }

    /// Decides about a new page before it is known how far it will be filled.
    pub fn push(&mut self, budget: Budget, auto: u64, page_bytes: usize) {
        let page = page_bytes as u64;
        let pages = self.resident.len() as u64;
        let stay = self.resident.iter().filter(|stays| **stays).count() as u64;
        let stays = budget.admits(stay * page, page, (pages + 1) * page, auto);
        self.resident.push(stays);
    }

    /// Decides again, now that the pages hold `used` bytes, and returns the pages that change sides, those
    /// that go first.
    pub fn plan(&self, used: &[usize], budget: Budget, auto: u64) -> Vec<(usize, bool)> {
        let (mut resident, mut state) = (0, 0);
        let mut changes: Vec<(usize, bool)> = used
            .iter()
            .enumerate()
            .filter_map(|(page, used)| {
                let used = *used as u64;
                state += used;
                let stays = budget.admits(resident, used, state, auto);
                resident += if stays { used } else { 0 };
                (stays != self.resident[page]).then_some((page, stays))
            })
            .collect();
        changes.sort_by_key(|(_, stays)| *stays);
        changes
    }

    pub fn set(&mut self, page: usize, stays: bool) {
        self.resident[page] = stays;
    }

    pub fn resident_bytes(&self, used: &[usize]) -> u64 {
        let pairs = self.resident.iter().zip(used);
        pairs
            .filter(|(stays, _)| **stays)
            .map(|(_, used)| *used as u64)
            .sum()
    }

    /// Returns the streamed page that is visited after `page`, or before all others if it is the last.
    pub fn next_streamed(&self, page: Option<usize>) -> Option<usize> {
        let from = page.map_or(0, |page| page + 1);
        let streamed = |page: &usize| !self.resident[*page];
        (from..self.resident.len())
            .find(streamed)
            .or_else(|| (0..from.min(self.resident.len())).find(streamed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_fills_the_budget_and_no_more() {
        let used = [100, 100, 100, 30];
        for (budget, expected) in [
            (Budget::Bytes(0), 0),
            (Budget::Bytes(230), 230),
            (Budget::Bytes(229), 200),
            (Budget::Bytes(330), 330),
            (Budget::Fraction(0.5), 130),
            (Budget::Resident, 330),
        ] {
            let mut residency = Residency::default();
            for _ in used {
                residency.push(budget, 0, 100);
            }
            for (page, stays) in residency.plan(&used, budget, 0) {
                residency.set(page, stays);
            }
            assert_eq!(residency.resident_bytes(&used), expected, "{budget}");
        }
    }

    #[test]
    fn the_next_streamed_page_comes_round() {
        let mut residency = Residency::default();
        for _ in 0..5 {
            residency.push(Budget::Bytes(0), 0, 100);
        }
        residency.set(1, true);
        residency.set(4, true);
        let next = |page| residency.next_streamed(page);
        assert_eq!(next(None), Some(0));
        assert_eq!(next(Some(0)), Some(2));
        assert_eq!(next(Some(3)), Some(0));
        assert_eq!(next(Some(4)), Some(0));
    }
}
