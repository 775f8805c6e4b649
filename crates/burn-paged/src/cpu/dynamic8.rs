//! The update with moments in blocks of 8-bit codes (bitsandbytes `kOptimizerStatic8bit2StateBlockwise`).
//!
//! The first moment is coded with the signed dynamic map and the second with the unsigned one, each
//! relative to the largest of its block. The update itself uses the moments before they are coded again.

use rayon::prelude::*;
use std::sync::OnceLock;

use super::{CHUNK, vectorised};
use crate::Rule;
use crate::table::{BLOCK, Precision};

const BLOCK_BYTES: usize = Precision::Dynamic8.granule_bytes();

/// Where the parts of a block lie.
const CODES_2: usize = BLOCK;
const SCALE_1: usize = 2 * BLOCK;
const SCALE_2: usize = 2 * BLOCK + 4;

/// Updates a run of elements and the blocks of its moments. Only the last block may be short.
pub(crate) fn update(param: &mut [f32], grad: &[f32], blocks: &mut [u8], rule: Rule) {
    let per_chunk = CHUNK / BLOCK;
    if param.len() <= CHUNK {
        return chunk(param, grad, blocks, rule);
    }
    param
        .par_chunks_mut(CHUNK)
        .zip(grad.par_chunks(CHUNK))
        .zip(blocks.par_chunks_mut(per_chunk * BLOCK_BYTES))
        .for_each(|((param, grad), blocks)| chunk(param, grad, blocks, rule));
}

vectorised! {
    fn chunk(param: &mut [f32], grad: &[f32], blocks: &mut [u8], rule: Rule) {
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
                m[i] += rule.rate_1 * (g - m[i]);
                v[i] = v[i] * rule.beta_2 + rule.rate_2 * g * g;
                let root = v[i].sqrt() / rule.correction_2 + rule.epsilon;
                param[i] = param[i] * rule.decay - rule.step_size * m[i] / root;
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
pub(crate) struct Map {
    pub values: [f32; 256],
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

    /// The code of the entry nearest to `value / scale`, the lower of two equally near; that of 0 when the scale is
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

/// The signed map of the first moment and the unsigned one of the second.
pub(crate) fn maps() -> &'static [Map; 2] {
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
    use crate::rule::Settings;

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

    #[test]
    fn the_bits_do_not_depend_on_the_cut_and_stay_near_f32() {
        let len = 2 * CHUNK + BLOCK + 13;
        let settings = Settings {
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
        };
        let grad = |step: usize| -> Vec<f32> {
            (0..len)
                .map(|i| ((i * 31 + step * 7) as f32 * 0.11).sin() + 0.3)
                .collect()
        };
        let run = |cuts: &[usize]| {
            let mut param = vec![0f32; len];
            let mut blocks = vec![0u8; Precision::Dynamic8.bytes(len)];
            for step in 1..6 {
                let (grad, rule) = (grad(step), settings.at(step, 1e-2));
                let mut from = 0;
                for to in cuts.iter().copied().chain([len]) {
                    let bytes = |at: usize| at.div_ceil(BLOCK) * BLOCK_BYTES;
                    update(
                        &mut param[from..to],
                        &grad[from..to],
                        &mut blocks[bytes(from)..bytes(to)],
                        rule,
                    );
                    from = to;
                }
            }
            (param, blocks)
        };
        let whole = run(&[]);
        assert!(run(&[BLOCK, 5 * BLOCK, CHUNK + BLOCK]) == whole);

        let (mut param, mut m, mut v) = (vec![0f32; len], vec![0f32; len], vec![0f32; len]);
        for step in 1..6 {
            let rule = settings.at(step, 1e-2);
            super::super::f32::update(&mut param, &grad(step), &mut m, &mut v, rule);
        }
        let pairs = || whole.0.iter().zip(&param);
        let error: f32 = pairs().map(|(got, want)| (got - want).abs()).sum();
        let size: f32 = param.iter().map(|value| value.abs()).sum();
        assert!(error > 0.0 && error < 0.05 * size, "{error} of {size}");
    }
}
