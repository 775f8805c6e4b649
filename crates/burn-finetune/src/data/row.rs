//! One row of a batch.

use std::ops::Range;

/// One row of a batch: tokens, and a mask of those that are learnt. A training example, or several that do not
/// see each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Token ids, in order.
    pub ids: Vec<u32>,
    /// Whether the token at the same place counts in the loss. A sequence's first never does: nothing
    /// predicts it.
    pub learn: Vec<bool>,
    /// Places after the first at which another sequence begins, in order.
    more: Vec<usize>,
}

impl Row {
    /// Returns a row of one sequence and the tokens of it that are learnt.
    ///
    /// # Panics
    /// When the two are not of one length.
    pub fn new(ids: Vec<u32>, learn: Vec<bool>) -> Self {
        assert_eq!(ids.len(), learn.len(), "every token is learnt or not");
        Self {
            ids,
            learn,
            more: Vec::new(),
        }
    }

    /// Returns a row whose every token but the first is learnt.
    pub fn all(ids: Vec<u32>) -> Self {
        let learn = (0..ids.len()).map(|place| place > 0).collect();
        Self::new(ids, learn)
    }

    /// Returns a row whose other sequences begin at the places `more`.
    pub(super) fn packed(ids: Vec<u32>, learn: Vec<bool>, more: Vec<usize>) -> Self {
        Self { ids, learn, more }
    }

    /// Appends the sequences of `other`.
    pub fn append(&mut self, other: &Self) {
        let len = self.len();
        self.more.push(len);
        self.more.extend(other.more.iter().map(|start| len + start));
        self.ids.extend_from_slice(&other.ids);
        self.learn.extend_from_slice(&other.learn);
        if let Some(first) = self.learn.get_mut(len) {
            *first = false;
        }
    }

    /// Returns the places of each sequence.
    pub fn sequences(&self) -> impl Iterator<Item = Range<usize>> {
        let starts = std::iter::once(0).chain(self.more.iter().copied());
        let ends = self.more.iter().copied().chain([self.len()]);
        starts.zip(ends).map(|(start, end)| start..end)
    }

    /// Returns the number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Returns whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Returns the number of tokens that count in the loss.
    pub fn targets(&self) -> usize {
        self.learn.iter().filter(|learn| **learn).count()
    }
}
