//! The update with f32 moments.
//!
//! Bound by memory: 16 bytes are read and 12 written for each element.

use nf4::adamw::AdamWStep;
use rayon::prelude::*;

use super::CHUNK;
use crate::simd::{isa, kernel};

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
    let isa = isa();
    if param.len() <= CHUNK {
        return chunk(isa, param, grad, m, v, step);
    }
    param
        .par_chunks_mut(CHUNK)
        .zip(grad.par_chunks(CHUNK))
        .zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)))
        .for_each(|((param, grad), (m, v))| chunk(isa, param, grad, m, v, step));
}

kernel! {
    fn chunk<S: Simd>(param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], step: AdamWStep) {
        let len = param.len();
        let (grad, m, v) = (&grad[..len], &mut m[..len], &mut v[..len]);
        for i in 0..len {
            let g = grad[i];
            m[i] += step.rate_1 * (g - m[i]);
            v[i] = v[i] * step.beta_2 + step.rate_2 * g * g;
            let root = v[i].sqrt() / step.correction_2 + step.epsilon;
            param[i] = param[i] * step.decay - step.step_size * m[i] / root;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;
    use nf4::adamw::{self, AdamW};

    const ADAMW: AdamW = AdamW {
        beta_1: 0.9,
        beta_2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
    };

    type Update = fn(&mut [f32], &[f32], &mut [f32], &mut [f32], AdamWStep);

    /// Returns the bits of parameter and moments after three updates of `len` elements, each done by `update` in runs
    /// that end at `cuts`.
    fn run(len: usize, cuts: &[usize], update: Update) -> [Vec<u32>; 3] {
        let wave = |step: f32| -> Vec<f32> { (0..len).map(|i| (i as f32 * step).sin()).collect() };
        let (mut param, grad) = (wave(0.3), wave(0.7));
        let (mut m, mut v) = (vec![0.0; len], vec![0.0; len]);
        for t in 1..4 {
            let mut from = 0;
            for to in cuts.iter().copied().chain([len]) {
                update(
                    &mut param[from..to],
                    &grad[from..to],
                    &mut m[from..to],
                    &mut v[from..to],
                    ADAMW.at(t, 1e-2),
                );
                from = to;
            }
        }
        [param, m, v].map(|values| values.into_iter().map(f32::to_bits).collect())
    }

    #[test]
    fn the_bits_are_those_of_the_reference() {
        for len in [0, 1, 15, 16, 77, CHUNK + 5] {
            let found = run(len, &[], update_f32);
            assert!(found == run(len, &[], adamw::update_f32), "{len} elements");
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let run = |isa| {
            let wave = |step: f32| {
                (0..777)
                    .map(|i| (i as f32 * step).sin())
                    .collect::<Vec<_>>()
            };
            let (mut param, mut m, mut v) = (wave(0.3), wave(0.2), vec![0.1; 777]);
            chunk(
                isa,
                &mut param,
                &wave(0.7),
                &mut m,
                &mut v,
                ADAMW.at(3, 1e-2),
            );
            [param, m, v].map(|values| values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        for isa in Isa::available() {
            assert!(run(*isa) == run(Isa::portable()), "{isa:?}");
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_cut() {
        let len = 3 * CHUNK + 77;
        let whole = run(len, &[], update_f32);
        assert!(run(len, &[1, 16, 333, CHUNK + 5], update_f32) == whole);
        assert!(run(len, &[len - 3], update_f32) == whole);
    }
}
