//! What is said of the sequences of a row.

/// What the rows of a data set are examples of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExampleKind {
    /// Texts to learn.
    #[default]
    Texts,
    /// Two answers, of which the first is preferred: `chosen` and `rejected`.
    Pairs,
    /// Answers each of which is desirable or not: `completion` and `label`.
    Labelled,
}

/// What is said of the sequences of a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Verdicts {
    /// Nothing.
    #[default]
    None,
    /// Of two the first is preferred to the second.
    Pairs,
    /// Each is desirable or not.
    Labels(Vec<bool>),
}

impl Verdicts {
    /// Returns what the row is an example of, or several.
    pub fn kind(&self) -> ExampleKind {
        match self {
            Self::None => ExampleKind::Texts,
            Self::Pairs => ExampleKind::Pairs,
            Self::Labels(_) => ExampleKind::Labelled,
        }
    }

    /// Returns whether the sequence at `place` is one to prefer.
    pub(crate) fn prefers(&self, place: usize) -> bool {
        match self {
            Self::None => true,
            Self::Pairs => place.is_multiple_of(2),
            Self::Labels(labels) => labels.get(place).copied().unwrap_or_default(),
        }
    }

    /// Adds those of a row that is appended.
    pub(super) fn append(&mut self, other: &Self) {
        if let (Self::Labels(labels), Self::Labels(more)) = (&mut *self, other) {
            labels.extend(more);
        }
    }
}

impl ExampleKind {
    /// Returns the number of examples that `sequences` sequences are.
    pub(crate) fn examples(self, sequences: usize) -> usize {
        match self {
            Self::Pairs => sequences / 2,
            Self::Texts | Self::Labelled => sequences,
        }
    }
}
