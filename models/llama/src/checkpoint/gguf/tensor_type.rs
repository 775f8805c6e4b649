//! The types of a file's tensors.

use std::borrow::Cow;
use std::fmt;

use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;
use nf4::{GgufFormat, gguf};

/// The type of a stored tensor, by who decodes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TensorType {
    /// candle's decoders.
    Candle(GgmlDType),
    /// The block formats of [`nf4`], where candle has none.
    Blocks(GgufFormat),
}

/// Types that are read, by ggml's numbers. Q8_1 (9) and Q8_K (15) are of intermediate results.
const READ: [(u32, TensorType); 15] = [
    (0, TensorType::Candle(GgmlDType::F32)),
    (1, TensorType::Candle(GgmlDType::F16)),
    (2, TensorType::Candle(GgmlDType::Q4_0)),
    (3, TensorType::Candle(GgmlDType::Q4_1)),
    (6, TensorType::Candle(GgmlDType::Q5_0)),
    (7, TensorType::Candle(GgmlDType::Q5_1)),
    (8, TensorType::Candle(GgmlDType::Q8_0)),
    (10, TensorType::Candle(GgmlDType::Q2K)),
    (11, TensorType::Candle(GgmlDType::Q3K)),
    (12, TensorType::Candle(GgmlDType::Q4K)),
    (13, TensorType::Candle(GgmlDType::Q5K)),
    (14, TensorType::Candle(GgmlDType::Q6K)),
    (20, TensorType::Blocks(GgufFormat::IQ4_NL)),
    (30, TensorType::Candle(GgmlDType::BF16)),
    (39, TensorType::Blocks(GgufFormat::MXFP4)),
];

impl TensorType {
    /// Returns the type of ggml's number `number`, if it is read.
    pub(super) fn of(number: u32) -> Option<Self> {
        let found = READ.iter().find(|(known, _)| *known == number);
        found.map(|(_, read)| *read)
    }

    /// Returns ggml's number of it.
    #[cfg(feature = "qlora")]
    pub(super) fn number(self) -> Option<u32> {
        let found = READ.iter().find(|(_, read)| *read == self);
        found.map(|(number, _)| *number)
    }

    /// Returns the elements that are encoded together; 1 for plain numbers.
    pub(super) fn block_size(self) -> usize {
        match self {
            Self::Candle(dtype) => dtype.block_size(),
            Self::Blocks(format) => format.file_block(),
        }
    }

    /// Returns the bytes of a block.
    pub(super) fn block_bytes(self) -> usize {
        match self {
            Self::Candle(dtype) => dtype.type_size(),
            Self::Blocks(format) => format.file_block_bytes(),
        }
    }

    /// Returns whether it is one of blocks that share a scale.
    pub(super) fn is_blocks(self) -> bool {
        self.block_size() > 1
    }

    /// Returns the format of its blocks, `None` of plain numbers and of blocks that no kernel multiplies.
    pub(super) fn format(self) -> Option<GgufFormat> {
        let dtype = match self {
            Self::Blocks(format) => return Some(format),
            Self::Candle(dtype) => dtype,
        };
        Some(match dtype {
            GgmlDType::Q4_0 => GgufFormat::Q4_0,
            GgmlDType::Q4_1 => GgufFormat::Q4_1,
            GgmlDType::Q5_0 => GgufFormat::Q5_0,
            GgmlDType::Q5_1 => GgufFormat::Q5_1,
            GgmlDType::Q8_0 => GgufFormat::Q8_0,
            GgmlDType::Q4K => GgufFormat::Q4_K,
            GgmlDType::Q5K => GgufFormat::Q5_K,
            GgmlDType::Q6K => GgufFormat::Q6_K,
            _ => return None,
        })
    }

    /// Decodes `rows` whole rows of `width` elements.
    ///
    /// # Errors
    /// What the decoder refuses, in words.
    pub(super) fn decode(
        self,
        bytes: &[u8],
        [rows, width]: [usize; 2],
    ) -> Result<Vec<f32>, String> {
        match self {
            Self::Candle(dtype) => {
                let decoded = dtype.from_data(Cow::Borrowed(bytes));
                match decoded.dequantize(rows * width) {
                    Ok(CpuStorage::F32(values)) => Ok(values),
                    _ => Err("it could not be decoded".into()),
                }
            }
            Self::Blocks(format) => {
                let matrix = gguf::read(format, [rows, width], bytes, |row| row);
                let matrix = matrix.map_err(|error| error.to_string())?;
                let mut values = vec![0.0; rows * width];
                qlora_cpu::dequantize(matrix.as_ref(), &mut values);
                Ok(values)
            }
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocks(format) => format.fmt(f),
            Self::Candle(dtype) => {
                let name = format!("{dtype:?}");
                match name.strip_suffix('K') {
                    Some(bits) => write!(f, "{bits}_K"),
                    None => f.pad(&name),
                }
            }
        }
    }
}

/// Returns ggml's name of a type that is not read, in brackets.
pub(super) fn name_of_unread(number: u32) -> &'static str {
    match number {
        9 => " (Q8_1)",
        15 => " (Q8_K)",
        16 => " (IQ2_XXS)",
        17 => " (IQ2_XS)",
        18 => " (IQ3_XXS)",
        19 => " (IQ1_S)",
        21 => " (IQ3_S)",
        22 => " (IQ2_S)",
        23 => " (IQ4_XS)",
        24 => " (I8)",
        25 => " (I16)",
        26 => " (I32)",
        27 => " (I64)",
        28 => " (F64)",
        29 => " (IQ1_M)",
        34 => " (TQ1_0)",
        35 => " (TQ2_0)",
        40 => " (NVFP4)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_the_names_of_llama_cpp() {
        let names: Vec<String> = READ.iter().map(|(_, read)| read.to_string()).collect();
        let expected =
            "F32 F16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL BF16 MXFP4";
        assert_eq!(names.join(" "), expected);
    }

    /// Both ways of naming a format are of one size.
    #[test]
    fn blocks_are_as_long_as_their_formats_say() {
        for (_, read) in READ {
            if let Some(format) = read.format() {
                assert_eq!(read.block_size(), format.file_block(), "{read}");
                assert_eq!(read.block_bytes(), format.file_block_bytes(), "{read}");
                assert_eq!(read.to_string(), format.to_string());
            }
        }
    }
}
