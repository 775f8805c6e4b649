//! Tokenizers built from the vocabulary that a GGUF file carries instead of a tokenizer.json, and such a vocabulary made from a
//! tokenizer.
//!
//! - `kind`: what a token is for (`tokenizer.ggml.token_type`).
//! - `byte_level`: byte-pair encoding over bytes, as GPT-2 began it (`tokenizer.ggml.model` = "gpt2").
//! - `sentencepiece`: SentencePiece's pieces with byte fallback ("llama").
//! - `described`: the way back, for files that are written (feature `qlora`).
//! - `template`: the tokens that are put around every text.

mod byte_level;
#[cfg(feature = "qlora")]
mod described;
mod kind;
mod sentencepiece;
mod template;

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{AddedToken, Tokenizer};

#[cfg(feature = "qlora")]
pub(crate) use self::described::{DescribedVocabulary, first_difference};
pub(crate) use self::kind::TokenKind;

/// The vocabulary in a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vocabulary<'a> {
    /// `tokenizer.ggml.model`: "gpt2" or "llama".
    pub model: &'a str,
    /// `tokenizer.ggml.pre`: how text is split before merging.
    pub pre: Option<&'a str>,
    /// Texts by id.
    pub tokens: Vec<&'a str>,
    /// Kinds by id. Empty where the file has none: all are normal then.
    pub kinds: Vec<TokenKind>,
    /// Scores by id: SentencePiece's order of merging. May be empty.
    pub scores: Vec<f32>,
    /// Pairs in the order of merging, each `left right`.
    pub merges: Option<Vec<&'a str>>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unk: Option<u32>,
    /// Whether bos goes in front; `None` where the file does not say.
    pub add_bos: Option<bool>,
    /// Whether eos goes behind.
    pub add_eos: Option<bool>,
    /// Whether SentencePiece puts a space before the text.
    pub add_space_prefix: Option<bool>,
    /// Whether special tokens swallow the blanks behind them.
    pub strips_behind_special: bool,
}

/// Tokens that end a turn, in the order in which llama.cpp looks for one when the file names none
/// (llama-vocab.cpp). Those that end a whole text are the business of `tokenizer.ggml.eos_token_id`.
const TURN_ENDS: [&str; 4] = ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"];

impl Vocabulary<'_> {
    /// Returns whether bos goes in front of a text: the file's answer, or llama.cpp's where it has none.
    pub(crate) fn adds_bos(&self) -> bool {
        self.add_bos.unwrap_or_else(|| {
            self.model == "llama" || self.pre.is_some_and(byte_level::adds_bos_behind)
        })
    }

    pub(crate) fn adds_eos(&self) -> bool {
        self.add_eos.unwrap_or(false)
    }

    /// Returns the text of a token.
    pub(crate) fn text(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).copied()
    }

    /// Returns the token that ends a turn, going by the texts of the control tokens.
    pub(crate) fn turn_end(&self) -> Option<u32> {
        TURN_ENDS.iter().find_map(|end| {
            let mut ids = self.of_kind(TokenKind::Control);
            ids.find(|(_, text)| text == end).map(|(id, _)| id)
        })
    }

    /// Builds the tokenizer; the error is a reason in words.
    pub(crate) fn build(&self) -> Result<Tokenizer, String> {
        self.check()?;
        let mut tokenizer = match self.model {
            "gpt2" => byte_level::build(self)?,
            "llama" => sentencepiece::build(self)?,
            other => {
                return Err(format!(
                    "`tokenizer.ggml.model` is `{other}`, known are `gpt2` and `llama`; \
                     use the Hugging Face directory with tokenizer.json"
                ));
            }
        };
        self.add_tokens(&mut tokenizer)?;
        tokenizer.with_post_processor(template::around(self)?);
        Ok(tokenizer)
    }

    /// Refuses lists that cannot belong together.
    fn check(&self) -> Result<(), String> {
        let tokens = self.tokens.len();
        for (key, found) in [
            ("token_type", self.kinds.len()),
            ("scores", self.scores.len()),
        ] {
            if found != 0 && found < tokens {
                return Err(format!(
                    "`tokenizer.ggml.{key}` has {found} entries for {tokens} tokens"
                ));
            }
        }
        let mut ids = HashMap::with_capacity(tokens);
        for (id, text) in self.tokens.iter().enumerate() {
            if let Some(first) = ids.insert(*text, id)
                && !text.is_empty()
            {
                return Err(format!("the token {text:?} has two ids, {first} and {id}"));
            }
        }
        Ok(())
    }

    /// Adds the tokens that are found in a text before anything else is done with it.
    fn add_tokens(&self, tokenizer: &mut Tokenizer) -> Result<(), String> {
        let added = |kind: TokenKind, special: bool| {
            self.of_kind(kind).map(move |(_, text)| {
                AddedToken::from(text, special)
                    .normalized(false)
                    .rstrip(self.strips_behind(text))
            })
        };
        let special = added(TokenKind::Control, true).chain(added(TokenKind::Unknown, true));
        tokenizer
            .add_special_tokens(special)
            .and_then(|_| tokenizer.add_tokens(added(TokenKind::UserDefined, false)))
            .map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Phi-3's own tokenizer.json strips behind all of its special tokens but these (llama-vocab.cpp has the same list).
    fn strips_behind(&self, text: &str) -> bool {
        self.strips_behind_special && !["<unk>", "<s>", "<|endoftext|>"].contains(&text)
    }

    fn kind(&self, id: usize) -> TokenKind {
        self.kinds.get(id).copied().unwrap_or(TokenKind::Normal)
    }

    /// Returns id and text of all tokens of a kind.
    fn of_kind(&self, kind: TokenKind) -> impl Iterator<Item = (u32, &str)> {
        (0u32..)
            .zip(self.tokens.iter().copied())
            .filter(move |(id, text)| self.kind(*id as usize) == kind && !text.is_empty())
    }

    fn vocab(&self) -> Vocab {
        (0u32..)
            .zip(&self.tokens)
            .filter(|(_, text)| !text.is_empty())
            .map(|(id, text)| ((*text).to_owned(), id))
            .collect()
    }

    /// Returns the merges that the file lists.
    fn listed_merges(&self) -> Option<Result<Merges, String>> {
        let split = |merge: &&str| {
            merge
                .split_once(' ')
                .map(|(left, right)| (left.to_owned(), right.to_owned()))
                .ok_or_else(|| {
                    format!("`tokenizer.ggml.merges` has the entry {merge:?}, expected two parts")
                })
        };
        Some(self.merges.as_ref()?.iter().map(split).collect())
    }
}

fn bpe_error(error: tokenizers::Error) -> String {
    format!("its merges do not fit its vocabulary: {error}")
}

type Merges = Vec<(String, String)>;

/// Returns a builder with vocabulary and merges set.
fn bpe(vocabulary: &Vocabulary, merges: Merges) -> tokenizers::models::bpe::BpeBuilder {
    BPE::builder().vocab_and_merges(vocabulary.vocab(), merges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary() -> Vocabulary<'static> {
        Vocabulary {
            model: "gpt2",
            pre: Some("gpt-2"),
            tokens: vec!["a", "b", "<|im_end|>", "<end_of_turn>"],
            kinds: vec![
                TokenKind::Normal,
                TokenKind::Normal,
                TokenKind::Control,
                TokenKind::Control,
            ],
            merges: Some(vec![]),
            ..Vocabulary::default()
        }
    }

    #[test]
    fn the_end_of_a_turn_is_found_among_the_control_tokens() {
        assert_eq!(vocabulary().turn_end(), Some(2));
        let mut written = vocabulary();
        written.kinds[2] = TokenKind::Normal;
        assert_eq!(written.turn_end(), Some(3));
        written.kinds.clear();
        assert_eq!(written.turn_end(), None);
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        let short = Vocabulary {
            kinds: vec![TokenKind::Normal],
            ..vocabulary()
        };
        assert!(short.build().unwrap_err().contains("1 entries for 4"));
        let twice = Vocabulary {
            tokens: vec!["a", "b", "a", ""],
            ..vocabulary()
        };
        assert!(twice.build().unwrap_err().contains("two ids, 0 and 2"));
        let empty = Vocabulary {
            tokens: vec!["a", "", "<|im_end|>", ""],
            ..vocabulary()
        };
        assert!(empty.build().is_ok());
    }

    #[test]
    fn phi_3_strips_what_stands_behind_its_special_tokens() {
        let ids = |strips_behind_special| {
            let vocabulary = Vocabulary {
                tokens: vec!["a", "Ġ", "<|end|>", "<s>"],
                strips_behind_special,
                ..vocabulary()
            };
            let tokenizer = vocabulary.build().unwrap();
            let encoding = tokenizer.encode("a<|end|> a<s> a", true).unwrap();
            encoding.get_ids().to_vec()
        };
        assert_eq!(ids(false), [0, 2, 1, 0, 3, 1, 0]);
        assert_eq!(ids(true), [0, 2, 0, 3, 1, 0]);
    }
}
