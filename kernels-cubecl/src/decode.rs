//! Reading the words of a weight inside a kernel.

use cubecl::prelude::*;
use nf4::Codebook;

use crate::rounding::rounded;

/// The words of a weight as a kernel argument.
#[derive(CubeType, CubeLaunch, Clone)]
#[expand(derive(Clone))]
pub(crate) struct Words {
    pub(crate) packed: Box<[u32]>,
    pub(crate) scales: Scales,
}

/// The scales of a weight as a kernel argument.
#[derive(CubeType, CubeLaunch, Clone)]
#[expand(derive(Clone))]
pub(crate) struct Scales {
    absmax: Box<[u32]>,
    /// log2 of the block size.
    block_shift: u32,
    /// First nested scale.
    nested: u32,
    /// The offset; the 8-bit map follows it.
    offset: u32,
    /// Always 0, which no compiler can know: see [`rounded`].
    zero: u32,
    #[cube(comptime)]
    double_quant: bool,
}

/// Writes the values of the 16 codes to shared memory, where a lookup costs no instruction cache and no
/// register. The caller synchronizes.
#[cube]
pub(crate) fn fill_table(table: &mut Shared<[f32]>, #[comptime] codebook: Codebook) {
    if UNIT_POS == 0 {
        #[unroll]
        for code in 0..16usize {
            table[code] = f32::new(comptime!(codebook.values()[code]));
        }
    }
}

/// Returns the scale of element `element`.
#[cube]
pub(crate) fn scale_of(scales: &Scales, element: u32) -> f32 {
    let block = element >> scales.block_shift;
    let double_quant = comptime!(scales.double_quant);
    if double_quant {
        let word = scales.absmax[(block >> 2) as usize];
        let code = (word >> ((block & 3) * 8)) & 0xff;
        let nested = f32::from_bits(scales.absmax[(scales.nested + (block >> 8)) as usize]);
        let value = f32::from_bits(scales.absmax[(scales.offset + 1 + code) as usize]);
        let offset = f32::from_bits(scales.absmax[scales.offset as usize]);
        rounded(value * nested, scales.zero) + offset
    } else {
        f32::from_bits(scales.absmax[block as usize])
    }
}

/// Returns the code of element `element` in the low four bits, those of the elements after it in its word above.
#[cube]
pub(crate) fn code_of(words: &Words, element: u32) -> u32 {
    words.packed[(element >> 3) as usize] >> ((element & 7) * 4)
}

/// Returns the values of the codes that begin at bit `shift` of every lane of `words`.
///
/// A tree of 15 selections between constants, which a vector unit makes for all lanes at once, where a lookup
/// would take a load a lane.
#[cube]
pub(crate) fn select_values<N: Size>(
    words: Vector<u32, N>,
    #[comptime] shift: usize,
    #[comptime] codebook: Codebook,
) -> Vector<f32, N> {
    let bit0 = has_bit::<N>(words, shift);
    let bit1 = has_bit::<N>(words, comptime!(shift + 1));
    let bit2 = has_bit::<N>(words, comptime!(shift + 2));
    let bit3 = has_bit::<N>(words, comptime!(shift + 3));
    let low = select_quarter::<N>(bit0, bit1, bit2, 0usize, codebook);
    let high = select_quarter::<N>(bit0, bit1, bit2, 8usize, codebook);
    select_many(bit3, high, low)
}

/// Returns the values of [`select_values`] by permutations of the table instead: for the compilers of CPUs, which make one
/// instruction of the lane-by-lane lookup in a vector.
#[cube]
pub(crate) fn permute_values<N: Size>(
    words: Vector<u32, N>,
    #[comptime] shift: usize,
    #[comptime] codebook: Codebook,
) -> Vector<f32, N> {
    let lanes = N::value();
    let index = (words >> Vector::new(comptime!(shift as u32).runtime()))
        & Vector::new(comptime!(lanes as u32 - 1).runtime());
    match comptime!(16 / lanes) {
        1 => permute_part::<N>(index, 0usize, codebook),
        2 => {
            let low = permute_part::<N>(index, 0usize, codebook);
            let high = permute_part::<N>(index, 8usize, codebook);
            select_many(has_bit::<N>(words, comptime!(shift + 3)), high, low)
        }
        _ => select_values::<N>(words, shift, codebook),
    }
}

/// Returns the values at `index` of those from `first` on, of which there are as many as lanes.
#[cube]
fn permute_part<N: Size>(
    index: Vector<u32, N>,
    #[comptime] first: usize,
    #[comptime] codebook: Codebook,
) -> Vector<f32, N> {
    let mut table = Vector::<f32, N>::zeroed();
    #[unroll]
    for l in 0..N::value() {
        table.insert(l, f32::new(comptime!(codebook.values()[first + l])));
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
    #[comptime] codebook: Codebook,
) -> Vector<f32, N> {
    let v0 = select_pair::<N>(bit0, first, codebook);
    let v1 = select_pair::<N>(bit0, comptime!(first + 2), codebook);
    let v2 = select_pair::<N>(bit0, comptime!(first + 4), codebook);
    let v3 = select_pair::<N>(bit0, comptime!(first + 6), codebook);
    select_many(bit2, select_many(bit1, v3, v2), select_many(bit1, v1, v0))
}

#[cube]
fn select_pair<N: Size>(
    bit0: Vector<bool, N>,
    #[comptime] first: usize,
    #[comptime] codebook: Codebook,
) -> Vector<f32, N> {
    select_many(
        bit0,
        Vector::new(f32::new(comptime!(codebook.values()[first + 1]))),
        Vector::new(f32::new(comptime!(codebook.values()[first]))),
    )
}
