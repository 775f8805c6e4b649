//! f16 and bf16 operands are computed in f32.

use burn_core::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn_core::tensor::DType;

/// Returns the operand in the dtype it is computed in: f32 for f16 and bf16, else its own.
pub(super) fn widen<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    match tensor.dtype() {
        DType::F16 | DType::BF16 => cast::<B>(tensor, DType::F32),
        _ => tensor,
    }
}

/// Returns the tensor in `dtype`; nothing is done when it has it already.
pub(crate) fn cast<B: Backend>(tensor: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if tensor.dtype() == dtype {
        tensor
    } else {
        B::float_cast(tensor, dtype.into())
    }
}
