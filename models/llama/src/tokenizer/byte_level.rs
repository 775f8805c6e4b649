//! Byte-pair encoding over bytes.
//!
//! - `pre_tokenizer`: the ways in which models cut a text into the words that merging works on.

mod pre_tokenizer;

use tokenizers::Tokenizer;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::normalizers::unicode::NFC;

use self::pre_tokenizer::PreTokenizer;
#[cfg(feature = "qlora")]
use super::described::{DescribedVocabulary, Source};
use super::{Vocabulary, bpe, bpe_error};

/// Returns whether llama.cpp puts bos in front with this pre-tokenizer when the file does not say.
pub(super) fn adds_bos_behind(pre: &str) -> bool {
    PreTokenizer::named(pre).is_some_and(|pre| pre.adds_bos)
}

pub(super) fn build(vocabulary: &Vocabulary) -> Result<Tokenizer, String> {
    let pre = vocabulary.pre.ok_or(
        "`tokenizer.ggml.pre` is missing, so that the file does not say how text is cut into words; \
         convert the model again, or use the Hugging Face directory with tokenizer.json",
    )?;
    let pre = PreTokenizer::named(pre).ok_or_else(|| {
        format!(
            "`tokenizer.ggml.pre` is `{pre}`, known are {}; use the Hugging Face directory with tokenizer.json",
            PreTokenizer::names()
        )
    })?;
    let merges = vocabulary
        .listed_merges()
        .ok_or("`tokenizer.ggml.merges` is missing, which a byte-level vocabulary needs")??;
    let model = bpe(vocabulary, merges)
        .ignore_merges(pre.takes_whole_words)
        .build()
        .map_err(bpe_error)?;
    let mut tokenizer = Tokenizer::new(model);
    if pre.composes {
        tokenizer
            .with_normalizer(Some(NFC))
            .map_err(|error| error.to_string())?;
    }
    tokenizer.with_pre_tokenizer(Some(pre.build()?));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}

/// Adds what such a vocabulary has beside its texts.
///
/// # Errors
/// A way of cutting words, or a normalizer, that llama.cpp has no name for, in words.
#[cfg(feature = "qlora")]
pub(super) fn describe(source: &Source, described: &mut DescribedVocabulary) -> Result<(), String> {
    let normalizer = source.part("normalizer");
    let composes = match normalizer["type"].as_str() {
        None => false,
        Some("NFC") => true,
        Some("Sequence") if normalizer["normalizers"] == serde_json::json!([]) => false,
        Some(other) => {
            return Err(format!(
                "its normalizer {other} has no name in llama.cpp; known are NFC and none"
            ));
        }
    };
    let wanted = pre_tokenizer::Wanted {
        cuts: pre_tokenizer::cuts(source.part("pre_tokenizer"))?,
        composes,
        takes_whole_words: source.model("ignore_merges") == true,
        adds_bos: source.adds_bos,
    };
    described.model = "gpt2";
    described.pre = wanted.name()?;
    // A space within a part would end it; the letter that stands for the byte is meant.
    let written = |part: &str| part.replace(' ', "Ġ");
    let merges = source.merges()?.into_iter();
    let merges = merges.map(|(left, right)| format!("{} {}", written(left), written(right)));
    described.merges = merges.collect();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(pre: Option<&str>) -> String {
        let vocabulary = Vocabulary {
            model: "gpt2",
            pre,
            merges: Some(vec![]),
            ..Vocabulary::default()
        };
        vocabulary.build().unwrap_err()
    }

    #[test]
    fn an_unknown_pre_tokenizer_is_refused_by_name() {
        let error = refusal(Some("klingon"));
        for name in ["klingon", "llama-bpe", "qwen2", "tekken"] {
            assert!(error.contains(name), "{error}");
        }
        assert!(refusal(None).contains("is missing"));
    }

    #[test]
    fn bos_goes_in_front_where_llama_cpp_has_it_so() {
        for (pre, adds) in [("llama-bpe", true), ("tekken", true), ("qwen2", false)] {
            assert_eq!(adds_bos_behind(pre), adds, "{pre}");
        }
        assert!(!adds_bos_behind("klingon"));
    }
}
