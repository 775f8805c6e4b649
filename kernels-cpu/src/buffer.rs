//! Memory for kernels: vectors that are written without being filled first, and words that vectors of 16 are loaded from.

use std::mem::MaybeUninit;

use bytemuck::{Pod, Zeroable};

/// 16 words in one cache line: a vector of them is loaded at once, where one that lies in two lines takes two loads.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([u32; 16]);

/// Returns zeros for at least `words` words, as whole lines.
pub(crate) fn lines(words: usize) -> Vec<Line> {
    vec![Line::zeroed(); words.div_ceil(16)]
}

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
