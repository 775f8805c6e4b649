//! The dtype that a model computes in.

use std::fmt;

use burn::tensor::{DType, Device};
use qlora_cpu::QuantizedProducts;

use crate::error::DecoderError;

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
    /// bf16, but products of quantized weights multiply integers of 8 bits; on flex alone
    ///
    /// Of more than eight rows, forward and backward, the weights and what they are multiplied by are rounded to 255 steps in
    /// groups of 64 ([`QuantizedProducts::Int8`]). LoRA factors, attention, head and loss compute as in bf16.
    Int8,
}

impl ComputeDtype {
    /// Returns the dtype of tensors.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 | Self::Int8 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }

    /// Returns the numbers that products of quantized weights multiply on the CPU's kernels.
    pub fn quantized_products(self) -> QuantizedProducts {
        match self {
            Self::F32 | Self::Bf16 | Self::F16 => QuantizedProducts::Float,
            Self::Int8 => QuantizedProducts::Int8,
        }
    }

    /// Checks that `device` can compute in it.
    ///
    /// # Errors
    /// [`DecoderError::ComputeDtype`] when it cannot.
    pub fn check(self, device: &Device) -> Result<(), DecoderError> {
        let served = self.quantized_products() == QuantizedProducts::Float || is_flex(device);
        if served && device.supports_dtype(self.dtype()) {
            return Ok(());
        }
        Err(DecoderError::ComputeDtype {
            dtype: self,
            device: format!("{:?}", device.clone().without_autodiff()),
        })
    }

    /// Makes the kernels of the process multiply [its numbers](Self::quantized_products), if `device` is Flex: they are the
    /// same for all models of a process.
    ///
    /// # Errors
    /// Those of [`check`](Self::check); [`DecoderError::QuantizedProducts`] when the kernels multiply others already.
    pub fn settle(self, device: &Device) -> Result<(), DecoderError> {
        self.check(device)?;
        if is_flex(device) && !self.quantized_products().select() {
            return Err(DecoderError::QuantizedProducts { dtype: self });
        }
        Ok(())
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
            Self::Int8 => "int8",
        })
    }
}

/// The dtype that the keys and values of tokens already seen are kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum KvCacheDtype {
    /// That of what is computed
    #[default]
    Auto,
    /// Half of f32's memory, its range, 8 significant bits
    Bf16,
    /// Half of f32's memory, a short range, 11 significant bits
    F16,
}

impl KvCacheDtype {
    /// Returns the dtype of tensors, for a model that computes in `compute`.
    pub fn dtype(self, compute: DType) -> DType {
        match self {
            Self::Auto => compute,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }

    /// Checks that `device` can keep it for a model that computes in `compute`: in f32, or in the same.
    ///
    /// # Errors
    /// [`DecoderError::KvCacheDtype`] when it cannot.
    pub fn check(self, compute: ComputeDtype, device: &Device) -> Result<(), DecoderError> {
        let dtype = self.dtype(compute.dtype());
        let reason = if dtype == compute.dtype() {
            return Ok(());
        } else if compute.dtype() != DType::F32 {
            format!("{compute} is what is computed in, and takes no more")
        } else if !device.supports_dtype(dtype) {
            let device = device.clone().without_autodiff();
            format!("{device:?} has no numbers of this type")
        } else {
            return Ok(());
        };
        Err(DecoderError::KvCacheDtype {
            dtype: self,
            reason,
        })
    }
}

impl fmt::Display for KvCacheDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

fn is_flex(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return device.clone().without_autodiff() == Device::flex();
    #[cfg(not(feature = "flex"))]
    return {
        let _ = device;
        false
    };
}
