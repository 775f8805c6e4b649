//! The values of Flex's tensors in the type and order that kernels of the CPU take, and tensors of their results.

use std::marker::PhantomData;
use std::ops::Deref;

use burn_core::backend::ops::{FloatTensorOps, IntTensorOps};
use burn_core::backend::{Bytes, Flex, TensorMetadata};
use burn_core::tensor::{DType, Element, IntDType, Shape};
use burn_flex::{FlexTensor, Layout};
use qlora_cpu::{convert, isa};

use crate::with_element;

/// An element type of both the kernels and Burn.
pub trait FlexElement: qlora_cpu::Element + Element {}

impl<E: qlora_cpu::Element + Element> FlexElement for E {}

/// A tensor's values in row-major order: read where they lie, or copied where they lie in another order or are of another type
/// than `E`.
pub struct Values<E>(FlexTensor, PhantomData<E>);

impl<E: FlexElement> Values<E> {
    /// Takes the values of `tensor`.
    pub fn new(tensor: FlexTensor) -> Self {
        let tensor = cast::<E>(tensor);
        let contiguous = tensor.layout().contiguous_offsets().is_some();
        Self(
            if contiguous {
                tensor
            } else {
                tensor.to_contiguous()
            },
            PhantomData,
        )
    }
}

impl<E: FlexElement> Deref for Values<E> {
    type Target = [E];

    fn deref(&self) -> &[E] {
        self.0.as_slice().expect("the layout is contiguous")
    }
}

/// Returns the tensor as `E`; nothing is done when that is its type.
pub fn cast<E: FlexElement>(from: FlexTensor) -> FlexTensor {
    if from.dtype() == E::dtype() {
        return from;
    }
    with_element!(from.dtype(), A => {
        let shape = from.shape();
        let values = Values::<A>::new(from);
        tensor(shape, convert::<A, E>(isa(), &values))
    }, else Flex::float_cast(from, E::dtype().into()))
}

/// Returns the tensor in `dtype`; nothing is done when it has it already.
pub fn cast_to(from: FlexTensor, dtype: DType) -> FlexTensor {
    with_element!(dtype, E => cast::<E>(from), else Flex::float_cast(from, dtype.into()))
}

/// Returns the tensor after `f` has changed its values (row-major): in place when nobody else holds the storage, in a
/// copy otherwise.
pub fn update<E: FlexElement>(tensor: FlexTensor, f: impl FnOnce(&mut [E])) -> FlexTensor {
    // Borrowing, `to_contiguous` hands out a second reference to a storage that fits; the first goes with the statement.
    let mut tensor = cast::<E>(tensor).to_contiguous();
    f(tensor.storage_mut());
    tensor
}

/// Returns the tensor as i64, in row-major order.
pub fn integers(tensor: FlexTensor) -> FlexTensor {
    if tensor.dtype() == DType::I64 {
        tensor.to_contiguous()
    } else {
        Flex::int_cast(tensor, IntDType::I64).to_contiguous()
    }
}

/// Makes a tensor of exactly as many values as `shape` holds.
pub fn tensor<E>(shape: impl Into<Shape>, values: Vec<E>) -> FlexTensor
where
    E: Element + bytemuck::Pod + Send + Sync,
{
    let shape = shape.into();
    debug_assert_eq!(shape.num_elements(), values.len());
    FlexTensor::new(
        Bytes::from_elems(values),
        Layout::contiguous(shape),
        E::dtype(),
    )
}
