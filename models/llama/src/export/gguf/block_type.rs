//! The types of tensors.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use crate::checkpoint::FloatType;

/// A type of a GGUF file's matrices, by ggml's name.
///
/// As in files that llama-quantize makes, not every tensor has it:
///
/// - vectors (norms, biases) are F32;
/// - of block types but Q8_0, the head (the embedding, where that is the head) is in Q6_K, or in Q8_0 where its rows are no
///   multiple of 256;
/// - where rows are no multiple of a type's block, the next larger type of blocks of 32 is taken (Q4_0 for Q2_K and Q3_K, Q5_0 for
///   Q4_K, Q5_1 for Q5_K, Q8_0 for Q6_K), and F16 where they are no multiple of 32 either.
///
/// It does not give some layers more bits, as llama-quantize's mixed kinds (Q4_K_M) do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[cfg_attr(feature = "clap", value(rename_all = "snake_case"))]
#[allow(missing_docs)] // Each variant is the name of a format.
pub enum GgufType {
    F32,
    F16,
    Bf16,
    #[cfg_attr(feature = "clap", value(name = "q8_0"))]
    Q8_0,
    #[cfg_attr(feature = "clap", value(name = "q4_0"))]
    Q4_0,
    #[cfg_attr(feature = "clap", value(name = "q4_1"))]
    Q4_1,
    #[cfg_attr(feature = "clap", value(name = "q5_0"))]
    Q5_0,
    #[cfg_attr(feature = "clap", value(name = "q5_1"))]
    Q5_1,
    #[cfg_attr(feature = "clap", value(name = "q2_k"))]
    Q2K,
    #[cfg_attr(feature = "clap", value(name = "q3_k"))]
    Q3K,
    #[cfg_attr(feature = "clap", value(name = "q4_k"))]
    Q4K,
    #[cfg_attr(feature = "clap", value(name = "q5_k"))]
    Q5K,
    #[cfg_attr(feature = "clap", value(name = "q6_k"))]
    Q6K,
}

impl GgufType {
    /// Every type.
    pub const ALL: &[Self] = &[
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Returns candle's type, ggml's number of it, llama.cpp's number of files of it (`llama_ftype`) and its name.
    fn facts(self) -> (GgmlDType, u32, u32, &'static str) {
        match self {
            Self::F32 => (GgmlDType::F32, 0, 0, "F32"),
            Self::F16 => (GgmlDType::F16, 1, 1, "F16"),
            Self::Bf16 => (GgmlDType::BF16, 30, 32, "BF16"),
            Self::Q8_0 => (GgmlDType::Q8_0, 8, 7, "Q8_0"),
            Self::Q4_0 => (GgmlDType::Q4_0, 2, 2, "Q4_0"),
            Self::Q4_1 => (GgmlDType::Q4_1, 3, 3, "Q4_1"),
            Self::Q5_0 => (GgmlDType::Q5_0, 6, 8, "Q5_0"),
            Self::Q5_1 => (GgmlDType::Q5_1, 7, 9, "Q5_1"),
            Self::Q2K => (GgmlDType::Q2K, 10, 10, "Q2_K"),
            Self::Q3K => (GgmlDType::Q3K, 11, 11, "Q3_K"),
            Self::Q4K => (GgmlDType::Q4K, 12, 14, "Q4_K"),
            Self::Q5K => (GgmlDType::Q5K, 13, 16, "Q5_K"),
            Self::Q6K => (GgmlDType::Q6K, 14, 18, "Q6_K"),
        }
    }

    /// Returns ggml's name.
    pub fn name(self) -> &'static str {
        self.facts().3
    }

    pub(super) fn number(self) -> u32 {
        self.facts().1
    }

    /// Returns `general.file_type` of files with matrices of it.
    pub(super) fn file_type(self) -> u32 {
        self.facts().2
    }

    fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Returns the type of a tensor in a file of it (llama.cpp, llama-quant.cpp).
    pub(super) fn of_tensor(self, shape: &[usize], is_head: bool) -> Self {
        let [_, width] = *shape else {
            return Self::F32;
        };
        let wanted = if is_head && !self.is_float() && self != Self::Q8_0 {
            Self::Q6K
        } else {
            self
        };
        [wanted, wanted.of_smaller_blocks()]
            .into_iter()
            .find(|kind| width.is_multiple_of(kind.facts().0.block_size()))
            .unwrap_or(Self::F16)
    }

    fn of_smaller_blocks(self) -> Self {
        match self {
            Self::Q2K | Self::Q3K => Self::Q4_0,
            Self::Q4K => Self::Q5_0,
            Self::Q5K => Self::Q5_1,
            Self::Q6K => Self::Q8_0,
            other => other,
        }
    }

    /// Returns whether `value` can be held: the scales of blocks are in f16.
    pub(super) fn holds(self, value: f32) -> bool {
        match self {
            Self::F32 => value.is_finite(),
            Self::Bf16 => FloatType::Bf16.holds(value),
            _ => FloatType::F16.holds(value),
        }
    }

    /// Returns the bytes of a tensor of `shape`.
    pub(super) fn byte_size(self, shape: &[usize]) -> u64 {
        let kind = self.facts().0;
        let blocks = shape.iter().product::<usize>().div_ceil(kind.block_size());
        blocks as u64 * kind.type_size() as u64
    }

    /// Encodes whole blocks.
    ///
    /// # Errors
    /// candle's, in words.
    pub(super) fn encode(self, values: &[f32]) -> Result<Vec<u8>, String> {
        match self {
            Self::F32 => return Ok(FloatType::F32.encode(values)),
            Self::F16 => return Ok(FloatType::F16.encode(values)),
            Self::Bf16 => return Ok(FloatType::Bf16.encode(values)),
            _ => {}
        }
        let encode = || {
            let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
            let blocks = QTensor::quantize(&tensor, self.facts().0)?;
            Ok::<_, candle_core::Error>(blocks.data()?.into_owned())
        };
        encode().map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_get_the_types_that_llama_quantize_gives_them() {
        let kind = |kind: GgufType, width, is_head| kind.of_tensor(&[8, width], is_head);
        use GgufType::{F16, F32, Q4_0, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        for (wanted, width, is_head, expected) in [
            (Q4K, 512, false, Q4K),
            (Q4K, 512, true, Q6K),
            (Q4K, 576, false, Q5_0),
            (Q4K, 576, true, Q8_0),
            (Q5K, 64, false, Q5_1),
            (Q4_0, 64, false, Q4_0),
            (Q4_0, 64, true, Q8_0),
            (Q4_0, 40, false, F16),
            (Q8_0, 256, true, Q8_0),
            (F32, 40, true, F32),
            (F16, 40, true, F16),
        ] {
            assert_eq!(kind(wanted, width, is_head), expected, "{wanted:?} {width}");
        }
        assert_eq!(Q4K.of_tensor(&[512], false), F32);
    }

    #[test]
    fn blocks_take_the_bytes_that_were_declared() {
        let values: Vec<f32> = (0..512).map(|at| (at as f32 * 0.37).sin()).collect();
        for kind in GgufType::ALL {
            let bytes = kind.encode(&values).unwrap();
            assert_eq!(bytes.len() as u64, kind.byte_size(&[2, 256]), "{kind:?}");
        }
    }

    #[test]
    fn what_overflows_is_not_held() {
        assert!(GgufType::F32.holds(1e30) && GgufType::Bf16.holds(1e30));
        assert!(!GgufType::F16.holds(1e30) && !GgufType::Q4K.holds(1e30));
        assert!(!GgufType::F32.holds(f32::NAN) && !GgufType::Q8_0.holds(f32::INFINITY));
    }
}
