//! The dtype that a model computes in.

use std::fmt;

use burn::tensor::DType;

/// The dtype of a model's dense weights (embedding, head, norms, biases, projections that are not in 4 bits),
/// of the residual stream and of everything the blocks hand on.
///
/// It is not the dtype of the base weights in 4 bits, of the LoRA factors and their optimizer state, which are
/// f32, or of what is summed: the statistics of norms, the angles of positions, attention, softmax, matrix
/// products and the loss are computed in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum ComputeDtype {
    /// Exact, everywhere
    ///
    /// Exact to the peers' f32; every device has it.
    #[default]
    F32,
    /// Half the memory, the range of f32, 8 significant bits
    Bf16,
    /// Half the memory, a short range, 11 significant bits
    ///
    /// Magnitudes from 6e-8 to 65504.
    F16,
}

impl ComputeDtype {
    /// Returns the dtype of tensors.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }

    /// Returns the bytes of a value.
    pub fn bytes(self) -> usize {
        self.dtype().size()
    }
}

impl fmt::Display for ComputeDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}
