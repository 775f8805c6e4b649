//! The update with moments in blocks of 8-bit codes (bitsandbytes `kOptimizerStatic8bit2StateBlockwise`).
//!
//! The first moment is coded with the signed dynamic map and the second with the unsigned one, each
//! relative to the largest of its block. The update itself uses the moments before they are coded again.

use std::sync::OnceLock;

use nf4::adamw::{AdamWStep, BLOCK, BLOCK_BYTES, CODES_2, SCALE_1, SCALE_2};
use rayon::prelude::*;

use super::CHUNK;
use crate::simd::{isa, kernel};

/// Updates `param` by `grad`, of the same length, and their moments in blocks as [`BLOCK_BYTES`] lays them. Only the
/// last block may be short.
///
/// # Panics
/// If `grad` is not as long as `param`, or `blocks` does not hold whole blocks for all of it.
pub fn update_dynamic8(param: &mut [f32], grad: &[f32], blocks: &mut [u8], step: AdamWStep) {
    assert_eq!(
        grad.len(),
        param.len(),
        "the gradient is as long as the parameter"
    );
    assert_eq!(
        blocks.len(),
        param.len().div_ceil(BLOCK) * BLOCK_BYTES,
        "every block of 256 elements has its moments"
    );
    let per_chunk = CHUNK / BLOCK;
    let isa = isa();
    if param.len() <= CHUNK {
        return chunk(isa, param, grad, blocks, step);
    }
    param
        .par_chunks_mut(CHUNK)
        .zip(grad.par_chunks(CHUNK))
        .zip(blocks.par_chunks_mut(per_chunk * BLOCK_BYTES))
        .for_each(|((param, grad), blocks)| chunk(isa, param, grad, blocks, step));
}

kernel! {
    fn chunk<S: Simd>(param: &mut [f32], grad: &[f32], blocks: &mut [u8], step: AdamWStep) {
        let [signed, unsigned] = maps();
        let blocks = blocks.chunks_exact_mut(BLOCK_BYTES);
        for ((param, grad), block) in param.chunks_mut(BLOCK).zip(grad.chunks(BLOCK)).zip(blocks) {
            let len = param.len();
            let grad = &grad[..len];
            let scale = |at: usize| {
                f32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
            };
            let scales = [scale(SCALE_1), scale(SCALE_2)];
            let (mut m, mut v) = ([0f32; BLOCK], [0f32; BLOCK]);
            // A block that was never written is zeros, and a scale of 0 makes every code 0.
            for i in 0..len {
                m[i] = signed.values[block[i] as usize] * scales[0];
                v[i] = unsigned.values[block[CODES_2 + i] as usize] * scales[1];
            }
            for i in 0..len {
                let g = grad[i];
                m[i] += step.rate_1 * (g - m[i]);
                v[i] = v[i] * step.beta_2 + step.rate_2 * g * g;
                let root = v[i].sqrt() / step.correction_2 + step.epsilon;
                param[i] = param[i] * step.decay - step.step_size * m[i] / root;
            }
            let largest = |values: &[f32; BLOCK]| {
                values.iter().fold(0f32, |largest, value| largest.max(value.abs()))
            };
            let scales = [largest(&m), largest(&v)];
            for i in 0..len {
                block[i] = signed.code(m[i], scales[0]);
                block[CODES_2 + i] = unsigned.code(v[i], scales[1]);
            }
            block[SCALE_1..SCALE_2].copy_from_slice(&scales[0].to_le_bytes());
            block[SCALE_2..].copy_from_slice(&scales[1].to_le_bytes());
        }
    }
}

/// A dynamic map, and what finds the nearest entry.
struct Map {
    values: [f32; 256],
    /// Midpoint above each entry; infinity above the last.
    midpoints: [f32; 256],
    /// A code at or below the one sought, by the upper half of a value's bits.
    first: Vec<u8>,
}

impl Map {
    fn new(values: [f32; 256]) -> Self {
        let midpoints: [f32; 256] = std::array::from_fn(|i| match values.get(i + 1) {
            Some(next) => 0.5 * (values[i] + next),
            None => f32::INFINITY,
        });
        // Of all values with the same upper half the lowest decides where the search begins: the one with the
        // lower half all zeros, or all ones if it is negative.
        let first = (0..=u16::MAX)
            .map(|upper| {
                let lower = if upper >> 15 == 1 { 0xffff } else { 0 };
                let lowest = f32::from_bits(u32::from(upper) << 16 | lower);
                let below = midpoints[..255].iter().filter(|mid| lowest > **mid);
                below.count() as u8
            })
            .collect();
        Self {
            values,
            midpoints,
            first,
        }
    }

    /// Returns the code of the entry nearest to `value / scale`, the lower of two equally near; that of 0 when the
    /// scale is
    /// 0. As in bitsandbytes, a code does not turn the sign around.
    #[inline(always)]
    fn code(&self, value: f32, scale: f32) -> u8 {
        let relative = if scale > 0.0 { value / scale } else { 0.0 };
        let mut code = self.first[(relative.to_bits() >> 16) as usize];
        while relative > self.midpoints[code as usize] {
            code += 1;
        }
        let entry = self.values[code as usize];
        if entry < 0.0 && relative > 0.0 {
            return code + 1;
        }
        if entry > 0.0 && relative < 0.0 {
            return code - 1;
        }
        code
    }
}

/// Returns the signed map of the first moment and the unsigned one of the second.
fn maps() -> &'static [Map; 2] {
    static MAPS: OnceLock<[Map; 2]> = OnceLock::new();
    MAPS.get_or_init(|| {
        [
            Map::new(*nf4::dynamic_map()),
            Map::new(*nf4::dynamic_map_unsigned()),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;
    use nf4::adamw::{self, AdamW};

    fn nearest(map: &Map, value: f32) -> u8 {
        let distance = |code: usize| (map.values[code] - value).abs();
        (0..256)
            .min_by(|one, other| distance(*one).total_cmp(&distance(*other)))
            .expect("there are 256") as u8
    }

    #[test]
    fn codes_are_those_of_the_nearest_entries() {
        for (map, from) in maps().iter().zip([-1.0f32, 0.0]) {
            for i in 0..20_000 {
                let share = i as f32 / 19_999.0;
                // Evenly and over the decades.
                for value in [from + (1.0 - from) * share, share.powi(9)] {
                    let (code, best) = (map.code(value, 1.0), nearest(map, value));
                    let off = |code: u8| (map.values[code as usize] - value).abs();
                    let sign = map.values[code as usize] * value >= 0.0;
                    assert!(sign && (off(code) <= off(best) || code.abs_diff(best) == 1));
                    assert!(off(code) <= off(best) * (1.0 + 1e-6) || value.abs() < 1e-6);
                }
            }
            for code in 0..=255u8 {
                assert_eq!(map.code(map.values[code as usize], 1.0), code);
            }
            assert_eq!(map.values[map.code(0.0, 0.0) as usize], 0.0);
        }
    }

    const ADAMW: AdamW = AdamW {
        beta_1: 0.9,
        beta_2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
    };

    /// Returns the parameter and moments after five updates of `len` elements, each done by `update` in runs that end
    /// at `cuts`.
    fn run(
        len: usize,
        cuts: &[usize],
        update: impl Fn(&mut [f32], &[f32], &mut [u8], AdamWStep),
    ) -> (Vec<f32>, Vec<u8>) {
        let mut param = vec![0f32; len];
        let bytes = |at: usize| at.div_ceil(BLOCK) * BLOCK_BYTES;
        let mut blocks = vec![0u8; bytes(len)];
        for t in 1..6 {
            let grad: Vec<f32> = (0..len)
                .map(|i| ((i * 31 + t * 7) as f32 * 0.11).sin() + 0.3)
                .collect();
            let mut from = 0;
            for to in cuts.iter().copied().chain([len]) {
                update(
                    &mut param[from..to],
                    &grad[from..to],
                    &mut blocks[bytes(from)..bytes(to)],
                    ADAMW.at(t, 1e-2),
                );
                from = to;
            }
        }
        (param, blocks)
    }

    #[test]
    fn the_bits_are_those_of_the_reference() {
        for len in [0, 1, BLOCK, 3 * BLOCK + 13] {
            let found = run(len, &[], update_dynamic8);
            assert!(
                found == run(len, &[], adamw::update_dynamic8),
                "{len} elements"
            );
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let len = 3 * BLOCK + 13;
        let expected = run(len, &[], adamw::update_dynamic8);
        for isa in Isa::available() {
            let found = run(len, &[], |param, grad, blocks, step| {
                chunk(*isa, param, grad, blocks, step);
            });
            assert!(found == expected, "{isa:?}");
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_cut() {
        let len = 2 * CHUNK + BLOCK + 13;
        let whole = run(len, &[], update_dynamic8);
        assert!(run(len, &[BLOCK, 5 * BLOCK, CHUNK + BLOCK], update_dynamic8) == whole);
    }
}
