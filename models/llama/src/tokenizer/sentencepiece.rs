//! SentencePiece's pieces as byte-pair encoding with byte fallback, the way transformers converts them.

use std::cmp::Reverse;
use std::collections::HashMap;

use tokenizers::Tokenizer;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::normalizers::replace::Replace;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};

use super::{Merges, Vocabulary, bpe, bpe_error};

/// SentencePiece's visible space.
const SPACE: char = '▁';

pub(super) fn build(vocabulary: &Vocabulary) -> Result<Tokenizer, String> {
    let merges = match vocabulary.listed_merges() {
        Some(merges) => merges?,
        None => derived_merges(vocabulary)?,
    };
    let unknown = vocabulary
        .unk
        .and_then(|id| vocabulary.text(id))
        .unwrap_or("<unk>");
    let model = bpe(vocabulary, merges)
        .unk_token(unknown.into())
        .fuse_unk(true)
        .byte_fallback(true)
        .build()
        .map_err(bpe_error)?;
    let prefix = vocabulary.add_space_prefix.unwrap_or(true);
    let scheme = if prefix {
        PrependScheme::First
    } else {
        PrependScheme::Never
    };
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(Metaspace::new(SPACE, scheme, false)));
    let spaces = Replace::new(SPACE.to_string(), " ").map_err(|error| error.to_string())?;
    let mut decoders: Vec<DecoderWrapper> = vec![
        spaces.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if prefix {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_decoder(Some(Sequence::new(decoders)));
    Ok(tokenizer)
}

/// Returns the merges that the scores imply: every way to make a piece of two others, best score first, then the
/// longer left and right part (transformers' `generate_merges`).
fn derived_merges(vocabulary: &Vocabulary) -> Result<Merges, String> {
    if vocabulary.scores.len() != vocabulary.tokens.len() {
        return Err(format!(
            "`tokenizer.ggml.scores` has {} entries for {} tokens, and there are no merges",
            vocabulary.scores.len(),
            vocabulary.tokens.len()
        ));
    }
    let ids: HashMap<&str, usize> = vocabulary
        .tokens
        .iter()
        .enumerate()
        .map(|(id, text)| (*text, id))
        .collect();
    let mut merges = Vec::new();
    for (piece, score) in vocabulary.tokens.iter().zip(&vocabulary.scores) {
        let cuts = piece.char_indices().skip(1);
        let mut pairs: Vec<_> = cuts
            .filter_map(|(at, _)| {
                let (left, right) = piece.split_at(at);
                Some((*ids.get(left)?, *ids.get(right)?, left, right))
            })
            .collect();
        pairs.sort_by_key(|(left, right, _, _)| (*left, *right));
        merges.extend(
            pairs
                .into_iter()
                .map(|(_, _, left, right)| (*score, left, right)),
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
            tokens: vec![
                "<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "▁a", "ab", "▁ab",
            ],
            kinds: vec![2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1],
            scores: vec![0., 0., 0., 0., 0., -9., -9., -9., -1., -2., -3.],
            bos: Some(1),
            eos: Some(2),
            unk: Some(0),
            ..Vocabulary::default()
        }
    }

    #[test]
    fn scores_order_the_merges_and_unknown_letters_fall_back_to_bytes() {
        let tokenizer = vocabulary().build().unwrap();
        let ids = |text: &str| tokenizer.encode(text, true).unwrap().get_ids().to_vec();
        assert_eq!(ids("ab"), [1, 10]);
        assert_eq!(ids("aé</s>"), [1, 8, 3, 4, 2]);
        assert_eq!(tokenizer.decode(&[1, 8, 3, 4], true).unwrap(), "aé");
    }

    #[test]
    fn missing_scores_are_an_error() {
        let vocabulary = Vocabulary {
            scores: vec![],
            ..vocabulary()
        };
        assert!(vocabulary.build().unwrap_err().contains("scores"));
    }
}
