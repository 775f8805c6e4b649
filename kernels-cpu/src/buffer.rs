//! Memory that a kernel writes without reading: vectors are made without being filled first.

use std::mem::MaybeUninit;

/// Returns a vector of `len` values, all of which `write` writes.
///
/// # Safety
/// Every element must be initialised when `write` returns.
pub(crate) unsafe fn written<E>(len: usize, write: impl FnOnce(&mut [MaybeUninit<E>])) -> Vec<E> {
    let mut values = Vec::with_capacity(len);
    write(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: the capacity is at least `len`, and the caller promises that as many values were initialised.
    unsafe { values.set_len(len) };
    values
}

/// Returns `values` as memory to write values to.
///
/// # Safety
/// Nothing but initialised values may be written.
pub(crate) unsafe fn as_uninit<E>(values: &mut [E]) -> &mut [MaybeUninit<E>] {
    // SAFETY: the layout is the same, and the caller promises that the elements stay initialised.
    unsafe { &mut *(std::ptr::from_mut(values) as *mut [MaybeUninit<E>]) }
}
