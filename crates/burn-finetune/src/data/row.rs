//! One row of a batch.

use crate::data::verdict::Verdicts;
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
    verdicts: Verdicts,
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
            verdicts: Verdicts::None,
        }
    }

    /// Returns a row of two answers, each with its prompt, of which `chosen` is preferred.
    pub fn pair(mut chosen: Self, rejected: &Self) -> Self {
        chosen.append(rejected);
        chosen.verdicts = Verdicts::Pairs;
        chosen
    }

    /// Returns the row of one sequence, an answer with its prompt, as one that is desirable or not.
    #[must_use]
    pub fn labelled(mut self, desirable: bool) -> Self {
        self.verdicts = Verdicts::Labels(vec![desirable]);
        self
    }

    /// Returns a row whose every token but the first is learnt.
    pub fn all(ids: Vec<u32>) -> Self {
        let learn = (0..ids.len()).map(|place| place > 0).collect();
        Self::new(ids, learn)
    }

    /// Returns a row whose other sequences begin at the places `more`.
    pub(super) fn packed(
        ids: Vec<u32>,
        learn: Vec<bool>,
        more: Vec<usize>,
        verdicts: Verdicts,
    ) -> Self {
        Self {
            ids,
            learn,
            more,
            verdicts,
        }
    }

    /// Appends the sequences of `other`.
    pub fn append(&mut self, other: &Self) {
        let len = self.len();
        self.more.push(len);
        self.more.extend(other.more.iter().map(|start| len + start));
        self.ids.extend_from_slice(&other.ids);
        self.learn.extend_from_slice(&other.learn);
        self.verdicts.append(&other.verdicts);
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

    /// Returns what is said of the sequences.
    pub fn verdicts(&self) -> &Verdicts {
        &self.verdicts
    }

    /// Returns the number of examples in it: a sequence is one, or two are.
    pub fn examples(&self) -> usize {
        self.verdicts.kind().examples(1 + self.more.len())
    }

    /// Returns each sequence as a row of its own, of which nothing is said.
    pub(crate) fn apart(&self) -> Vec<Self> {
        let sequences = self.sequences();
        let row = |places: Range<usize>| {
            Self::new(
                self.ids[places.clone()].to_vec(),
                self.learn[places].to_vec(),
            )
        };
        sequences.map(row).collect()
    }

    /// Returns the tokens of the longest sequence.
    pub(crate) fn longest_sequence(&self) -> usize {
        self.sequences()
            .map(|places| places.len())
            .max()
            .unwrap_or(0)
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
        self.learn.iter().skip(1).filter(|learn| **learn).count()
    }
}
