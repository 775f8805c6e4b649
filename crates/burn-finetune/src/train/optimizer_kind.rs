//! The optimizers, by their names in the settings of a run.

use burn_paged::StateDtype;
use serde::{Deserialize, Serialize};
use std::fmt;

/// An optimizer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW with moments in f32: burn-paged's, with torch's arithmetic.
    #[default]
    #[serde(rename = "adamw")]
    AdamW,
    /// AdamW with moments in 8 bits: burn-paged's, with bitsandbytes' format.
    #[serde(rename = "adamw-8bit")]
    AdamW8bit,
    /// burn-optim's Lion: the sign of a momentum, decays 0.9 and 0.99.
    Lion,
    /// burn-optim's Muon: a momentum of 0.95, orthogonalised, times the root of how much taller than wide a factor is.
    Muon,
    /// burn-optim's Adafactor, its step sizes those of the schedule alone (`scale_parameter` and `relative_step` off).
    Adafactor,
}

impl OptimizerKind {
    /// Returns the format of AdamW's moments; `None` for another optimizer.
    pub fn moments(self) -> Option<StateDtype> {
        match self {
            Self::AdamW => Some(StateDtype::F32),
            Self::AdamW8bit => Some(StateDtype::Dynamic8),
            Self::Lion | Self::Muon | Self::Adafactor => None,
        }
    }

    /// Returns the parts of the state of a factor of this shape, each with its shape, f32, of an optimizer other than AdamW.
    pub(crate) fn parts(self, [rows, columns]: [usize; 2]) -> Vec<(&'static str, [usize; 2])> {
        match self {
            Self::AdamW | Self::AdamW8bit => Vec::new(),
            Self::Lion => vec![("momentum", [rows, columns])],
            Self::Muon => vec![("momentum.velocity", [rows, columns])],
            Self::Adafactor => vec![
                ("second_moment", [rows, 1]),
                ("column_second_moment", [1, columns]),
            ],
        }
    }

    /// Returns the bytes of the state of factors of these shapes, which all stay in memory, of an optimizer other than AdamW.
    pub fn resident_bytes(self, factors: impl IntoIterator<Item = [usize; 2]>) -> u64 {
        let parts = factors.into_iter().flat_map(|shape| self.parts(shape));
        parts
            .map(|(_, shape)| (size_of::<f32>() * shape.iter().product::<usize>()) as u64)
            .fold(0, u64::saturating_add)
    }
}

impl fmt::Display for OptimizerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdamW => "adamw",
            Self::AdamW8bit => "adamw-8bit",
            Self::Lion => "lion",
            Self::Muon => "muon",
            Self::Adafactor => "adafactor",
        })
    }
}
