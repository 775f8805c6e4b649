use rayon::prelude::*;

use super::Head;
use super::product::{Matrix, matmul};
use super::tile::{CLASSES, TOKENS, slopes};
use crate::matmul::dense::Beta;
use crate::simd::Isa;

/// Returns the gradient of the weight, `[vocab, n]`: `(softmax − one-hot)ᵀ · hidden`, with the derivatives of the logits by
/// the products. Every tile of classes goes through the tokens in order on one thread, with logits computed again.
pub(super) fn gradient(isa: Isa, head: &Head<'_, f32>, lse: &[f32]) -> Vec<f32> {
    let Head {
        hidden,
        weight,
        classes,
        n,
        vocab,
        logits,
        ..
    } = *head;
    let all = classes.len();
    let step = tokens(all);
    let mut dweight = vec![0f32; vocab * n];
    if n == 0 {
        return dweight;
    }
    dweight
        .par_chunks_mut(CLASSES * n)
        .zip(weight.par_chunks(CLASSES * n))
        .enumerate()
        .for_each_init(Vec::new, |tile, (i, (dweight, weight))| {
            let (start, width) = (i * CLASSES, weight.len() / n);
            let weight = Matrix::new(weight, width, n, n);
            tile.resize(step * CLASSES, 0.0);
            for first in (0..all).step_by(step) {
                let tokens = step.min(all - first);
                let hidden = Matrix::new(&hidden[first * n..], tokens, n, n);
                let tile = &mut tile[..tokens * width];
                matmul(tile, hidden, weight.t(), Beta::Zero);
                logits.apply(isa, tile);
                let classes = &classes[first..first + tokens];
                slopes(isa, tile, width, &lse[first..], classes, start, logits);
                let slopes = Matrix::new(tile, tokens, width, width);
                matmul(dweight, slopes.t(), hidden, Beta::One);
            }
        });
    dweight
}

/// Returns the number of tokens whose logits are computed at a time.
fn tokens(all: usize) -> usize {
    all.clamp(1, TOKENS)
}

/// Returns the bytes that [`gradient`] needs on `threads` threads beside its operands and result.
pub(super) fn workspace_bytes(all: usize, threads: usize) -> u128 {
    threads as u128 * (tokens(all) * CLASSES * size_of::<f32>()) as u128
}
