use nf4::Direction;
use rayon::prelude::*;

use super::Head;
use super::tile::{CLASSES, softmax_step, tokens};
use crate::cpu::{Cpu, Threads};
use crate::element::Element;
use crate::matmul::dense::Beta;
use crate::simd::Isa;

/// The results of one pass over the vocabulary, for every token.
pub(super) struct Pass {
    pub losses: Vec<f32>,
    pub lse: Vec<f32>,
    /// `[tokens, n]`, empty if it was not asked for.
    pub dhidden: Vec<f32>,
}

impl Pass {
    /// Returns the sum of the losses: one order of additions, in more digits than the terms have.
    pub fn loss(&self) -> f32 {
        let loss: f64 = self.losses.iter().map(|loss| f64::from(*loss)).sum();
        loss as f32
    }
}

/// Losses, log-sum-exps, and the gradient of `hidden` if `gradient`. Every tile of tokens goes through the whole vocabulary
/// on one thread; what a token gets does not depend on who shares its tile.
pub(super) fn pass<E: Element>(isa: Isa, head: &Head<'_, E>, gradient: bool) -> Pass {
    let all = head.classes.len();
    let step = tokens(all, rayon::current_num_threads());
    let n = if gradient { head.n } else { 0 };
    let mut losses = vec![0f32; all];
    let mut lse = vec![0f32; all];
    let mut dhidden = vec![0f32; all * n];

    // A row of no gradient is empty, and `chunks_mut` knows no empty chunks.
    let mut grads: Vec<&mut [f32]> = match n {
        0 => (0..all.div_ceil(step))
            .map(|_| <&mut [f32]>::default())
            .collect(),
        _ => dhidden.chunks_mut(step * n).collect(),
    };
    losses
        .par_chunks_mut(step)
        .zip(lse.par_chunks_mut(step))
        .zip(grads.par_iter_mut())
        .enumerate()
        .for_each_init(Vec::new, |logits, (i, ((losses, lse), grad))| {
            let tile = Tile {
                isa,
                head,
                first: i * step,
                tokens: losses.len(),
                n,
            };
            tile.run(logits, losses, lse, grad);
        });
    Pass {
        losses,
        lse,
        dhidden,
    }
}

/// Returns the bytes that [`pass`] over `all` tokens needs on `threads` threads beside its operands and result: two f32 a token, and
/// a tile of logits a thread.
pub(super) fn workspace_bytes(all: usize, vocab: usize, threads: usize) -> u128 {
    let f32s = size_of::<f32>() as u128;
    let tile = tokens(all, threads) as u128 * CLASSES.min(vocab) as u128;
    (2 * all as u128 + threads as u128 * tile) * f32s
}

/// A run of tokens.
struct Tile<'a, E> {
    isa: Isa,
    head: &'a Head<'a, E>,
    first: usize,
    tokens: usize,
    /// Width of a gradient row, 0 if none is wanted.
    n: usize,
}

impl<E: Element> Tile<'_, E> {
    fn run(&self, logits: &mut Vec<f32>, losses: &mut [f32], lse: &mut [f32], grad: &mut [f32]) {
        let Head {
            weight,
            classes,
            n,
            vocab,
            logits: transform,
            ..
        } = *self.head;
        let tokens = self.tokens;
        let classes = &classes[self.first..][..tokens];
        logits.resize(tokens * CLASSES.min(vocab), 0.0);
        let mut maxima = vec![f32::NEG_INFINITY; tokens];
        let mut sums = vec![0f32; tokens];

        // The derivative of the cap is of the gradient alone.
        let softcap = transform.softcap.filter(|_| self.n > 0);
        let one = Cpu::new(self.isa, Threads::Calling);
        for start in (0..vocab).step_by(CLASSES) {
            let width = CLASSES.min(vocab - start);
            let logits = &mut logits[..tokens * width];
            self.head.tile(self.isa, self.first, [start, width], logits);
            for (row, class) in classes.iter().enumerate() {
                if (start..start + width).contains(class) {
                    losses[row] = -logits[row * width + class - start];
                }
            }
            softmax_step(
                self.isa,
                logits,
                width,
                &mut maxima,
                &mut sums,
                grad,
                self.n,
                softcap,
            );
            if self.n > 0 {
                one.dense_matmul(
                    self.head.classes_of_weight(start, width),
                    &*logits,
                    tokens,
                    grad,
                    Direction::Transposed,
                    Beta::One,
                );
            }
        }

        if self.n > 0 {
            let rows = grad.chunks_exact_mut(n).zip(&sums).zip(classes);
            for (((row, sum), class), loss) in rows.zip(&*losses) {
                let factor = transform.scale / sum;
                // So far the loss is what the target's logit adds to it.
                let slope = transform.slope(-loss);
                for (value, w) in row.iter_mut().zip(&weight[class * n..][..n]) {
                    *value = *value * factor - w.to_f32() * slope;
                }
            }
        }
        for (((loss, lse), max), sum) in losses.iter_mut().zip(lse).zip(&maxima).zip(&sums) {
            *lse = max + sum.ln();
            *loss += *lse;
        }
    }
}
