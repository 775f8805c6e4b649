use burn::tensor::bf16;
use mpi::collective::UnsafeUserOperation;
use mpi::ffi::MPI_Datatype;
use std::ffi::{c_int, c_void};

/// Returns `values` rounded to bf16, as bits.
pub(super) fn rounded(values: &[f32]) -> Vec<u16> {
    let each = values.iter().map(|value| bf16::from_f32(*value).to_bits());
    each.collect()
}

/// Writes numbers in bf16 to `values`.
pub(super) fn widen(bits: &[u16], values: &mut [f32]) {
    for (value, bits) in values.iter_mut().zip(bits) {
        *value = bf16::from_bits(*bits).to_f32();
    }
}

/// Returns the sum of two numbers in bf16, which MPI does not have.
pub(super) fn addition() -> UnsafeUserOperation {
    // SAFETY: `add` adds numbers in any order alike, and is used on elements of 16 bits alone.
    unsafe { UnsafeUserOperation::commutative(add) }
}

/// Adds `len` numbers in bf16 at `from` to those at `to`.
///
/// # Safety
/// Both are valid for `len` elements of 16 bits and do not overlap, and `to` is for writing.
unsafe extern "C" fn add(
    from: *mut c_void,
    to: *mut c_void,
    len: *mut c_int,
    _: *mut MPI_Datatype,
) {
    // SAFETY: MPI gives the length, and two distinct buffers of as many elements of the type that the reduction was called with
    // (MPI 3.1, 5.9.5), which is that of u16; they are aligned as those of the caller.
    let (from, to) = unsafe {
        let len = usize::try_from(*len).unwrap_or(0);
        let from = std::slice::from_raw_parts(from.cast::<u16>(), len);
        (from, std::slice::from_raw_parts_mut(to.cast::<u16>(), len))
    };
    for (to, from) in to.iter_mut().zip(from) {
        let sum = bf16::from_bits(*to).to_f32() + bf16::from_bits(*from).to_f32();
        *to = bf16::from_f32(sum).to_bits();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_added_in_bf16() {
        let mut from = rounded(&[1.0, 256.0, -3.5, f32::NAN]);
        let mut to = rounded(&[2.0, 1.0, 3.5, 0.0]);
        let mut len = 4;
        let type_of_none = std::ptr::null_mut();
        // SAFETY: two vectors of four.
        unsafe {
            add(
                from.as_mut_ptr().cast(),
                to.as_mut_ptr().cast(),
                &mut len,
                type_of_none,
            );
        }
        let mut sums = [0.0; 4];
        widen(&to, &mut sums);
        // 257 lies between two of its numbers, of which 256 is even.
        assert_eq!(sums[..3], [3.0, 256.0, 0.0]);
        assert!(sums[3].is_nan());
    }
}
