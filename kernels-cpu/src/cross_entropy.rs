//! The head's cross-entropy over tiles of tokens and vocabulary, with a running softmax: a tile of
//! logits stays in the second-level cache, the weight is read from memory once for every few
//! hundred tokens, and the gradient of `hidden` is attention's output with the weight for keys and
//! values. Bound by the products: two for a frozen head, four for a tracked one.

mod hidden;
mod logits;
mod low_rank;
mod product;
mod targets;
mod tile;
mod weight;

use crate::cpu::{Cpu, Threads};
use crate::element::Element;
use crate::matmul::dense::{Beta, DenseRef};
use crate::simd::Isa;
use logits::Logits;
use nf4::Direction;
use targets::Targets;

pub use low_rank::{
    LowRank, low_rank_gradient_of_factor, low_rank_gradients, low_rank_kept_bytes, low_rank_losses,
    low_rank_losses_gradients, low_rank_workspace_bytes,
};
pub use targets::IGNORED;

/// The operands of the head's cross-entropy.
#[derive(Clone, Copy, Debug)]
pub struct Operands<'a, E> {
    /// `[tokens, n]`.
    pub hidden: &'a [E],
    /// `[vocab, n]`.
    pub weight: &'a [E],
    /// `[vocab, n]`, the shape of the weight.
    pub shape: [usize; 2],
    /// `[tokens]`, each a class below `vocab` or [`IGNORED`].
    pub targets: &'a [i64],
    /// The factor of the products `hidden · weightᵀ`, 1 in most models.
    pub scale: f32,
    /// Bound `c` of the logits, above 0: what `scale` makes of the products becomes `c · tanh(z / c)`.
    pub softcap: Option<f32>,
}

/// Returns the sum of the negative log-likelihoods of the targets under the logits, `hidden · weightᵀ` scaled and capped.
///
/// # Panics
/// If a target is neither a class nor ignored, or the lengths of the operands do not fit each other.
pub fn loss<E: Element>(isa: Isa, operands: &Operands<'_, E>) -> f32 {
    operands.with_head(|head, _| hidden::pass(isa, head, false).loss())
}

/// Returns [`loss`] and the gradient of `hidden`, `[tokens, n]`.
///
/// # Panics
/// As [`loss`].
pub fn loss_grad_hidden<E: Element>(isa: Isa, operands: &Operands<'_, E>) -> (f32, Vec<f32>) {
    operands.with_head(|head, targets| {
        let pass = hidden::pass(isa, head, true);
        (pass.loss(), targets.scatter(pass.dhidden, head.n))
    })
}

/// Returns the negative log-likelihood of every target, `[tokens]`, 0 where it is ignored: the terms of [`loss`].
///
/// # Panics
/// As [`loss`].
pub fn token_losses<E: Element>(isa: Isa, operands: &Operands<'_, E>) -> Vec<f32> {
    operands.with_head(|head, targets| targets.scatter(hidden::pass(isa, head, false).losses, 1))
}

/// Returns [`token_losses`] and, in each row of `[tokens, n]`, the gradient of the token's own loss.
///
/// # Panics
/// As [`loss`].
pub fn token_losses_grad_hidden<E: Element>(
    isa: Isa,
    operands: &Operands<'_, E>,
) -> (Vec<f32>, Vec<f32>) {
    operands.with_head(|head, targets| {
        let pass = hidden::pass(isa, head, true);
        (
            targets.scatter(pass.losses, 1),
            targets.scatter(pass.dhidden, head.n),
        )
    })
}

/// Returns [`loss`] and the gradients of `hidden`, `[tokens, n]`, and of `weight`, `[vocab, n]`.
///
/// # Panics
/// As [`loss`].
pub fn loss_grads<E: Element>(isa: Isa, operands: &Operands<'_, E>) -> (f32, Vec<f32>, Vec<f32>) {
    operands.with_head(|head, targets| {
        let pass = hidden::pass(isa, head, true);
        let [mut hidden, mut weight] = [Vec::new(), Vec::new()];
        let wide = Head {
            hidden: E::read(isa, head.hidden, &mut hidden),
            weight: E::read(isa, head.weight, &mut weight),
            low_rank: None,
            classes: head.classes,
            n: head.n,
            vocab: head.vocab,
            logits: head.logits,
        };
        let dweight = weight::gradient(isa, &wide, &pass.lse);
        (pass.loss(), targets.scatter(pass.dhidden, head.n), dweight)
    })
}

/// Returns the bytes that are kept for the backward pass: the gradients that the forward pass computes, of `hidden: [tokens, n]` in
/// its type, and of `weight: [vocab, n]` if that is `tracked`; never the logits.
pub fn saved_bytes(
    tokens: usize,
    [vocab, n]: [usize; 2],
    tracked: bool,
    element_bytes: usize,
) -> u128 {
    let rows = tokens as u128 + if tracked { vocab as u128 } else { 0 };
    rows * n as u128 * element_bytes as u128
}

/// Returns the bytes that the functions need on `threads` threads beside their operands and results, if they are asked for
/// gradients: the gradient of `hidden` in f32, of the tokens that count and again with zeros for the others; the tokens
/// that count; and a tile of logits a thread. For a `tracked` weight, of both operands a copy in f32 where they are of
/// less, and the weight's gradient in f32.
pub fn workspace_bytes<E: Element>(
    tokens: usize,
    [vocab, n]: [usize; 2],
    tracked: bool,
    threads: usize,
) -> u128 {
    let f32s = size_of::<f32>() as u128;
    let rows = |rows: usize| rows as u128 * n as u128;
    let hidden = rows(tokens) * (size_of::<E>() as u128 + 2 * f32s);
    let pass = hidden::workspace_bytes(tokens, vocab, threads);
    if !tracked {
        return hidden + pass;
    }
    let widened = if size_of::<E>() < size_of::<f32>() {
        rows(tokens) + rows(vocab)
    } else {
        0
    };
    let weight = (widened + rows(vocab)) * f32s + weight::workspace_bytes(tokens, threads);
    hidden + pass.max(weight)
}

impl<E: Element> Operands<'_, E> {
    /// Runs `f` on the tokens that count.
    fn with_head<R>(&self, f: impl FnOnce(&Head<'_, E>, &Targets) -> R) -> R {
        let [vocab, n] = self.shape;
        assert_eq!(
            [self.hidden.len(), self.weight.len()],
            [self.targets.len() * n, vocab * n],
            "cross_entropy: operands of {n} columns differ"
        );
        let targets = Targets::new(self.targets, vocab);
        let selected = targets.gather(self.hidden, n);
        let head = Head {
            hidden: selected.as_deref().unwrap_or(self.hidden),
            weight: self.weight,
            low_rank: None,
            classes: &targets.classes,
            n,
            vocab,
            logits: Logits {
                scale: self.scale,
                softcap: self.softcap,
            },
        };
        f(&head, &targets)
    }
}

/// The operands without the tokens whose targets are ignored.
struct Head<'a, E> {
    /// `[tokens, n]`.
    hidden: &'a [E],
    /// `[vocab, n]`.
    weight: &'a [E],
    /// What is added to the products of the weight.
    low_rank: Option<LowRank<'a>>,
    /// `[tokens]`.
    classes: &'a [usize],
    n: usize,
    vocab: usize,
    logits: Logits,
}

impl<E: Element> Head<'_, E> {
    /// Computes the logits of the tokens from `first` and the classes from `start`, `width` of them: `out: [tokens, width]`.
    fn tile(&self, isa: Isa, first: usize, [start, width]: [usize; 2], out: &mut [f32]) {
        let (n, tokens) = (self.n, out.len() / width);
        let one = Cpu::new(isa, Threads::Calling);
        one.dense_matmul(
            self.classes_of_weight(start, width),
            &self.hidden[first * n..][..tokens * n],
            tokens,
            out,
            Direction::Forward,
            Beta::Zero,
        );
        if let Some(low_rank) = &self.low_rank {
            low_rank.add_to(isa, first, [start, width], out);
        }
        self.logits.apply(isa, out);
    }

    /// Returns the rows of the weight that are of the classes from `start`, `width` of them.
    fn classes_of_weight(&self, start: usize, width: usize) -> DenseRef<'_, E> {
        DenseRef::new(
            &self.weight[start * self.n..][..width * self.n],
            [width, self.n],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(len: usize, step: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * step).sin()).collect()
    }

    /// The loss and the gradients of `hidden` and `weight`, by the definition.
    fn formula(operands: &Operands<'_, f32>) -> (f64, Vec<f64>, Vec<f64>) {
        let [_, n] = operands.shape;
        let (hidden, weight) = (operands.hidden, operands.weight);
        let (scale, softcap) = (f64::from(operands.scale), operands.softcap.map(f64::from));
        let (mut loss, mut dhidden) = (0.0, vec![0.0; hidden.len()]);
        let mut dweight = vec![0.0; weight.len()];
        let targets = operands.targets.iter().enumerate();
        for (i, target) in targets.filter(|(_, target)| **target != IGNORED) {
            let row = &hidden[i * n..][..n];
            let logits: Vec<f64> = weight
                .chunks(n)
                .map(|w| {
                    let products = row.iter().zip(w);
                    let product: f64 = products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    let scaled = scale * product;
                    softcap.map_or(scaled, |cap| cap * (scaled / cap).tanh())
                })
                .collect();
            let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
            loss += total.ln() - logits[*target as usize];
            for (class, logit) in logits.iter().enumerate() {
                let hit = if class == *target as usize { 1.0 } else { 0.0 };
                let inner = softcap.map_or(scale, |cap| scale * (1.0 - (logit / cap).powi(2)));
                let slope = (logit.exp() / total - hit) * inner;
                for j in 0..n {
                    dhidden[i * n + j] += slope * f64::from(weight[class * n + j]);
                    dweight[class * n + j] += slope * f64::from(row[j]);
                }
            }
        }
        (loss, dhidden, dweight)
    }

    /// More classes and tokens than a tile has, and every fifth token ignored.
    #[test]
    fn every_instruction_set_is_near_the_formula() {
        let (tokens, vocab, n) = (300, 700, 9);
        let (hidden, weight) = (wave(tokens * n, 0.3), wave(vocab * n, 0.7));
        let target = |i: usize| {
            if i.is_multiple_of(5) {
                IGNORED
            } else {
                (i * 37 % vocab) as i64
            }
        };
        let targets: Vec<i64> = (0..tokens).map(target).collect();
        // Products are up to 9: the cap bends most of them.
        for (scale, softcap) in [(1.0, None), (0.4, None), (1.0, Some(4.0)), (0.4, Some(2.0))] {
            let operands = Operands {
                hidden: &hidden,
                weight: &weight,
                shape: [vocab, n],
                targets: &targets,
                scale,
                softcap,
            };
            let (expected, dhidden, dweight) = formula(&operands);
            let near = |found: &[f32], expected: &[f64]| {
                let mut pairs = found.iter().zip(expected);
                pairs.all(|(found, expected)| (f64::from(*found) - expected).abs() < 1e-4)
            };
            for isa in Isa::available() {
                let case = format!("{isa:?}, scale {scale}, cap {softcap:?}");
                let found = loss_grads(*isa, &operands);
                assert!((f64::from(found.0) - expected).abs() < 1e-3, "{case}");
                assert!(near(&found.1, &dhidden), "{case}");
                assert!(near(&found.2, &dweight), "{case}");
                assert_eq!(
                    loss_grad_hidden(*isa, &operands),
                    (found.0, found.1.clone()),
                    "{case}"
                );
                assert_eq!(loss(*isa, &operands), found.0, "{case}");
                let (losses, rows) = token_losses_grad_hidden(*isa, &operands);
                assert_eq!(rows, found.1, "{case}");
                assert_eq!(token_losses(*isa, &operands), losses, "{case}");
                let sum: f64 = losses.iter().map(|loss| f64::from(*loss)).sum();
                assert_eq!(sum as f32, found.0, "{case}");
                assert!(losses.iter().step_by(5).all(|loss| *loss == 0.0), "{case}");
            }
        }
    }

    /// A cap takes products of any size, and a product that is none makes no number of the loss.
    #[test]
    fn capped_logits_are_finite_and_nan_stays() {
        let weight = [1.0f32, 2.0, -3.0];
        for isa in Isa::available() {
            let losses = [1e30, f32::NAN].map(|hidden| {
                let operands = Operands {
                    hidden: &[hidden],
                    weight: &weight,
                    shape: [3, 1],
                    targets: &[1],
                    scale: 1.0,
                    softcap: Some(30.0),
                };
                loss_grads(*isa, &operands)
            });
            // Two classes at the cap, and one at minus the cap.
            assert!((losses[0].0 - 2f32.ln()).abs() < 1e-6, "{isa:?}");
            assert!(losses[0].1[0].abs() < 1e-5, "{isa:?}");
            assert!(losses[1].0.is_nan(), "{isa:?}");
        }
    }
}
