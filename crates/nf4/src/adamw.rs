//! AdamW: the constants of one update, the layout of 8-bit moments, and the update as plain loops.
//!
//! [`update_f32`] and [`update_dynamic8`] are the definition that the kernels are held to, and slow.

use crate::dynamic_map::{dynamic_map, dynamic_map_unsigned, midpoints};
use crate::layout::NESTED_MAP;

/// Elements of a block of 8-bit moments, which share two scales (bitsandbytes' `blocksize` of 256).
pub const BLOCK: usize = 256;

/// Bytes of a block of 8-bit moments, which lie in this order:
///
/// ```text
/// 0    codes of the first moments, u8[256], of the signed dynamic map
/// 256  codes of the second moments, u8[256], of the unsigned dynamic map
/// 512  scale of the first moments, f32 little-endian: their largest magnitude
/// 516  scale of the second moments, f32 little-endian
/// ```
///
/// The codes of a short block's missing elements mean nothing. A block of zero bytes holds moments of 0.
pub const BLOCK_BYTES: usize = 2 * BLOCK + 8;

/// Offset of the second moments' codes in a block, in bytes.
pub const CODES_2: usize = BLOCK;

/// Offset of the first moments' scale in a block, in bytes.
pub const SCALE_1: usize = 2 * BLOCK;

/// Offset of the second moments' scale in a block, in bytes.
pub const SCALE_2: usize = 2 * BLOCK + 4;

/// The hyperparameters of AdamW (`torch.optim.AdamW`), in f64 as torch has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment, β₁.
    pub beta_1: f64,
    /// Decay of the second moment, β₂.
    pub beta_2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, λ.
    pub weight_decay: f64,
}

impl AdamW {
    /// Returns the constants of update `t`, counted from 1, at the learning rate `lr`.
    pub fn at(&self, t: usize, lr: f64) -> AdamWStep {
        let t = t as f64;
        AdamWStep {
            rate_1: (1.0 - self.beta_1) as f32,
            beta_2: self.beta_2 as f32,
            rate_2: (1.0 - self.beta_2) as f32,
            correction_2: (1.0 - self.beta_2.powf(t)).sqrt() as f32,
            epsilon: self.epsilon as f32,
            decay: (1.0 - lr * self.weight_decay) as f32,
            step_size: (lr / (1.0 - self.beta_1.powf(t))) as f32,
        }
    }
}

/// The constants of one update of a parameter `p` by its gradient `g` (`torch.optim.AdamW`, single tensor), worked out in f64
/// and rounded once:
///
/// ```text
/// m ← m + rate_1 · (g − m)
/// v ← v · beta_2 + rate_2 · g · g
/// p ← p · decay − step_size · m / (√v / correction_2 + epsilon)
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// `1 − β₁`.
    pub rate_1: f32,
    /// `β₂`.
    pub beta_2: f32,
    /// `1 − β₂`.
    pub rate_2: f32,
    /// `√(1 − β₂ᵗ)`.
    pub correction_2: f32,
    /// Added to the root.
    pub epsilon: f32,
    /// `1 − lr · λ`.
    pub decay: f32,
    /// `lr / (1 − β₁ᵗ)`.
    pub step_size: f32,
}

/// Updates `param` and its moments `m` and `v` by `grad`, all of one length, as [`AdamWStep`] says.
///
/// # Panics
/// If the lengths differ.
pub fn update_f32(param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], step: AdamWStep) {
    for slice in [grad.len(), m.len(), v.len()] {
        assert_eq!(
            slice,
            param.len(),
            "gradient and moments are as long as the parameter"
        );
    }
    for i in 0..param.len() {
        (param[i], m[i], v[i]) = updated(param[i], grad[i], m[i], v[i], step);
    }
}

/// Updates `param` by `grad`, of the same length, with moments in blocks of 8-bit codes as [`BLOCK_BYTES`] lays them
/// (bitsandbytes `kOptimizerStatic8bit2StateBlockwise`).
///
/// The moments are decoded as `map[code] · scale`, updated as [`AdamWStep`] says, used for the parameter, and only
/// then coded again, relative to the largest magnitude of their block. The code is that of the nearest entry of the map, the
/// lower of two equally near, but never one of the other sign.
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
    let maps = [dynamic_map(), dynamic_map_unsigned()];
    let parts = param.chunks_mut(BLOCK).zip(grad.chunks(BLOCK));
    for ((param, grad), block) in parts.zip(blocks.chunks_exact_mut(BLOCK_BYTES)) {
        let scales = [scale(block, SCALE_1), scale(block, SCALE_2)];
        let mut moments = [[0f32; BLOCK]; 2];
        for (i, (param, grad)) in param.iter_mut().zip(grad).enumerate() {
            let m = maps[0][block[i] as usize] * scales[0];
            let v = maps[1][block[CODES_2 + i] as usize] * scales[1];
            (*param, moments[0][i], moments[1][i]) = updated(*param, *grad, m, v, step);
        }
        for (moments, (map, [codes, scale])) in moments
            .iter()
            .zip(maps.into_iter().zip([[0, SCALE_1], [CODES_2, SCALE_2]]))
        {
            let largest = moments.iter().fold(0f32, |largest, m| largest.max(m.abs()));
            for (i, moment) in moments[..param.len()].iter().enumerate() {
                block[codes + i] = code(map, *moment, largest);
            }
            block[scale..scale + 4].copy_from_slice(&largest.to_le_bytes());
        }
    }
}

/// Returns the parameter and its two moments after the update.
fn updated(p: f32, g: f32, m: f32, v: f32, step: AdamWStep) -> (f32, f32, f32) {
    let m = m + step.rate_1 * (g - m);
    let v = v * step.beta_2 + step.rate_2 * g * g;
    let root = v.sqrt() / step.correction_2 + step.epsilon;
    (p * step.decay - step.step_size * m / root, m, v)
}

fn scale(block: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// Returns the code of `value / scale`; that of 0 when the scale is 0.
fn code(map: &[f32; NESTED_MAP], value: f32, scale: f32) -> u8 {
    let relative = if scale > 0.0 { value / scale } else { 0.0 };
    let below = midpoints(map).iter().filter(|mid| **mid < relative).count();
    let code = below as u8;
    let entry = map[below];
    if entry < 0.0 && relative > 0.0 {
        code + 1
    } else if entry > 0.0 && relative < 0.0 {
        code - 1
    } else {
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADAMW: AdamW = AdamW {
        beta_1: 0.9,
        beta_2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
    };

    #[test]
    fn the_first_update_moves_every_parameter_by_the_learning_rate() {
        let (mut param, mut m, mut v) = ([1f32; 3], [0f32; 3], [0f32; 3]);
        update_f32(
            &mut param,
            &[0.5, -2.0, 1e-3],
            &mut m,
            &mut v,
            ADAMW.at(1, 1e-2),
        );
        // p · (1 − lr · λ) − lr · sign(g)
        for (param, expected) in param.iter().zip([0.989, 1.009, 0.989]) {
            assert!((param - expected).abs() < 1e-6, "{param} is not {expected}");
        }
    }

    #[test]
    fn coded_moments_follow_those_in_f32() {
        let len = BLOCK + 44;
        let grad: Vec<f32> = (0..len).map(|i| (i as f32 * 0.11).sin() + 0.3).collect();
        let (mut coded, mut blocks) = (vec![0f32; len], vec![0u8; 2 * BLOCK_BYTES]);
        let (mut exact, mut m, mut v) = (vec![0f32; len], vec![0f32; len], vec![0f32; len]);
        for t in 1..6 {
            update_dynamic8(&mut coded, &grad, &mut blocks, ADAMW.at(t, 1e-2));
            update_f32(&mut exact, &grad, &mut m, &mut v, ADAMW.at(t, 1e-2));
        }
        let pairs = || coded.iter().zip(&exact);
        let error: f32 = pairs().map(|(coded, exact)| (coded - exact).abs()).sum();
        let size: f32 = exact.iter().map(|value| value.abs()).sum();
        assert!(error > 0.0 && error < 0.05 * size, "{error} of {size}");
    }
}
