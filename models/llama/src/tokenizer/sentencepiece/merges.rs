//! The order of merging that the pieces' scores imply.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::tokenizer::{Merges, TokenKind, Vocabulary};

/// Returns every way to make a piece of two others, best score first, then the longer left and right part
/// (transformers' `generate_merges`). Only normal pieces are parts and results: SentencePiece never joins the others.
///
/// # Errors
/// Scores that are missing, in words.
pub(super) fn derived(vocabulary: &Vocabulary) -> Result<Merges, String> {
    if vocabulary.scores.len() < vocabulary.tokens.len() {
        return Err(format!(
            "`tokenizer.ggml.scores` has {} entries for {} tokens, and there are no merges",
            vocabulary.scores.len(),
            vocabulary.tokens.len()
        ));
    }
    let ids: HashMap<&str, u32> = vocabulary
        .of_kind(TokenKind::Normal)
        .map(|(id, text)| (text, id))
        .collect();
    let mut merges = Vec::new();
    for (id, piece) in vocabulary.of_kind(TokenKind::Normal) {
        let cuts = piece.char_indices().skip(1);
        let mut pairs: Vec<_> = cuts
            .filter_map(|(at, _)| {
                let (left, right) = piece.split_at(at);
                Some((*ids.get(left)?, *ids.get(right)?, left, right))
            })
            .collect();
        pairs.sort_by_key(|(left, right, _, _)| (*left, *right));
        let score = vocabulary.scores[id as usize];
        merges.extend(
            pairs
                .into_iter()
                .map(|(_, _, left, right)| (score, left, right)),
        );
    }
    let chars = |text: &str| text.chars().count();
    merges.sort_by(|a, b| {
        let key = |merge: &(f32, &str, &str)| Reverse((chars(merge.1), chars(merge.2)));
        b.0.total_cmp(&a.0).then(key(a).cmp(&key(b)))
    });
    Ok(merges
        .into_iter()
        .map(|(_, left, right)| (left.to_owned(), right.to_owned()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary() -> Vocabulary<'static> {
        Vocabulary {
            model: "llama",
            tokens: vec!["a", "b", "ab", "aba", "ba", "bab"],
            kinds: vec![TokenKind::Normal; 6],
            scores: vec![-9., -9., -2., -1., -3., -4.],
            ..Vocabulary::default()
        }
    }

    fn pairs(vocabulary: &Vocabulary) -> Vec<String> {
        let merges = derived(vocabulary).unwrap();
        merges
            .into_iter()
            .map(|(left, right)| format!("{left} {right}"))
            .collect()
    }

    #[test]
    fn the_best_score_is_merged_first_and_then_the_longer_left_part() {
        assert_eq!(
            pairs(&vocabulary()),
            ["ab a", "a ba", "a b", "b a", "ba b", "b ab"]
        );
    }

    #[test]
    fn only_normal_pieces_are_merged() {
        let mut vocabulary = vocabulary();
        vocabulary.kinds[2] = TokenKind::UserDefined;
        assert_eq!(pairs(&vocabulary), ["a ba", "b a", "ba b"]);
    }

    #[test]
    fn missing_scores_are_an_error() {
        let vocabulary = Vocabulary {
            scores: vec![],
            ..vocabulary()
        };
        assert!(derived(&vocabulary).unwrap_err().contains("scores"));
    }
}
