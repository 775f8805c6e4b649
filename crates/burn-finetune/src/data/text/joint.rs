//! The joint of two windows.

use super::Tokens;

/// Where one window goes over into the next: the places of the same token in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joint {
    /// The place in the first.
    pub left: usize,
    /// The place in the second.
    pub right: usize,
}

impl Tokens {
    /// Returns the last byte at or before `limit` at which a token and a letter begin.
    pub fn start_before(&self, limit: usize, text: &str) -> Option<usize> {
        let starts = self.offsets.iter().rev().map(|(start, _)| *start);
        let mut starts = starts.filter(|start| *start <= limit && text.is_char_boundary(*start));
        starts.next().filter(|start| *start > 0)
    }
}

/// Returns the middle of the longest stretch over which two windows have the same tokens at the same places, if it is half
/// of what they share at least. The second begins at byte `start` of the first.
pub fn joint(left: &Tokens, right: &Tokens, start: usize) -> Option<Joint> {
    let at = |place: usize| left.offsets.get(place).copied();
    let other = |place: usize| {
        let offsets = right.offsets.get(place);
        offsets.map(|(from, to)| (from + start, to + start))
    };
    let (mut l, mut r) = (left.offsets.partition_point(|(from, _)| *from < start), 0);
    let mut best = None;
    let mut widest = 0;
    let mut run = 0;
    while let (Some(one), Some(two)) = (at(l), other(r)) {
        if one == two && left.ids[l] == right.ids[r] {
            run += 1;
            let begins = left.offsets[l + 1 - run].0;
            let width = one.1.saturating_sub(begins);
            if width > widest {
                widest = width;
                best = Some(Joint {
                    left: l + 1 - run.div_ceil(2),
                    right: r + 1 - run.div_ceil(2),
                });
            }
        } else {
            run = 0;
        }
        l += usize::from(one <= two);
        r += usize::from(two <= one);
    }
    best.filter(|_| 2 * widest >= left.len - start)
}
