//! Reading the words of a weight inside a kernel.

use cubecl::prelude::*;

use crate::format::CodeTable;
use crate::rounding::rounded;

/// The words of a weight as a kernel argument.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Words {
    packed: Box<[u32]>,
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
pub(crate) fn fill_table(table: &mut Shared<[f32]>, #[comptime] codes: CodeTable) {
    if UNIT_POS == 0 {
        #[unroll]
        for code in 0..16usize {
            table[code] = f32::new(comptime!(f32::from_bits(codes.values[code])));
        }
    }
}

/// The scale of block `block`.
#[cube]
pub(crate) fn block_scale(words: &Words, block: u32) -> f32 {
    let double_quant = comptime!(words.double_quant);
    if double_quant {
        let word = words.absmax[(block >> 2) as usize];
        let code = (word >> ((block & 3) * 8)) & 0xff;
        let nested = f32::from_bits(words.absmax[(words.nested + (block >> 8)) as usize]);
        let value = f32::from_bits(words.absmax[(words.offset + 1 + code) as usize]);
        let offset = f32::from_bits(words.absmax[words.offset as usize]);
        rounded(value * nested, words.zero) + offset
    } else {
        f32::from_bits(words.absmax[block as usize])
    }
}

/// Decodes eight consecutive elements of a row, `first` being the flattened index of the first and
/// `count` how many of them exist; the rest are 0.
///
/// `aligned` promises that `first` is a multiple of 8, and then one word and one scale serve all
/// eight. Otherwise each element finds its own word and scale.
#[cube]
pub(crate) fn decode_run(
    words: &Words,
    table: &Shared<[f32]>,
    first: u32,
    count: u32,
    out: &mut Array<f32>,
    #[comptime] aligned: bool,
) {
    if aligned {
        let mut word = 0u32;
        let mut scale = f32::new(0.0);
        if count > 0 {
            word = words.packed[(first >> 3) as usize];
            scale = block_scale(words, first >> words.block_shift);
        }
        #[unroll]
        for i in 0..8usize {
            let code = (word >> comptime!(4 * i as u32)) & 15;
            out[i] = table[code as usize] * scale;
        }
    } else {
        #[unroll]
        for i in 0..8usize {
            let mut value = f32::new(0.0);
            if count > comptime!(i as u32) {
                let element = first + comptime!(i as u32);
                let word = words.packed[(element >> 3) as usize];
                let code = (word >> ((element & 7) * 4)) & 15;
                value = table[code as usize] * block_scale(words, element >> words.block_shift);
            }
            out[i] = value;
        }
    }
}
