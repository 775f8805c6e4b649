//! Which examples share a row, from their lengths alone.

use crate::error::FinetuneError;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Examples in rows.
#[derive(Debug, PartialEq, Eq)]
pub struct Packing {
    /// The examples, row by row.
    members: Vec<u32>,
    /// Where each row's members end.
    ends: Vec<u32>,
}

impl Packing {
    /// Returns the examples of each row.
    pub fn rows(&self) -> impl Iterator<Item = &[u32]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let rows = starts.zip(&self.ends);
        rows.map(|(start, end)| &self.members[start as usize..*end as usize])
    }
}

/// Packs examples, several into a row wherever they fit into `max_len` tokens together. `lens` are their lengths, and are
/// gone through twice.
///
/// Best fit, longest first (in the given order where lengths are equal): an example goes to where the least room is left
/// over. Within a row the examples keep their order, and so do rows by their first examples. Takes eight bytes an example.
///
/// # Errors
/// Those of the lengths.
pub fn best_fit<I>(lens: impl Fn() -> I, max_len: usize) -> Result<Packing, FinetuneError>
where
    I: Iterator<Item = Result<u32, FinetuneError>>,
{
    // How many there are of each length, and then where the next one goes in `longest_first`.
    let mut of_length: BTreeMap<Reverse<u32>, u32> = BTreeMap::new();
    for len in lens() {
        *of_length.entry(Reverse(len?)).or_default() += 1;
    }
    let lengths: Vec<(u32, u32)> = of_length
        .iter()
        .map(|(len, count)| (len.0, *count))
        .collect();
    let mut count = 0;
    for place in of_length.values_mut() {
        count += std::mem::replace(place, count);
    }
    let mut longest_first = vec![0; count as usize];
    for (example, len) in (0..).zip(lens()) {
        if let Some(place) = of_length.get_mut(&Reverse(len?)) {
            longest_first[*place as usize] = example;
            *place += 1;
        }
    }
    let (bins, bin_of) = bins(&lengths, &longest_first, max_len);
    Ok(in_order(longest_first, bins, &bin_of))
}

/// Returns the number of rows, and the row of each example.
fn bins(lengths: &[(u32, u32)], longest_first: &[u32], max_len: usize) -> (u32, Vec<u32>) {
    let max_len = u32::try_from(max_len).unwrap_or(u32::MAX);
    let shortest = lengths.last().map_or(0, |(len, _)| *len);
    let mut bin_of = vec![0; longest_first.len()];
    // The bins with so much room left, the first of them on top.
    let mut open: BTreeMap<u32, BinaryHeap<Reverse<u32>>> = BTreeMap::new();
    let mut bins = 0;
    let mut examples = longest_first.iter();
    for (len, count) in lengths {
        for example in examples.by_ref().take(*count as usize) {
            let fitting = open.range_mut(len..).next();
            let fitting = fitting.and_then(|(room, bins)| Some((*room, bins.pop()?.0)));
            let (room, bin) = fitting.unwrap_or_else(|| {
                bins += 1;
                (max_len.max(*len), bins - 1)
            });
            if open.get(&room).is_some_and(BinaryHeap::is_empty) {
                open.remove(&room);
            }
            // What has less room than that is closed.
            if room - len >= shortest {
                open.entry(room - len).or_default().push(Reverse(bin));
            }
            bin_of[*example as usize] = bin;
        }
    }
    (bins, bin_of)
}

/// Orders rows by their first examples. `members` is room for as many as there are.
fn in_order(mut members: Vec<u32>, bins: u32, bin_of: &[u32]) -> Packing {
    const UNSEEN: u32 = u32::MAX;
    let mut rank = vec![UNSEEN; bins as usize];
    let mut ends = vec![0; bins as usize];
    let mut seen = 0;
    for bin in bin_of {
        let rank = &mut rank[*bin as usize];
        if *rank == UNSEEN {
            *rank = seen;
            seen += 1;
        }
        ends[*rank as usize] += 1;
    }
    let mut count = 0;
    for end in &mut ends {
        count += std::mem::replace(end, count);
    }
    for (example, bin) in (0..).zip(bin_of) {
        let end = &mut ends[rank[*bin as usize] as usize];
        members[*end as usize] = example;
        *end += 1;
    }
    Packing { members, ends }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};
    use std::collections::BTreeSet;

    /// As it is said, with every row in sight.
    fn plainly(lens: &[u32], max_len: u32) -> Vec<Vec<u32>> {
        let mut longest_first: Vec<usize> = (0..lens.len()).collect();
        longest_first.sort_by_key(|row| Reverse(lens[*row]));
        let mut bins: Vec<Vec<u32>> = Vec::new();
        let mut open = BTreeSet::new();
        for row in longest_first {
            let fitting = open.range((lens[row], 0)..).next().copied();
            let (room, bin) = fitting.unwrap_or_else(|| {
                bins.push(Vec::new());
                (max_len.max(lens[row]), bins.len() - 1)
            });
            open.remove(&(room, bin));
            open.insert((room - lens[row], bin));
            bins[bin].push(row as u32);
        }
        for bin in &mut bins {
            bin.sort_unstable();
        }
        bins.sort_unstable();
        bins
    }

    #[test]
    fn lengths_alone_give_what_all_rows_give() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for (count, longest, max_len) in [
            (0, 5, 5),
            (1, 9, 5),
            (300, 40, 30),
            (500, 12, 64),
            (200, 3, 100),
        ] {
            let lens: Vec<u32> = (0..count).map(|_| rng.next_u32() % longest).collect();
            let packing = best_fit(|| lens.iter().map(|len| Ok(*len)), max_len as usize).unwrap();
            let rows: Vec<Vec<u32>> = packing.rows().map(<[u32]>::to_vec).collect();
            assert_eq!(rows, plainly(&lens, max_len), "{count} {longest} {max_len}");
        }
    }
}
