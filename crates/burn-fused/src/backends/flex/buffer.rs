//! Getting at the values of a tensor, and making tensors of new ones.

use burn_core::backend::{Bytes, TensorMetadata, ops::FloatTensorOps};
use burn_core::tensor::{DType, Shape, bf16, f16};
use burn_flex::{Flex, FlexTensor, Layout};
use core::mem::MaybeUninit;
use rayon::prelude::*;

use super::number::{Number, with_number};

/// Elements below which starting threads costs more than it saves.
pub(super) const PARALLEL: usize = 1 << 15;

/// The tensor in f32; nothing is done when it is.
pub(super) fn f32(tensor: FlexTensor) -> FlexTensor {
    cast(tensor, DType::F32)
}

/// The tensor in `dtype`; nothing is done when it has it already.
pub(super) fn cast(tensor: FlexTensor, dtype: DType) -> FlexTensor {
    match (tensor.dtype(), dtype) {
        (from, to) if from == to => tensor,
        (DType::F16 | DType::BF16, DType::F32) => with_number!(tensor.dtype(), E => {
            let values = Typed::new(tensor);
            let pieces = |i: usize, to: &mut [MaybeUninit<f32>], scratch: &mut Vec<f32>| {
                let from = E::read(&values.slice::<E>()[i * PIECE..][..to.len()], scratch);
                to.iter_mut().zip(from).for_each(|(to, from)| _ = to.write(*from));
            };
            create(values.shape(), in_pieces(values.len(), pieces))
        }),
        (DType::F32, DType::F16 | DType::BF16) => with_number!(dtype, E => {
            let values = Typed::new(tensor);
            let pieces = |i: usize, to: &mut [MaybeUninit<E>], scratch: &mut Vec<f32>| {
                let from = &values.slice::<f32>()[i * PIECE..][..to.len()];
                E::write(to, scratch, |to| {
                    to.iter_mut().zip(from).for_each(|(to, from)| _ = to.write(*from));
                });
            };
            create(values.shape(), in_pieces(values.len(), pieces))
        }),
        _ => Flex::float_cast(tensor, dtype.into()),
    }
}

/// Elements of the pieces that [`in_pieces`] takes; 64 KiB of f32.
pub(super) const PIECE: usize = 1 << 14;

/// `len` values, of which `f` writes every one: piece `i` of [`PIECE`] elements, the last one shorter.
fn in_pieces<E: Number>(
    len: usize,
    f: impl Fn(usize, &mut [MaybeUninit<E>], &mut Vec<f32>) + Sync,
) -> Vec<E> {
    // SAFETY: the pieces make up the whole, and the callers in this module write all of theirs.
    unsafe {
        written(len, |values| {
            if len < PARALLEL {
                let mut scratch = Vec::new();
                let pieces = values.chunks_mut(PIECE).enumerate();
                pieces.for_each(|(i, piece)| f(i, piece, &mut scratch));
            } else {
                let pieces = values.par_chunks_mut(PIECE).enumerate();
                pieces.for_each_init(Vec::new, |scratch, (i, piece)| f(i, piece, scratch));
            }
        })
    }
}

/// A tensor's values of its own type in row-major order: the storage itself, or a copy where that is in another order.
pub(super) struct Typed(FlexTensor);

impl Typed {
    pub fn new(tensor: FlexTensor) -> Self {
        if tensor.layout().contiguous_offsets().is_some() {
            Self(tensor)
        } else {
            Self(tensor.to_contiguous())
        }
    }

    pub fn shape(&self) -> Shape {
        self.0.shape()
    }

    pub fn len(&self) -> usize {
        self.0.shape().num_elements()
    }

    /// # Panics
    /// When `E` is not the tensor's type.
    pub fn slice<E: Number>(&self) -> &[E] {
        self.0.as_slice().expect("the layout is contiguous")
    }
}

/// [`Typed`] values in f32, cast where the tensor has others.
pub(super) struct Values(Typed);

impl Values {
    pub fn new(tensor: FlexTensor) -> Self {
        Self(Typed::new(f32(tensor)))
    }
}

impl core::ops::Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.0.slice()
    }
}

/// The tensor, after `f` has changed its values (row-major): in place when nobody else holds the storage, in a copy
/// otherwise.
pub(super) fn update<E: Number>(tensor: FlexTensor, f: impl FnOnce(&mut [E])) -> FlexTensor {
    let mut tensor = whole(cast(tensor, E::dtype()));
    f(tensor.storage_mut());
    tensor
}

/// The tensor in row-major order and alone in its storage's length.
fn whole(tensor: FlexTensor) -> FlexTensor {
    // Borrowing, `to_contiguous` hands out a second reference to a storage that fits; the first
    // goes when this returns.
    tensor.to_contiguous()
}

/// A new tensor of exactly as many values as `shape` holds.
pub(super) fn create<E: Number>(shape: Shape, values: Vec<E>) -> FlexTensor {
    debug_assert_eq!(shape.num_elements(), values.len());
    FlexTensor::new(
        Bytes::from_elems(values),
        Layout::contiguous(shape),
        E::dtype(),
    )
}

/// A vector of `len` values that `f` writes every one of.
///
/// # Safety
/// `f` must have written every element when it returns.
pub(super) unsafe fn written<E>(len: usize, f: impl FnOnce(&mut [MaybeUninit<E>])) -> Vec<E> {
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
