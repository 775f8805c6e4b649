//! The number types a matrix can be quantized from.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// A floating-point type that [`quantize`](crate::quantize) reads: `f32`, `f16` or `bf16`. Quantizing
/// gives the same result as quantizing the values converted to f32.
pub trait Element: sealed::Sealed + Copy + Send + Sync {
    /// The values as f32, converted into `scratch` (of the same length) unless they are f32 already.
    #[doc(hidden)]
    fn widen<'a>(values: &'a [Self], scratch: &'a mut [f32]) -> &'a [f32];

    /// Whether [`Element::widen`] needs scratch.
    #[doc(hidden)]
    const CONVERTS: bool;
}

mod sealed {
    pub trait Sealed {}
}

impl sealed::Sealed for f32 {}
impl sealed::Sealed for f16 {}
impl sealed::Sealed for bf16 {}

impl Element for f32 {
    const CONVERTS: bool = false;

    fn widen<'a>(values: &'a [Self], _scratch: &'a mut [f32]) -> &'a [f32] {
        values
    }
}

impl Element for f16 {
    const CONVERTS: bool = true;

    fn widen<'a>(values: &'a [Self], scratch: &'a mut [f32]) -> &'a [f32] {
        values.convert_to_f32_slice(scratch);
        scratch
    }
}

impl Element for bf16 {
    const CONVERTS: bool = true;

    fn widen<'a>(values: &'a [Self], scratch: &'a mut [f32]) -> &'a [f32] {
        // The crate's own conversion quiets NaNs one by one; a NaN is refused later anyway.
        scratch
            .iter_mut()
            .zip(values)
            .for_each(|(out, x)| *out = f32::from_bits(u32::from(x.to_bits()) << 16));
        scratch
    }
}
