//! The head's cross-entropy with a low-rank product beside that of the weight, as an adapter on the head has it.
//!
//! The gradient of the factor is a sum over tokens, and a token's softmax is known once its logits have been through: so the
//! logits of as many tokens as [`KEPT`] holds are kept until then, a tile of tokens a thread, in place of a third product with
//! the weight. Bound by two products, as for a frozen head alone; what the low-rank factors add to each is the rank over `n`.

use nf4::Direction;
use rayon::prelude::*;

use super::hidden::{self, Pass};
use super::product::{Matrix, matmul};
use super::targets::Targets;
use super::tile::{CLASSES, TOKENS, slopes, sum_step};
use super::{Head, Operands};
use crate::cpu::{Cpu, Threads};
use crate::element::Element;
use crate::matmul::dense::{Beta, DenseRef};
use crate::simd::Isa;

/// Logits that a thread keeps, at least those of [`GROUP`] tokens: 32 MiB.
const KEPT: usize = 1 << 23;

/// Tokens that the gradient of the factor is summed over at a time: its bits do not depend on how many share a tile.
const GROUP: usize = 32;

/// The factors of a product that is added to `hidden · weightᵀ`.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    /// `[tokens, rank]`.
    pub rows: &'a [f32],
    /// `[rank, vocab]`.
    pub factor: &'a [f32],
    /// Width of the rows.
    pub rank: usize,
}

/// Returns the negative log-likelihood of every target, `[tokens]`, 0 where it is ignored, as [`token_losses`](super::token_losses)
/// does, under the logits of `hidden · weightᵀ + rows · factor`.
///
/// # Panics
/// As [`loss`](super::loss), or if the factors do not fit.
pub fn low_rank_losses<E: Element>(
    isa: Isa,
    operands: &Operands<'_, E>,
    low_rank: LowRank<'_>,
) -> Vec<f32> {
    with_head(operands, low_rank, |head, targets| {
        targets.scatter(hidden::pass(isa, head, false).losses, 1)
    })
}

/// Returns [`low_rank_losses`] and the gradients that each token's own loss gives its row of `hidden`, `[tokens, n]`, and of
/// `rows`, `[tokens, rank]`.
///
/// # Panics
/// As [`low_rank_losses`].
pub fn low_rank_losses_gradients<E: Element>(
    isa: Isa,
    operands: &Operands<'_, E>,
    low_rank: LowRank<'_>,
) -> [Vec<f32>; 3] {
    with_head(operands, low_rank, |head, targets| {
        let found = gradients(isa, head, &low_rank, true, None);
        [
            targets.scatter(found.pass.losses, 1),
            targets.scatter(found.pass.dhidden, head.n),
            targets.scatter(found.drows, low_rank.rank),
        ]
    })
}

/// Returns [`low_rank_losses_gradients`] and the gradient of `factor`, `[rank, vocab]`, from the sum of all losses.
///
/// # Panics
/// As [`low_rank_losses`].
pub fn low_rank_gradients<E: Element>(
    isa: Isa,
    operands: &Operands<'_, E>,
    low_rank: LowRank<'_>,
) -> [Vec<f32>; 4] {
    with_head(operands, low_rank, |head, targets| {
        let rows = head.low_rank.map(|low_rank| low_rank.rows);
        let found = gradients(isa, head, &low_rank, true, rows);
        [
            targets.scatter(found.pass.losses, 1),
            targets.scatter(found.pass.dhidden, head.n),
            targets.scatter(found.drows, low_rank.rank),
            found.dfactor,
        ]
    })
}

/// Returns the gradient of `factor`, `[rank, vocab]`, from those of the losses, `grad: [tokens]`.
///
/// # Panics
/// As [`low_rank_losses`].
pub fn low_rank_gradient_of_factor<E: Element>(
    isa: Isa,
    operands: &Operands<'_, E>,
    low_rank: LowRank<'_>,
    grad: &[f32],
) -> Vec<f32> {
    // The gradient is linear in every token's row, so a row takes the weight of its token.
    let rank = low_rank.rank;
    let rows = low_rank.rows.chunks_exact(rank.max(1)).zip(grad);
    let rows: Vec<f32> = rows
        .flat_map(|(row, weight)| row.iter().map(move |value| value * weight))
        .collect();
    with_head(operands, low_rank, |head, targets| {
        let selected = targets.gather(&rows, rank);
        let rows = selected.as_deref().unwrap_or(&rows);
        gradients(isa, head, &low_rank, false, Some(rows)).dfactor
    })
}

/// Returns the bytes that the functions need on `threads` threads beside their operands and results, if they are asked for
/// gradients: those of `hidden: [tokens, n]` and the rows, in f32, of the tokens that count and again with zeros for the others;
/// the tokens that count; the logits that are kept; and the gradient of the factor a second time, as it is summed.
pub fn low_rank_workspace_bytes<E: Element>(
    all: usize,
    [vocab, n]: [usize; 2],
    rank: usize,
    threads: usize,
) -> u128 {
    let f32s = size_of::<f32>() as u128;
    let rows =
        all as u128 * (n as u128 * (size_of::<E>() as u128 + 2 * f32s) + 3 * rank as u128 * f32s);
    let kept = low_rank_kept_bytes(all, vocab, threads);
    rows + kept + (vocab as u128 * rank as u128 + 2 * all as u128) * f32s
}

/// Returns the bytes of the logits that are kept at a time, the largest part of [`low_rank_workspace_bytes`].
pub fn low_rank_kept_bytes(all: usize, vocab: usize, threads: usize) -> u128 {
    let chunk = (step(all, vocab, threads) * threads).min(all);
    chunk as u128 * vocab as u128 * size_of::<f32>() as u128
}

impl LowRank<'_> {
    /// Adds the products of the tokens from `first` and the classes from `start`, `width` of them, to `out: [tokens, width]`.
    pub(super) fn add_to(
        &self,
        isa: Isa,
        first: usize,
        [start, width]: [usize; 2],
        out: &mut [f32],
    ) {
        let tokens = out.len() / width;
        Cpu::new(isa, Threads::Calling).dense_matmul(
            self.classes(start, width),
            &self.rows[first * self.rank..][..tokens * self.rank],
            tokens,
            out,
            Direction::Transposed,
            Beta::One,
        );
    }

    /// Returns the columns of the factor that are of the classes from `start`, `width` of them.
    fn classes(&self, start: usize, width: usize) -> DenseRef<'_, f32> {
        let vocab = self.factor.len() / self.rank.max(1);
        let values = self.factor.get(start..).unwrap_or_default();
        DenseRef::with_stride(values, [self.rank, width], vocab)
    }
}

/// Runs `f` on the tokens that count, with their rows.
fn with_head<E: Element, R>(
    operands: &Operands<'_, E>,
    low_rank: LowRank<'_>,
    f: impl FnOnce(&Head<'_, E>, &Targets) -> R,
) -> R {
    let LowRank { rows, factor, rank } = low_rank;
    let [vocab, _] = operands.shape;
    assert_eq!(
        [rows.len(), factor.len()],
        [operands.targets.len() * rank, rank * vocab],
        "cross_entropy: factors of rank {rank} differ"
    );
    operands.with_head(|head, targets| {
        let selected = targets.gather(rows, rank);
        let rows = selected.as_deref().unwrap_or(rows);
        let low_rank = Some(LowRank { rows, factor, rank });
        f(&Head { low_rank, ..*head }, targets)
    })
}

struct Gradients {
    pass: Pass,
    /// `[tokens, rank]`, empty if it was not asked for.
    drows: Vec<f32>,
    /// `[rank, vocab]`, empty if it was not asked for.
    dfactor: Vec<f32>,
}

/// Returns the number of tokens of a tile: all tokens in equal parts, as many for each of the threads, in whole groups.
fn step(all: usize, vocab: usize, threads: usize) -> usize {
    let most = (KEPT / vocab.max(1) / GROUP).clamp(1, TOKENS / GROUP) * GROUP;
    let parts = all.div_ceil(most).next_multiple_of(threads);
    let even = all.div_ceil(parts.clamp(1, (all / GROUP).max(1)));
    even.max(1).next_multiple_of(GROUP).min(most)
}

/// Losses and log-sum-exps; the gradients of `hidden` and of the rows if `of_tokens`; and that of the factor from `rows`, those of the
/// tokens times the gradients of their losses.
fn gradients<E: Element>(
    isa: Isa,
    head: &Head<'_, E>,
    low_rank: &LowRank<'_>,
    of_tokens: bool,
    rows: Option<&[f32]>,
) -> Gradients {
    let (all, vocab, rank) = (head.classes.len(), head.vocab, low_rank.rank);
    let threads = rayon::current_num_threads();
    let step = step(all, vocab, threads);
    let chunk = step * threads;
    let [n, of_rows] = if of_tokens { [head.n, rank] } else { [0, 0] };
    let mut pass = Pass {
        losses: vec![0.0; all],
        lse: vec![0.0; all],
        dhidden: vec![0.0; all * n],
    };
    let mut drows = vec![0.0; all * of_rows];
    // A class after another, as a tile of the weight is.
    let mut dfactor = vec![0.0; if rows.is_some() { vocab * rank } else { 0 }];
    let mut kept = vec![0.0; chunk.min(all) * vocab];
    for first in (0..all).step_by(chunk) {
        let len = chunk.min(all - first);
        let kept = &mut kept[..len * vocab];
        kept.par_chunks_mut(step * vocab)
            .zip(pass.losses[first..][..len].par_chunks_mut(step))
            .zip(pass.lse[first..][..len].par_chunks_mut(step))
            .zip(pieces(&mut pass.dhidden, [first, len, step], n))
            .zip(pieces(&mut drows, [first, len, step], of_rows))
            .enumerate()
            .for_each(|(i, ((((kept, losses), lse), dhidden), drows))| {
                let tile = Tile {
                    isa,
                    head,
                    first: first + i * step,
                };
                tile.run(kept, losses, lse, [dhidden, drows]);
            });
        if let Some(rows) = rows.filter(|_| rank > 0) {
            let rows = &rows[first * rank..][..len * rank];
            add_to_factor(&mut dfactor, kept, rows, [step, vocab, rank]);
        }
    }
    Gradients {
        pass,
        drows,
        dfactor: transposed(&dfactor, rank),
    }
}

/// Cuts `len` rows from `first` of `values` into pieces of `step` rows, which are empty where the rows are `n = 0` wide.
fn pieces(
    values: &mut [f32],
    [first, len, step]: [usize; 3],
    n: usize,
) -> rayon::vec::IntoIter<&mut [f32]> {
    let pieces: Vec<&mut [f32]> = match n {
        0 => (0..len.div_ceil(step))
            .map(|_| <&mut [f32]>::default())
            .collect(),
        _ => values[first * n..][..len * n]
            .chunks_mut(step * n)
            .collect(),
    };
    pieces.into_par_iter()
}

/// Adds `slopesᵀ · rows` to `dfactor: [vocab, rank]`, of the tokens whose slopes `kept` has in tiles of `step` tokens. A tile of
/// classes goes through the tokens in order on one thread.
fn add_to_factor(dfactor: &mut [f32], kept: &[f32], rows: &[f32], [step, vocab, rank]: [usize; 3]) {
    let classes = dfactor.par_chunks_mut(CLASSES * rank).enumerate();
    classes.for_each(|(i, dfactor)| {
        let (start, width) = (i * CLASSES, dfactor.len() / rank);
        let tiles = kept.chunks(step * vocab).zip(rows.chunks(step * rank));
        for (kept, rows) in tiles {
            let tokens = rows.len() / rank;
            let slopes = &kept[tokens * start..][..tokens * width];
            let groups = slopes.chunks(GROUP * width).zip(rows.chunks(GROUP * rank));
            for (slopes, rows) in groups {
                let tokens = rows.len() / rank;
                let slopes = Matrix::new(slopes, tokens, width, width);
                let rows = Matrix::new(rows, tokens, rank, rank);
                matmul(dfactor, slopes.t(), rows, Beta::One);
            }
        }
    });
}

/// Returns the transpose of a matrix with rows of `width`.
fn transposed(values: &[f32], width: usize) -> Vec<f32> {
    let rows = values.len() / width.max(1);
    let mut result = Vec::with_capacity(values.len());
    for column in 0..width {
        result.extend((0..rows).map(|row| values[row * width + column]));
    }
    result
}

/// A run of tokens.
struct Tile<'a, E> {
    isa: Isa,
    head: &'a Head<'a, E>,
    first: usize,
}

impl<E: Element> Tile<'_, E> {
    /// Fills `kept` with the derivatives of the losses by the products, tile by tile of the vocabulary, each `[tokens, width]`.
    fn run(
        &self,
        kept: &mut [f32],
        losses: &mut [f32],
        lse: &mut [f32],
        [dhidden, drows]: [&mut [f32]; 2],
    ) {
        let (tokens, vocab) = (losses.len(), self.head.vocab);
        let classes = &self.head.classes[self.first..][..tokens];
        let mut maxima = vec![f32::NEG_INFINITY; tokens];
        let mut sums = vec![0f32; tokens];
        for (i, logits) in kept.chunks_mut(tokens * CLASSES).enumerate() {
            let (start, width) = (i * CLASSES, logits.len() / tokens);
            self.head.tile(self.isa, self.first, [start, width], logits);
            for (row, class) in classes.iter().enumerate() {
                if (start..start + width).contains(class) {
                    losses[row] = -logits[row * width + class - start];
                }
            }
            sum_step(self.isa, logits, width, &mut maxima, &mut sums);
        }
        debug_assert_eq!(kept.len(), tokens * vocab);
        for (((loss, lse), max), sum) in losses.iter_mut().zip(&mut *lse).zip(&maxima).zip(&sums) {
            *lse = max + sum.ln();
            *loss += *lse;
        }

        let one = Cpu::new(self.isa, Threads::Calling);
        for (i, tile) in kept.chunks_mut(tokens * CLASSES).enumerate() {
            let (start, width) = (i * CLASSES, tile.len() / tokens);
            slopes(self.isa, tile, width, lse, classes, start, self.head.logits);
            if dhidden.is_empty() && drows.is_empty() {
                continue;
            }
            one.dense_matmul(
                self.head.classes_of_weight(start, width),
                &*tile,
                tokens,
                dhidden,
                Direction::Transposed,
                Beta::One,
            );
            if let Some(low_rank) = &self.head.low_rank {
                let factor = low_rank.classes(start, width);
                one.dense_matmul(factor, &*tile, tokens, drows, Direction::Forward, Beta::One);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cross_entropy::{IGNORED, loss_grads, token_losses};

    fn wave(len: usize, step: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * step).sin()).collect()
    }

    const N: usize = 9;
    const RANK: usize = 3;

    /// `[hidden, rows]` and `[weight, factorᵀ]`, whose product is the sum of both.
    fn joined(left: &[f32], right: &[f32], rank: usize) -> Vec<f32> {
        let rows = left.chunks(N).zip(right.chunks(rank));
        rows.flat_map(|(left, right)| [left, right].concat())
            .collect()
    }

    fn near(found: &[f32], expected: &[f32]) -> bool {
        let mut pairs = found.iter().zip(expected);
        found.len() == expected.len()
            && pairs.all(|(found, expected)| (found - expected).abs() < 1e-4)
    }

    /// A head of the width of both, whose weight is `[weight, factorᵀ]`, has the same logits; `loss_grads` is held against the
    /// formula. More classes than a tile has, and every fifth token ignored.
    #[test]
    fn equals_a_head_with_the_factors_beside_its_columns() {
        let (tokens, vocab) = (300, 700);
        let (hidden, weight) = (wave(tokens * N, 0.3), wave(vocab * N, 0.7));
        let (rows, factor) = (wave(tokens * RANK, 0.11), wave(vocab * RANK, 0.53));
        let target = |i: usize| match i % 5 {
            0 => IGNORED,
            _ => (i * 37 % vocab) as i64,
        };
        let targets: Vec<i64> = (0..tokens).map(target).collect();
        let wide_hidden = joined(&hidden, &rows, RANK);
        let wide_weight = joined(&weight, &transposed(&factor, vocab), RANK);
        for (scale, softcap) in [(1.0, None), (0.4, None), (1.0, Some(4.0)), (0.4, Some(2.0))] {
            let operands = Operands {
                hidden: &hidden,
                weight: &weight,
                shape: [vocab, N],
                targets: &targets,
                scale,
                softcap,
            };
            let wide = Operands {
                hidden: &wide_hidden,
                weight: &wide_weight,
                shape: [vocab, N + RANK],
                ..operands
            };
            let low_rank = LowRank {
                rows: &rows,
                factor: &factor,
                rank: RANK,
            };
            for isa in Isa::available() {
                let case = format!("{isa:?}, scale {scale}, cap {softcap:?}");
                let (_, dhidden, dweight) = loss_grads(*isa, &wide);
                let part = |wide: &[f32], from: usize, to: usize| -> Vec<f32> {
                    let rows = wide.chunks(N + RANK);
                    rows.flat_map(|row| row[from..to].to_vec()).collect()
                };
                let [losses, found, drows, dfactor] = low_rank_gradients(*isa, &operands, low_rank);
                assert!(near(&losses, &token_losses(*isa, &wide)), "{case}");
                assert!(near(&found, &part(&dhidden, 0, N)), "{case}");
                assert!(near(&drows, &part(&dhidden, N, N + RANK)), "{case}");
                let expected = transposed(&part(&dweight, N, N + RANK), RANK);
                assert!(near(&dfactor, &expected), "{case}");
                assert!(
                    near(&low_rank_losses(*isa, &operands, low_rank), &losses),
                    "{case}"
                );
                let of_tokens = low_rank_losses_gradients(*isa, &operands, low_rank);
                assert_eq!(of_tokens, [losses, found, drows], "{case}");

                // The sum of what each token alone gives, times its weight.
                let mut weights = vec![0.0; tokens];
                let mut expected = vec![0.0; dfactor.len()];
                for (token, weight) in [(1, 0.5), (77, -2.0), (299, 3.0), (5, 7.0)] {
                    weights[token] = weight;
                    let alone = |i: usize| if i == token { targets[i] } else { IGNORED };
                    let targets: Vec<i64> = (0..tokens).map(alone).collect();
                    let operands = Operands {
                        targets: &targets,
                        ..operands
                    };
                    let [.., part] = low_rank_gradients(*isa, &operands, low_rank);
                    let sum = expected.iter_mut().zip(part);
                    sum.for_each(|(sum, part)| *sum += weight * part);
                }
                let weighed = low_rank_gradient_of_factor(*isa, &operands, low_rank, &weights);
                assert!(near(&weighed, &expected), "{case}");
                let ones =
                    low_rank_gradient_of_factor(*isa, &operands, low_rank, &vec![1.0; tokens]);
                assert_eq!(ones, dfactor, "{case}");
            }
        }
    }

    #[test]
    fn tiles_are_even_and_keep_no_more_than_their_limit() {
        assert_eq!(
            [step(0, 500, 2), step(1, 500, 2), step(63, 500, 2)],
            [32, 32, 64]
        );
        assert_eq!([step(64, 500, 2), step(1024, 500, 2)], [32, 256]);
        // 170 tokens of SmolLM2's 49,152 classes fill 32 MiB, and 32 of Gemma's 262,144.
        assert_eq!([step(1024, 49_152, 2), step(2048, 49_152, 2)], [128, 160]);
        assert_eq!([step(1024, 262_144, 16), step(63, 262_144, 2)], [32, 32]);
    }

    /// A pool of another size cuts the tokens otherwise.
    #[test]
    fn the_bits_do_not_depend_on_the_threads() {
        let (tokens, vocab) = (200, 1_100);
        let (hidden, weight) = (wave(tokens * N, 0.3), wave(vocab * N, 0.7));
        let (rows, factor) = (wave(tokens * RANK, 0.11), wave(vocab * RANK, 0.53));
        let targets: Vec<i64> = (0..tokens).map(|i| (i * 37 % vocab) as i64).collect();
        let found = [1, 2, 5].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.expect("threads").install(|| {
                let operands = Operands {
                    hidden: &hidden,
                    weight: &weight,
                    shape: [vocab, N],
                    targets: &targets,
                    scale: 1.0,
                    softcap: None,
                };
                let low_rank = LowRank {
                    rows: &rows,
                    factor: &factor,
                    rank: RANK,
                };
                low_rank_gradients(crate::isa(), &operands, low_rank)
            })
        });
        assert!(found[0] == found[1] && found[0] == found[2]);
    }
}
