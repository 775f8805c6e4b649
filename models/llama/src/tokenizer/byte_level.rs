//! Byte-pair encoding over bytes.

use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

use super::{Vocabulary, bpe, bpe_error};

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The pre-tokenizer: the cut of a text into the words that merging works on.
enum PreSplit {
    /// GPT-2's expression, which is ByteLevel's own.
    Gpt2,
    /// Single digits first, then GPT-2's expression.
    Digits,
    /// An expression of the model's own.
    Regex(&'static str),
}

impl PreSplit {
    /// Returns the one of that name among llama.cpp's pre-tokenizers (llama-vocab.cpp).
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "default" | "gpt-2" | "gpt2" | "olmo" | "phi-2" | "jina-es" | "jina-de" | "mpt" => {
                Self::Gpt2
            }
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone"
            | "minerva-7b" => Self::Digits,
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral"
            | "midm-2.0" | "lfm2" | "dbrx" | "smaug-bpe" => Self::Regex(LLAMA3),
            "qwen2" | "deepseek-r1-qwen" | "megrez" => Self::Regex(QWEN2),
            "tekken" => Self::Regex(TEKKEN),
            _ => return None,
        })
    }
}

/// Returns whether llama.cpp puts bos in front with this pre-tokenizer when the file does not say.
pub(super) fn adds_bos(pre: &str) -> bool {
    is_llama3(pre) || pre == "tekken"
}

fn is_llama3(pre: &str) -> bool {
    [
        "llama3",
        "llama-v3",
        "llama-bpe",
        "falcon3",
        "falcon-h1",
        "pixtral",
        "midm-2.0",
        "lfm2",
    ]
    .contains(&pre)
}

pub(super) fn build(vocabulary: &Vocabulary) -> Result<Tokenizer, String> {
    let pre = vocabulary.pre.unwrap_or("default");
    let split = PreSplit::named(pre).ok_or_else(|| {
        format!(
            "`tokenizer.ggml.pre` is `{pre}`, which is not known; use the Hugging Face directory with tokenizer.json"
        )
    })?;
    let merges = vocabulary
        .listed_merges()
        .ok_or("`tokenizer.ggml.merges` is missing, which a byte-level vocabulary needs")??;
    let model = bpe(vocabulary, merges)
        // LLaMA 3 takes a word that is a token whole, whether or not merging would arrive at it.
        .ignore_merges(is_llama3(pre) || pre == "tekken")
        .build()
        .map_err(bpe_error)?;
    let mut tokenizer = Tokenizer::new(model);
    if pre == "qwen2" {
        tokenizer
            .with_normalizer(Some(NFC))
            .map_err(|error| error.to_string())?;
    }
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer(split)?));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}

fn pre_tokenizer(split: PreSplit) -> Result<PreTokenizerWrapper, String> {
    let bytes = |use_regex| ByteLevel::new(false, true, use_regex).into();
    Ok(match split {
        PreSplit::Gpt2 => bytes(true),
        PreSplit::Digits => Sequence::new(vec![Digits::new(true).into(), bytes(true)]).into(),
        PreSplit::Regex(pattern) => {
            let pattern = SplitPattern::Regex(pattern.into());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|error| error.to_string())?;
            Sequence::new(vec![split.into(), bytes(false)]).into()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    fn words(name: &str, text: &str) -> Vec<String> {
        let mut text = PreTokenizedString::from(text);
        let split = pre_tokenizer(PreSplit::named(name).unwrap()).unwrap();
        split.pre_tokenize(&mut text).unwrap();
        text.get_splits(OffsetReferential::Normalized, OffsetType::Byte)
            .into_iter()
            .map(|(word, _, _)| word.to_owned())
            .collect()
    }

    #[test]
    fn each_pre_tokenizer_cuts_digits_in_its_own_way() {
        assert_eq!(words("gpt-2", "a  1234"), ["a", "Ġ", "Ġ1234"]);
        assert_eq!(words("smollm", "a  1234"), ["a", "ĠĠ", "1", "2", "3", "4"]);
        assert_eq!(words("llama-bpe", "a  1234"), ["a", "Ġ", "Ġ", "123", "4"]);
        assert_eq!(
            words("qwen2", "a  1234"),
            ["a", "Ġ", "Ġ", "1", "2", "3", "4"]
        );
    }

    #[test]
    fn an_unknown_pre_tokenizer_is_refused_by_name() {
        let vocabulary = Vocabulary {
            model: "gpt2",
            pre: Some("klingon"),
            merges: Some(vec![]),
            ..Vocabulary::default()
        };
        assert!(vocabulary.build().unwrap_err().contains("klingon"));
    }
}
