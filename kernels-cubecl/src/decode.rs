//! Reading the codes of a weight inside a kernel.

use cubecl::prelude::*;

use crate::format::{CodeFormat, FRACTION};
use crate::scales::Scales;

/// The words of a weight as a kernel argument.
#[derive(CubeType, CubeLaunch, Clone)]
#[expand(derive(Clone))]
pub(crate) struct Words {
    pub(crate) packed: Box<[u32]>,
    pub(crate) scales: Scales,
}

/// Writes the values of the 16 codes to shared memory, where a lookup costs no instruction cache and no
/// register. The caller synchronizes. Codes of 8 bits have no such table.
#[cube]
pub(crate) fn fill_table(table: &mut Shared<[f32]>, #[comptime] codes: CodeFormat) {
    // One condition is the instance's, the other its kernel's.
    #[allow(clippy::collapsible_if)]
    if comptime!(codes.has_table()) {
        if UNIT_POS == 0 {
            #[unroll]
            for code in 0..16usize {
                table[code] = f32::new(comptime!(codes.value(code)));
            }
        }
    }
}

/// Returns the value of the code in the low bits of `word`, whatever is above it.
#[cube]
pub(crate) fn value_of(table: &Shared<[f32]>, word: u32, #[comptime] codes: CodeFormat) -> f32 {
    if comptime!(codes.has_table()) {
        let code = word & 15;
        table[code as usize]
    } else {
        // Exact, and fewer instructions than a conversion.
        f32::from_bits((word & 255) | comptime!(FRACTION).runtime())
            - f32::new(comptime!(f32::from_bits(FRACTION) + codes.zero()))
    }
}

/// Returns the code of element `element` in the lowest bits, those of the elements after it in its word above.
#[cube]
pub(crate) fn code_of(words: &Words, element: u32, #[comptime] codes: CodeFormat) -> u32 {
    let (shift, mask) = comptime!((codes.word_shift(), codes.per_word() as u32 - 1));
    words.packed[(element >> shift) as usize] >> ((element & mask) * comptime!(codes.bits() as u32))
}

/// Returns the values of the codes that begin at bit `shift` of every lane of `words`.
///
/// Of a table by a tree of 15 selections between constants, which a vector unit makes for all lanes at once, where a lookup
/// would take a load a lane.
#[cube]
pub(crate) fn select_values<N: Size>(
    words: Vector<u32, N>,
    #[comptime] shift: usize,
    #[comptime] codes: CodeFormat,
) -> Vector<f32, N> {
    if comptime!(codes.has_table()) {
        select_from_table::<N>(words, shift, codes)
    } else {
        byte_values::<N>(words, shift, codes)
    }
}

#[cube]
fn select_from_table<N: Size>(
    words: Vector<u32, N>,
    #[comptime] shift: usize,
    #[comptime] codes: CodeFormat,
) -> Vector<f32, N> {
    let bit0 = has_bit::<N>(words, shift);
    let bit1 = has_bit::<N>(words, comptime!(shift + 1));
    let bit2 = has_bit::<N>(words, comptime!(shift + 2));
    let bit3 = has_bit::<N>(words, comptime!(shift + 3));
    let low = select_quarter::<N>(bit0, bit1, bit2, 0usize, codes);
    let high = select_quarter::<N>(bit0, bit1, bit2, 8usize, codes);
    select_many(bit3, high, low)
}

/// Returns the values of [`select_values`] by permutations of the table instead: for the compilers of CPUs, which make one
/// instruction of the lane-by-lane lookup in a vector.
#[cube]
pub(crate) fn permute_values<N: Size>(
    words: Vector<u32, N>,
    #[comptime] shift: usize,
    #[comptime] codes: CodeFormat,
) -> Vector<f32, N> {
    if comptime!(codes.has_table()) {
        permute_table::<N>(words, shift, codes)
    } else {
        byte_values::<N>(words, shift, codes)
    }
}

/// Returns the values of codes of 8 bits that begin at bit `shift`.
#[cube]
fn byte_values<N: Size>(
    words: Vector<u32, N>,
    #[comptime] shift: usize,
    #[comptime] codes: CodeFormat,
) -> Vector<f32, N> {
    let bytes = (words >> Vector::new(comptime!(shift as u32).runtime()))
        & Vector::new(comptime!(255u32).runtime());
    Vector::<f32, N>::cast_from(bytes) - Vector::new(f32::new(comptime!(codes.zero())))
}

#[cube]
fn permute_table<N: Size>(
    words: Vector<u32, N>,
    #[comptime] shift: usize,
    #[comptime] codes: CodeFormat,
) -> Vector<f32, N> {
    let lanes = N::value();
    let index = (words >> Vector::new(comptime!(shift as u32).runtime()))
        & Vector::new(comptime!(lanes as u32 - 1).runtime());
    match comptime!(16 / lanes) {
        1 => permute_part::<N>(index, 0usize, codes),
        2 => {
            let low = permute_part::<N>(index, 0usize, codes);
            let high = permute_part::<N>(index, 8usize, codes);
            select_many(has_bit::<N>(words, comptime!(shift + 3)), high, low)
        }
        _ => select_from_table::<N>(words, shift, codes),
    }
}

/// Returns the values at `index` of those from `first` on, of which there are as many as lanes.
#[cube]
fn permute_part<N: Size>(
    index: Vector<u32, N>,
    #[comptime] first: usize,
    #[comptime] codes: CodeFormat,
) -> Vector<f32, N> {
    let mut table = Vector::<f32, N>::zeroed();
    #[unroll]
    for l in 0..N::value() {
        table.insert(l, f32::new(comptime!(codes.value(first + l))));
    }
    let mut values = Vector::<f32, N>::zeroed();
    #[unroll]
    for l in 0..N::value() {
        values.insert(l, table.extract_dynamic(index.extract(l) as usize));
    }
    values
}

#[cube]
fn has_bit<N: Size>(words: Vector<u32, N>, #[comptime] bit: usize) -> Vector<bool, N> {
    (words & Vector::new(comptime!(1u32 << bit))).not_equal(&Vector::new(0u32))
}

/// Returns one of the eight values from `first` on.
#[cube]
fn select_quarter<N: Size>(
    bit0: Vector<bool, N>,
    bit1: Vector<bool, N>,
    bit2: Vector<bool, N>,
    #[comptime] first: usize,
    #[comptime] codes: CodeFormat,
) -> Vector<f32, N> {
    let v0 = select_pair::<N>(bit0, first, codes);
    let v1 = select_pair::<N>(bit0, comptime!(first + 2), codes);
    let v2 = select_pair::<N>(bit0, comptime!(first + 4), codes);
    let v3 = select_pair::<N>(bit0, comptime!(first + 6), codes);
    select_many(bit2, select_many(bit1, v3, v2), select_many(bit1, v1, v0))
}

#[cube]
fn select_pair<N: Size>(
    bit0: Vector<bool, N>,
    #[comptime] first: usize,
    #[comptime] codes: CodeFormat,
) -> Vector<f32, N> {
    select_many(
        bit0,
        Vector::new(f32::new(comptime!(codes.value(first + 1)))),
        Vector::new(f32::new(comptime!(codes.value(first)))),
    )
}
