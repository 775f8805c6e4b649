//! The element types that kernels read and write, all of them computed in f32.
//!
//! Half-precision values are widened a cache-sized piece at a time, so that memory is passed over once, at half the
//! width.

use burn_core::tensor::{Element, bf16, f16};
use core::mem::MaybeUninit;
use half::slice::HalfFloatSliceExt;

use super::simd::vectorised;

/// f32, or a half-precision type that is computed as f32.
pub(super) trait Number: Element + qlora_cpu::Element + bytemuck::Pod {
    /// The values in f32: themselves, or in `scratch`.
    fn read<'a>(values: &'a [Self], scratch: &'a mut Vec<f32>) -> &'a [f32];

    /// Writes what `f` writes, every element of it.
    fn write(
        to: &mut [MaybeUninit<Self>],
        scratch: &mut Vec<f32>,
        f: impl FnOnce(&mut [MaybeUninit<f32>]),
    );

    /// Lets `f` change the values.
    fn modify(values: &mut [Self], scratch: &mut Vec<f32>, f: impl FnOnce(&mut [f32]));

    /// What products of these values multiply: bf16 in pairs, others as f32.
    type Operand: Number;

    /// The values as operands of products.
    fn operands(values: &[Self], to: &mut [Self::Operand]);
}

impl Number for f32 {
    fn read<'a>(values: &'a [f32], _: &'a mut Vec<f32>) -> &'a [f32] {
        values
    }

    fn write(
        to: &mut [MaybeUninit<f32>],
        _: &mut Vec<f32>,
        f: impl FnOnce(&mut [MaybeUninit<f32>]),
    ) {
        f(to);
    }

    fn modify(values: &mut [f32], _: &mut Vec<f32>, f: impl FnOnce(&mut [f32])) {
        f(values);
    }

    type Operand = f32;

    fn operands(values: &[f32], to: &mut [f32]) {
        to.copy_from_slice(values);
    }
}

macro_rules! half_precision {
    ($type:ty, $widen:ident, $narrow:ident, $operand:ty, $operands:expr) => {
        impl Number for $type {
            fn read<'a>(values: &'a [$type], scratch: &'a mut Vec<f32>) -> &'a [f32] {
                scratch.resize(values.len(), 0.0);
                $widen(values, scratch);
                scratch
            }

            fn write(
                to: &mut [MaybeUninit<$type>],
                scratch: &mut Vec<f32>,
                f: impl FnOnce(&mut [MaybeUninit<f32>]),
            ) {
                scratch.resize(to.len(), 0.0);
                // SAFETY: initialised f32 may be seen as possibly uninitialised ones; `f` only writes values.
                f(unsafe {
                    &mut *(scratch.as_mut_slice() as *mut [f32] as *mut [MaybeUninit<f32>])
                });
                // SAFETY: every bit pattern is a number, and all that is done is to write them.
                $narrow(scratch, unsafe {
                    &mut *(to as *mut [MaybeUninit<$type>] as *mut [$type])
                });
            }

            fn modify(values: &mut [$type], scratch: &mut Vec<f32>, f: impl FnOnce(&mut [f32])) {
                scratch.resize(values.len(), 0.0);
                $widen(values, scratch);
                f(scratch);
                $narrow(scratch, values);
            }

            type Operand = $operand;

            fn operands(values: &[$type], to: &mut [$operand]) {
                $operands(values, to);
            }
        }
    };
}

half_precision!(bf16, widen_bf16, narrow_bf16, bf16, copy);
half_precision!(f16, widen_f16, narrow_f16, f32, widen_f16);

fn copy<E: Copy>(from: &[E], to: &mut [E]) {
    to.copy_from_slice(from);
}

vectorised! {
    fn widen_bf16(from: &[bf16], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = qlora_cpu::Element::to_f32(*from);
        }
    }

    fn narrow_bf16(from: &[f32], to: &mut [bf16]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = qlora_cpu::Element::from_f32(*from);
        }
    }
}

fn widen_f16(from: &[f16], to: &mut [f32]) {
    from.convert_to_f32_slice(to);
}

fn narrow_f16(from: &[f32], to: &mut [f16]) {
    to.convert_from_f32_slice(from);
}

/// Runs `$body` with `$E` the element type of `$dtype`, one that [`super::fits`].
macro_rules! with_number {
    ($dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $E = f32;
                $body
            }
            DType::BF16 => {
                type $E = bf16;
                $body
            }
            DType::F16 => {
                type $E = f16;
                $body
            }
            dtype => panic!("{dtype:?} is not an element type of the fused operations on Flex"),
        }
    };
}
pub(super) use with_number;
