//! [`BlockwiseTensor`], the matrix that stays in 4-bit or 8-bit codes.

use burn_core::backend::Dispatch;
use burn_core::tensor::{Bool, DType, Device, ExecutionError, FloatDType, Int, Tensor, TensorData};
use nf4::{Direction, Layout, QuantConfig, QuantizedMatrix};

use crate::error::BlockwiseTensorError;
use crate::layer::BlockwiseLayer;
use crate::ops::BlockwiseOps;
use crate::primitive::BlockwisePrimitive;
use crate::words::{self, WORD_DTYPES};

burn_operands::served_devices! {
    Autodiff: "autodiff",
    Cube: "cubecl-backend",
    Flex: "flex",
    NdArray: "ndarray",
    LibTorch: "tch",
    // Fusion sends operations of its own, which no server has.
    Remote: "remote" without "fusion",
    Capture: "capture",
}

/// A `[out_features, in_features]` matrix held as packed 4-bit codes and (by default doubly
/// quantized) block scales: 4.127 bits a weight (QLoRA §3). A matrix of a GGUF file keeps the file's own codes and scales,
/// of 4 or 8 bits ([`nf4::gguf`]).
///
/// Cloning shares the words. The matrix is a constant: no gradient ever reaches it, while
/// [`matmul`](Self::matmul) is differentiable in its argument.
///
/// ```
/// use burn_core::tensor::{Device, Distribution, Tensor};
/// use burn_nf4::{BlockwiseTensor, QuantConfig};
///
/// # fn main() -> Result<(), burn_nf4::BlockwiseTensorError> {
/// # #[cfg(feature = "flex")] {
/// let device = Device::flex();
/// let weight = Tensor::<2>::random([96, 64], Distribution::Normal(0.0, 0.02), &device);
/// let weight = BlockwiseTensor::quantize(weight, QuantConfig::default())?;
/// let x = Tensor::<3>::random([2, 5, 64], Distribution::Default, &device);
/// assert_eq!(weight.matmul(x).dims(), [2, 5, 96]);
/// # }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BlockwiseTensor {
    packed: Tensor<1, Int>,
    absmax: Tensor<1, Int>,
    layout: Layout,
}

impl BlockwiseTensor {
    /// Quantizes `weight: [out_features, in_features]` (f32, f16 or bf16) on its device.
    ///
    /// The result is a constant, whether or not `weight` takes part in a graph. Waits for the device, to learn whether all
    /// values are finite and how large they are.
    ///
    /// # Errors
    /// A device that this build has no operations for; a configuration or shape that [`Layout::new`] refuses; another dtype; an infinity or a NaN, or a value beyond
    /// [`Layout::largest_magnitude`].
    pub fn quantize(weight: Tensor<2>, config: QuantConfig) -> Result<Self, BlockwiseTensorError> {
        let (weight, layout) = to_quantize(weight, config)?;
        if layout.elements() > 0 {
            check_finite(&weight, all_finite(&weight).try_into_data())?;
            check_range(&layout, ends(&weight).try_into_data())?;
        }
        Ok(Self::quantize_unchecked(weight, config))
    }

    /// Does what [`quantize`](Self::quantize) does without blocking, for a browser, where WebGPU's results can only be awaited.
    ///
    /// # Errors
    /// As [`quantize`](Self::quantize).
    pub async fn quantize_async(
        weight: Tensor<2>,
        config: QuantConfig,
    ) -> Result<Self, BlockwiseTensorError> {
        let (weight, layout) = to_quantize(weight, config)?;
        if layout.elements() > 0 {
            check_finite(&weight, all_finite(&weight).into_data_async().await)?;
            check_range(&layout, ends(&weight).into_data_async().await)?;
        }
        Ok(Self::quantize_unchecked(weight, config))
    }

    /// Copies a quantized matrix from the host to `device`.
    pub fn from_host(matrix: &QuantizedMatrix, device: &Device) -> Self {
        Self::upload(matrix.clone(), device)
    }

    /// Moves a quantized matrix from the host to `device`: the host makes no copy of its words and keeps none.
    pub fn upload(matrix: QuantizedMatrix, device: &Device) -> Self {
        let dtype = words::dtype(|dtype| device.supports_dtype(dtype));
        let words = |words| Tensor::from_data(words::data(words, dtype), (device, dtype));
        let (layout, packed, absmax) = matrix.into_parts();
        Self {
            packed: words(packed),
            absmax: words(absmax),
            layout,
        }
    }

    /// Assembles a matrix from word tensors that already lie on a device, such as the parameters
    /// of a module.
    ///
    /// # Errors
    /// Tensors that are not U32 (or I32 with the same bits, on a device without U32), not as long as `layout` says, or not on
    /// one device.
    pub fn from_parts(
        packed: Tensor<1, Int>,
        absmax: Tensor<1, Int>,
        layout: Layout,
    ) -> Result<Self, BlockwiseTensorError> {
        check_words("packed", &packed, layout.packed_words())?;
        check_words("absmax", &absmax, layout.absmax_words())?;
        let (expected, actual) = (packed.device(), absmax.device());
        if expected != actual {
            return Err(BlockwiseTensorError::DeviceMismatch {
                operation: "blockwise from_parts",
                what: "absmax tensor",
                actual: format!("{actual:?}"),
                expected: format!("{expected:?}"),
            });
        }
        Ok(Self {
            packed,
            absmax,
            layout,
        })
    }

    /// Copies the matrix back to the host.
    ///
    /// # Errors
    /// A device that fails while it is read.
    pub fn into_host(self) -> Result<QuantizedMatrix, BlockwiseTensorError> {
        let packed = host_words("packed words", self.packed.try_into_data())?;
        let absmax = host_words("absmax words", self.absmax.try_into_data())?;
        Ok(QuantizedMatrix::from_parts(self.layout, packed, absmax)?)
    }

    /// Does what [`into_host`](Self::into_host) does without blocking, for a browser, where WebGPU's results can only be awaited.
    ///
    /// # Errors
    /// As [`into_host`](Self::into_host).
    pub async fn into_host_async(self) -> Result<QuantizedMatrix, BlockwiseTensorError> {
        let packed = host_words("packed words", self.packed.into_data_async().await)?;
        let absmax = host_words("absmax words", self.absmax.into_data_async().await)?;
        Ok(QuantizedMatrix::from_parts(self.layout, packed, absmax)?)
    }

    /// Returns the dense `[out_features, in_features]` matrix in f32, bit for bit as bitsandbytes decodes
    /// it, or gguf-py. Eight times the memory: computing with the matrix does not need this.
    ///
    /// # Panics
    /// On a device that this build has no operations for, naming the feature that brings them.
    pub fn dequantize(&self) -> Tensor<2> {
        check_device(&self.device()).unwrap_or_else(|error| panic!("{error}"));
        self.dequantize_unchecked(FloatDType::F32)
    }

    /// Returns [`dequantize`](Self::dequantize) rounded to `dtype`.
    ///
    /// # Errors
    /// A device that this build has no operations for; a dtype other than f32, f16 and bf16, or one that the device does not
    /// have.
    pub fn dequantize_to(&self, dtype: FloatDType) -> Result<Tensor<2>, BlockwiseTensorError> {
        check_device(&self.device())?;
        check_dtype("blockwise dequantize", dtype.into(), &self.device())?;
        Ok(self.dequantize_unchecked(dtype))
    }

    /// Returns `x · Wᵀ`, the product of a linear layer: `[.., in_features]` to `[.., out_features]`.
    ///
    /// Accumulates in f32 and has the dtype of `x`. Differentiable in `x`; the backward pass is
    /// [`matmul_transposed`](Self::matmul_transposed) of the gradient and keeps nothing of `x`.
    ///
    /// # Panics
    /// If [`try_matmul`](Self::try_matmul) returns an error, with its message.
    pub fn matmul<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.try_matmul(x).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns `x · W`, the other direction: `[.., out_features]` to `[.., in_features]`.
    ///
    /// # Panics
    /// If [`try_matmul_transposed`](Self::try_matmul_transposed) returns an error, with its
    /// message.
    pub fn matmul_transposed<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.try_matmul_transposed(x)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns [`matmul`](Self::matmul), or why it cannot be computed.
    ///
    /// # Errors
    /// A device that this build has no operations for; a dtype of `x` other than f32, f16 and bf16; a last dimension that is not `in_features`; an `x` on another device.
    pub fn try_matmul<const D: usize>(
        &self,
        x: Tensor<D>,
    ) -> Result<Tensor<D>, BlockwiseTensorError> {
        self.multiply("blockwise matmul", x, Direction::Forward)
    }

    /// Returns [`matmul_transposed`](Self::matmul_transposed), or why it cannot be computed.
    ///
    /// # Errors
    /// As [`try_matmul`](Self::try_matmul), the last dimension being `out_features`.
    pub fn try_matmul_transposed<const D: usize>(
        &self,
        x: Tensor<D>,
    ) -> Result<Tensor<D>, BlockwiseTensorError> {
        self.multiply("blockwise matmul_transposed", x, Direction::Transposed)
    }

    /// Returns `x · Wᵀ + scale · (x · A) · B`: a LoRA layer as one operation, which keeps nothing but `x` and the factors for
    /// the backward pass.
    ///
    /// `x: [.., in_features]`, `a: [in_features, rank]` and `b: [rank, out_features]`, both f32. Accumulates in f32 and
    /// has the dtype of `x`; a half-precision `x` may have the factors rounded to its dtype for the products.
    /// Differentiable in all three.
    ///
    /// # Panics
    /// If [`try_lora_matmul`](Self::try_lora_matmul) returns an error, with its message.
    pub fn lora_matmul<const D: usize>(
        &self,
        x: Tensor<D>,
        a: Tensor<2>,
        b: Tensor<2>,
        scale: f64,
    ) -> Tensor<D> {
        self.try_lora_matmul(x, a, b, scale)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns [`lora_matmul`](Self::lora_matmul), or why it cannot be computed.
    ///
    /// # Errors
    /// As [`try_matmul`](Self::try_matmul); factors that are not f32, do not fit the matrix or each other, or lie on
    /// another device.
    pub fn try_lora_matmul<const D: usize>(
        &self,
        x: Tensor<D>,
        a: Tensor<2>,
        b: Tensor<2>,
        scale: f64,
    ) -> Result<Tensor<D>, BlockwiseTensorError> {
        let layer = BlockwiseLayer::adapted(self.clone(), a, b, scale)?;
        Ok(BlockwiseLayer::forward_each(vec![layer], x)?.remove(0))
    }

    /// Returns the shape and the format.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the codes: `[packed_words]` of U32, or I32 with the same bits on a device without U32.
    pub fn packed(&self) -> &Tensor<1, Int> {
        &self.packed
    }

    /// Returns the block scales: `[absmax_words]` of U32, or I32 with the same bits on a device without U32.
    pub fn absmax(&self) -> &Tensor<1, Int> {
        &self.absmax
    }

    /// Returns the word tensors and their layout, for a module that keeps them as parameters.
    pub fn into_parts(self) -> (Tensor<1, Int>, Tensor<1, Int>, Layout) {
        (self.packed, self.absmax, self.layout)
    }

    /// Returns the words as the operations of [`BlockwiseOps`] take them.
    pub fn into_primitive(self) -> BlockwisePrimitive<Dispatch> {
        BlockwisePrimitive {
            packed: self.packed.into_dispatch(),
            absmax: self.absmax.into_dispatch(),
            layout: self.layout,
        }
    }

    /// Returns the device that holds the words.
    pub fn device(&self) -> Device {
        self.packed.device()
    }

    /// Moves the words to `device`.
    #[must_use]
    pub fn to_device(self, device: &Device) -> Self {
        Self {
            packed: self.packed.to_device(device),
            absmax: self.absmax.to_device(device),
            layout: self.layout,
        }
    }

    /// Quantizes f32 values that were checked.
    fn quantize_unchecked(weight: Tensor<2>, config: QuantConfig) -> Self {
        let words = <Dispatch as BlockwiseOps>::blockwise_quantize(weight.into_dispatch(), config);
        Self {
            packed: Tensor::from_dispatch(words.packed),
            absmax: Tensor::from_dispatch(words.absmax),
            layout: words.layout,
        }
    }

    fn multiply<const D: usize>(
        &self,
        operation: &'static str,
        x: Tensor<D>,
        direction: Direction,
    ) -> Result<Tensor<D>, BlockwiseTensorError> {
        let [expected, _] = direction.widths(self.layout.shape());
        self.check_operand(operation, &x, expected)?;
        let y = <Dispatch as BlockwiseOps>::blockwise_matmul(
            x.into_dispatch(),
            self.clone().into_primitive(),
            direction,
        );
        Ok(Tensor::from_dispatch(y))
    }

    /// Refuses an input whose last dimension is not `expected`, whose dtype the kernels do not serve or that is
    /// elsewhere.
    pub(crate) fn check_operand<const D: usize>(
        &self,
        operation: &'static str,
        x: &Tensor<D>,
        expected: usize,
    ) -> Result<(), BlockwiseTensorError> {
        let [out_features, in_features] = self.layout.shape();
        let dims = x.dims();
        if dims[D - 1] != expected {
            return Err(BlockwiseTensorError::ShapeMismatch {
                operation,
                shape: dims.to_vec(),
                actual: dims[D - 1],
                expected,
                out_features,
                in_features,
            });
        }
        let device = x.device();
        check_device(&device)?;
        self.check_device(operation, "input", &device)?;
        check_dtype(operation, x.dtype(), &device)
    }

    pub(crate) fn check_device(
        &self,
        operation: &'static str,
        what: &'static str,
        actual: &Device,
    ) -> Result<(), BlockwiseTensorError> {
        let expected = self.device();
        if *actual == expected {
            return Ok(());
        }
        Err(BlockwiseTensorError::DeviceMismatch {
            operation,
            what,
            actual: format!("{actual:?}"),
            expected: format!("{expected:?}"),
        })
    }

    fn dequantize_unchecked(&self, dtype: FloatDType) -> Tensor<2> {
        Tensor::from_dispatch(<Dispatch as BlockwiseOps>::blockwise_dequantize(
            self.clone().into_primitive(),
            dtype,
        ))
    }
}

/// Refuses dtypes that the kernels do not serve, half types where the device does not compute with them.
fn check_dtype(
    operation: &'static str,
    dtype: DType,
    device: &Device,
) -> Result<(), BlockwiseTensorError> {
    let served = match dtype {
        DType::F32 => true,
        DType::F16 | DType::BF16 => device.supports_dtype(dtype),
        _ => false,
    };
    if served {
        Ok(())
    } else {
        Err(BlockwiseTensorError::unsupported(operation, dtype, device))
    }
}

/// Returns a weight's values as they are quantized, a constant in f32, and the layout that they get.
fn to_quantize(
    weight: Tensor<2>,
    config: QuantConfig,
) -> Result<(Tensor<2>, Layout), BlockwiseTensorError> {
    let device = weight.device();
    check_device(&device)?;
    let layout = Layout::new(weight.dims(), config)?;
    check_dtype("blockwise quantize", weight.dtype(), &device)?;
    Ok((weight.without_autodiff().cast(DType::F32), layout))
}

fn all_finite(weight: &Tensor<2>) -> Tensor<1, Bool> {
    weight.clone().is_finite().all()
}

/// Returns the smallest and the largest value, and not the largest magnitude, which would take a second weight.
fn ends(weight: &Tensor<2>) -> Tensor<1> {
    Tensor::cat(vec![weight.clone().min(), weight.clone().max()], 0)
}

/// Refuses infinities and NaNs, which no block scale can stand for, given [`all_finite`] as it was read.
fn check_finite(
    weight: &Tensor<2>,
    read: Result<TensorData, ExecutionError>,
) -> Result<(), BlockwiseTensorError> {
    let part = "weight's finiteness";
    let finite = read.map_err(|source| BlockwiseTensorError::Read { part, source })?;
    if finite.iter::<bool>().all(|finite| finite) {
        Ok(())
    } else {
        Err(BlockwiseTensorError::NotFinite {
            shape: weight.dims(),
        })
    }
}

/// Refuses scales that f32 cannot compute with, given [`ends`] as they were read.
fn check_range(
    layout: &Layout,
    read: Result<TensorData, ExecutionError>,
) -> Result<(), BlockwiseTensorError> {
    let part = "weight's range";
    let ends = read.map_err(|source| BlockwiseTensorError::Read { part, source })?;
    let largest = ends
        .iter::<f32>()
        .fold(0.0, |largest: f32, end| largest.max(end.abs()));
    Ok(layout.check_magnitude(largest)?)
}

/// Returns words that were read.
fn host_words(
    part: &'static str,
    read: Result<TensorData, ExecutionError>,
) -> Result<Vec<u32>, BlockwiseTensorError> {
    let data = read.map_err(|source| BlockwiseTensorError::Read { part, source })?;
    let (dtype, actual) = (data.dtype(), data.num_elements());
    words::from_data(data).ok_or(BlockwiseTensorError::Words {
        part,
        expected: actual,
        actual,
        dtype,
    })
}

fn check_words(
    part: &'static str,
    words: &Tensor<1, Int>,
    expected: usize,
) -> Result<(), BlockwiseTensorError> {
    let (dtype, [actual]) = (words.dtype(), words.dims());
    let [unsigned, signed] = WORD_DTYPES;
    // Of I32 only what could not be U32 there.
    let are_words =
        dtype == unsigned || dtype == signed && !words.device().supports_dtype(unsigned);
    if are_words && actual == expected {
        Ok(())
    } else {
        Err(BlockwiseTensorError::Words {
            part,
            expected,
            actual,
            dtype,
        })
    }
}
