use std::collections::BTreeMap;

use burn_qlora::{Format, QuantConfig};

/// The formats of the frozen projections.
#[derive(Clone, Debug, PartialEq)]
pub enum ProjectionFormats {
    /// Dense, all of them.
    Dense,
    /// All in one.
    Same(QuantConfig),
    /// Those of a file, by the tensors' names; others are dense.
    Stored(BTreeMap<String, Format>),
}

impl ProjectionFormats {
    /// Returns the format of a projection's weight, `None` if it is dense.
    pub fn of(&self, tensor: &str) -> Option<Format> {
        match self {
            Self::Dense => None,
            Self::Same(config) => Some((*config).into()),
            Self::Stored(formats) => formats.get(tensor).copied(),
        }
    }

    /// Returns whether all are dense.
    pub fn are_dense(&self) -> bool {
        match self {
            Self::Dense => true,
            Self::Same(_) => false,
            Self::Stored(formats) => formats.is_empty(),
        }
    }
}

/// `None` for dense ones.
impl From<Option<QuantConfig>> for ProjectionFormats {
    fn from(config: Option<QuantConfig>) -> Self {
        config.map_or(Self::Dense, Self::Same)
    }
}
