//! Getting at the f32 values of a tensor, and making tensors of new ones.

use burn_core::backend::{Bytes, TensorMetadata, ops::FloatTensorOps};
use burn_core::tensor::{DType, Shape};
use burn_flex::{Flex, FlexTensor, Layout};

/// Elements below which starting threads costs more than it saves.
pub(super) const PARALLEL: usize = 1 << 15;

/// The tensor in f32; nothing is done when it is.
pub(super) fn f32(tensor: FlexTensor) -> FlexTensor {
    cast(tensor, DType::F32)
}

/// The tensor in `dtype`; nothing is done when it has it already.
pub(super) fn cast(tensor: FlexTensor, dtype: DType) -> FlexTensor {
    if tensor.dtype() == dtype {
        tensor
    } else {
        Flex::float_cast(tensor, dtype.into())
    }
}

/// The f32 values in row-major order: the storage itself, or a copy where that is in another order.
pub(super) struct Values(FlexTensor);

impl Values {
    pub fn new(tensor: FlexTensor) -> Self {
        let tensor = f32(tensor);
        if tensor.layout().contiguous_offsets().is_some() {
            Self(tensor)
        } else {
            Self(tensor.to_contiguous())
        }
    }
}

impl core::ops::Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.0.as_slice().expect("the layout is contiguous")
    }
}

/// The tensor, after `f` has changed its f32 values (row-major): in place when nobody else holds
/// the storage, in a copy otherwise.
pub(super) fn update(tensor: FlexTensor, f: impl FnOnce(&mut [f32])) -> FlexTensor {
    let mut tensor = whole(f32(tensor));
    f(tensor.storage_mut());
    tensor
}

/// The tensor in row-major order and alone in its storage's length.
fn whole(tensor: FlexTensor) -> FlexTensor {
    // Borrowing, `to_contiguous` hands out a second reference to a storage that fits; the first
    // goes when this returns.
    tensor.to_contiguous()
}

/// A new tensor whose values `f` appends, exactly as many as `shape` holds.
pub(super) fn create(shape: Shape, values: Vec<f32>) -> FlexTensor {
    debug_assert_eq!(shape.num_elements(), values.len());
    FlexTensor::new(
        Bytes::from_elems(values),
        Layout::contiguous(shape),
        DType::F32,
    )
}

/// A vector of `len` values that `f` writes every one of.
///
/// # Safety
/// `f` must have written every element when it returns.
pub(super) unsafe fn written(
    len: usize,
    f: impl FnOnce(&mut [core::mem::MaybeUninit<f32>]),
) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    f(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: the capacity is at least `len`, and the caller promises that `f` wrote that many.
    unsafe { values.set_len(len) };
    values
}

/// The shape without its last dimension's size: `(rows, n)`.
pub(super) fn rows(tensor: &FlexTensor) -> (usize, usize) {
    let shape = tensor.shape();
    let n = shape[shape.num_dims() - 1];
    (shape.num_elements() / n.max(1), n)
}
