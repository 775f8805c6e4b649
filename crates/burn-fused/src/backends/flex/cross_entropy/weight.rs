use rayon::prelude::*;

use super::{
    super::matmul::{Beta, Matrix, matmul},
    Head,
    tile::{CLASSES, TOKENS, probabilities},
};

/// The gradient of the weight, `[vocab, n]`: `(softmax − one-hot)ᵀ · hidden`. Every tile of classes
/// goes through the tokens in order on one thread, with logits computed again.
pub(super) fn gradient(head: &Head<f32>, lse: &[f32]) -> Vec<f32> {
    let Head {
        hidden,
        weight,
        classes,
        n,
        vocab,
    } = *head;
    let all = classes.len();
    let step = all.clamp(1, TOKENS);
    let mut dweight = vec![0f32; vocab * n];
    if n == 0 {
        return dweight;
    }
    dweight
        .par_chunks_mut(CLASSES * n)
        .zip(weight.par_chunks(CLASSES * n))
        .enumerate()
        .for_each_init(Vec::new, |logits, (i, (dweight, weight))| {
            let (start, width) = (i * CLASSES, weight.len() / n);
            let weight = Matrix::new(weight, width, n, n);
            logits.resize(step * CLASSES, 0.0);
            for first in (0..all).step_by(step) {
                let tokens = step.min(all - first);
                let hidden = Matrix::new(&hidden[first * n..], tokens, n, n);
                let p = &mut logits[..tokens * width];
                matmul(p, hidden, weight.t(), Beta::Zero);
                probabilities(p, width, &lse[first..]);
                for (row, class) in classes[first..first + tokens].iter().enumerate() {
                    if (start..start + width).contains(class) {
                        p[row * width + class - start] -= 1.0;
                    }
                }
                let p = Matrix::new(p, tokens, width, width);
                matmul(dweight, p.t(), hidden, Beta::One);
            }
        });
    dweight
}
