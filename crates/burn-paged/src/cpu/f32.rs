//! The update with f32 moments.
//!
//! Bound by memory: 16 bytes are read and 12 written for each element.

use rayon::prelude::*;

use super::{CHUNK, vectorised};
use crate::Rule;

/// Updates a run of elements and its moments, which are as long.
pub(crate) fn update(param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], rule: Rule) {
    if param.len() <= CHUNK {
        return chunk(param, grad, m, v, rule);
    }
    param
        .par_chunks_mut(CHUNK)
        .zip(grad.par_chunks(CHUNK))
        .zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)))
        .for_each(|((param, grad), (m, v))| chunk(param, grad, m, v, rule));
}

vectorised! {
    fn chunk(param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], rule: Rule) {
        let len = param.len();
        let (grad, m, v) = (&grad[..len], &mut m[..len], &mut v[..len]);
        for i in 0..len {
            let g = grad[i];
            m[i] += rule.rate_1 * (g - m[i]);
            v[i] = v[i] * rule.beta_2 + rule.rate_2 * g * g;
            let root = v[i].sqrt() / rule.correction_2 + rule.epsilon;
            param[i] = param[i] * rule.decay - rule.step_size * m[i] / root;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Settings;

    #[test]
    fn the_bits_do_not_depend_on_the_cut() {
        let len = 3 * CHUNK + 77;
        let wave = |step: f32| -> Vec<f32> { (0..len).map(|i| (i as f32 * step).sin()).collect() };
        let settings = Settings {
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
        };
        let run = |cuts: &[usize]| {
            let (mut param, grad) = (wave(0.3), wave(0.7));
            let (mut m, mut v) = (vec![0.0; len], vec![0.0; len]);
            for step in 1..4 {
                let mut from = 0;
                for to in cuts.iter().copied().chain([len]) {
                    update(
                        &mut param[from..to],
                        &grad[from..to],
                        &mut m[from..to],
                        &mut v[from..to],
                        settings.at(step, 1e-2),
                    );
                    from = to;
                }
            }
            [param, m, v].map(|values| values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        let whole = run(&[]);
        assert_eq!(run(&[1, 16, 333, CHUNK + 5]), whole);
        assert_eq!(run(&[len - 3]), whole);
    }
}
