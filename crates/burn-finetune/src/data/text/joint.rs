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

/// Returns a place within the longest stretch over which two windows have the same tokens at the same places, if that is
/// half of what they share at least. The second begins at byte `start` of the first. The place is between two words of the
/// pre-tokenizer, the nearest to the stretch's middle, or in its very middle `within_words`.
pub fn joint(left: &Tokens, right: &Tokens, start: usize, within_words: bool) -> Option<Joint> {
    let stretch = Stretch::longest(left, right, start)?;
    if 2 * stretch.width < left.len - start {
        return None;
    }
    let Stretch { first, count, .. } = stretch;
    let at = |place: usize| Joint {
        left: first.left + place,
        right: first.right + place,
    };
    let middle = count / 2;
    let between_words = (0..count / 4 + 1)
        .flat_map(|by| [middle.checked_sub(by), Some(middle + by)])
        .flatten()
        .filter(|place| (1..count).contains(place))
        .find(|place| {
            let Joint { left: l, right: r } = at(*place);
            left.words[l - 1] != left.words[l] && right.words[r - 1] != right.words[r]
        });
    between_words.or(within_words.then_some(middle)).map(at)
}

/// Tokens that are the same in two windows.
struct Stretch {
    /// The first of them.
    first: Joint,
    /// How many there are.
    count: usize,
    /// The bytes they stand for.
    width: usize,
}

impl Stretch {
    fn longest(left: &Tokens, right: &Tokens, start: usize) -> Option<Self> {
        let at = |place: usize| left.offsets.get(place).copied();
        let other = |place: usize| {
            let offsets = right.offsets.get(place);
            offsets.map(|(from, to)| (from + start, to + start))
        };
        let (mut l, mut r) = (left.offsets.partition_point(|(from, _)| *from < start), 0);
        let mut longest: Option<Self> = None;
        let mut count = 0;
        while let (Some(one), Some(two)) = (at(l), other(r)) {
            if one == two && left.ids[l] == right.ids[r] {
                count += 1;
                let first = Joint {
                    left: l + 1 - count,
                    right: r + 1 - count,
                };
                let width = one.1.saturating_sub(left.offsets[first.left].0);
                if longest.as_ref().is_none_or(|longest| width > longest.width) {
                    longest = Some(Self {
                        first,
                        count,
                        width,
                    });
                }
            } else {
                count = 0;
            }
            l += usize::from(one <= two);
            r += usize::from(two <= one);
        }
        longest
    }
}
