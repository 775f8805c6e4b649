//! Buffers and tensors as kernels take and return them.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;
use cubecl::std::tensor::{TensorHandle, into_contiguous};
use cubecl::zspace::Shape;

/// Returns `len` elements of a buffer as a kernel argument.
pub(crate) fn buffer(handle: &Handle, len: usize) -> BufferArg {
    // SAFETY: every caller passes a length that it allocated, that the format defines, or that the shape of a tensor
    // has, for which whoever made the tensor vouches.
    unsafe { BufferArg::from_raw_parts(handle.clone(), len) }
}

/// Returns all elements of a contiguous tensor as a kernel argument.
pub(crate) fn tensor_buffer(tensor: &TensorHandle) -> BufferArg {
    buffer(&tensor.handle, elements(tensor))
}

/// Returns the number of elements.
pub(crate) fn elements(tensor: &TensorHandle) -> usize {
    tensor.shape().iter().product()
}

/// Returns the tensor with its elements one after another, copied if they are not.
pub(crate) fn contiguous(client: &Client, tensor: TensorHandle) -> TensorHandle {
    if is_contiguous(tensor.shape(), tensor.strides()) {
        return tensor;
    }
    let dtype = tensor.dtype;
    into_contiguous(client, tensor.binding(), dtype)
}

/// Returns whether elements lie one after another. The stride of a dimension of one entry is never applied.
pub(crate) fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    let mut dims = shape.iter().zip(strides).rev();
    dims.all(|(&dim, &stride)| {
        let fits = dim <= 1 || stride == expected;
        expected *= dim;
        fits
    }) || shape.contains(&0)
}

/// Allocates a contiguous tensor.
pub(crate) fn empty(client: &Client, shape: impl Into<Shape>, dtype: ElemType) -> TensorHandle {
    let shape = shape.into();
    let handle = client.empty(shape.iter().product::<usize>() * dtype.size());
    TensorHandle::new_contiguous(shape, handle, dtype)
}

/// Allocates a contiguous tensor of zeros. That of no elements cannot be bound.
pub(crate) fn zeros(client: &Client, shape: impl Into<Shape>, dtype: ElemType) -> TensorHandle {
    let shape = shape.into();
    // Zero is all zero bits in every type.
    let bytes = vec![0; shape.iter().product::<usize>() * dtype.size()];
    TensorHandle::new_contiguous(shape, client.create_from_slice(&bytes), dtype)
}
