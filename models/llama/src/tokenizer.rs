//! Tokenizers built from the vocabulary that a GGUF file carries instead of a tokenizer.json.
//!
//! - `byte_level`: byte-pair encoding over bytes, as GPT-2 began it (`tokenizer.ggml.model` = "gpt2").
//! - `sentencepiece`: SentencePiece's pieces with byte fallback ("llama").

mod byte_level;
mod sentencepiece;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

/// The vocabulary in a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vocabulary<'a> {
    /// `tokenizer.ggml.model`: "gpt2" or "llama".
    pub model: &'a str,
    /// `tokenizer.ggml.pre`: how text is split before merging.
    pub pre: Option<&'a str>,
    /// Texts by id.
    pub tokens: Vec<&'a str>,
    /// Kinds by id: 3 is control, 4 user-defined. May be empty.
    pub kinds: Vec<usize>,
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
}

const CONTROL: usize = 3;
const USER_DEFINED: usize = 4;

impl Vocabulary<'_> {
    /// Returns whether bos goes in front of a text: the file's answer, or llama.cpp's where it has none.
    pub(crate) fn adds_bos(&self) -> bool {
        self.add_bos
            .unwrap_or(self.model == "llama" || self.pre.is_some_and(byte_level::adds_bos))
    }

    pub(crate) fn adds_eos(&self) -> bool {
        self.add_eos.unwrap_or(false)
    }

    /// Returns the text of a token.
    pub(crate) fn text(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).copied()
    }

    /// Builds the tokenizer; the error is a reason in words.
    pub(crate) fn build(&self) -> Result<Tokenizer, String> {
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
        self.add_template(&mut tokenizer)?;
        Ok(tokenizer)
    }

    fn add_tokens(&self, tokenizer: &mut Tokenizer) -> Result<(), String> {
        let of_kind = |wanted: usize| {
            self.tokens
                .iter()
                .zip(&self.kinds)
                .filter(move |(text, kind)| **kind == wanted && !text.is_empty())
                .map(move |(text, _)| AddedToken::from(*text, wanted == CONTROL).normalized(false))
        };
        tokenizer
            .add_special_tokens(of_kind(CONTROL))
            .and_then(|_| tokenizer.add_tokens(of_kind(USER_DEFINED)))
            .map_err(|error| error.to_string())?;
        Ok(())
    }

    fn add_template(&self, tokenizer: &mut Tokenizer) -> Result<(), String> {
        let token = |adds: bool, id: Option<u32>, key: &str| match (adds, id) {
            (false, _) => Ok(None),
            (true, Some(id)) => match self.text(id) {
                Some(text) => Ok(Some((text.to_owned(), id))),
                None => Err(format!(
                    "`{key}` is {id}, outside the vocabulary of {}",
                    self.tokens.len()
                )),
            },
            (true, None) => Err(format!(
                "`{key}` is missing, but the token is to be added to every text"
            )),
        };
        let bos = token(self.adds_bos(), self.bos, "tokenizer.ggml.bos_token_id")?;
        let eos = token(self.adds_eos(), self.eos, "tokenizer.ggml.eos_token_id")?;
        if bos.is_none() && eos.is_none() {
            return Ok(());
        }
        let pieces = |parts: &[&str]| -> Vec<String> {
            let name = |token: &Option<(String, u32)>| token.as_ref().map(|(text, _)| text.clone());
            parts
                .iter()
                .flat_map(|part| [name(&bos), Some((*part).to_owned()), name(&eos)])
                .flatten()
                .collect()
        };
        let template = TemplateProcessing::builder()
            .try_single(pieces(&["$A:0"]))
            .and_then(|builder| builder.try_pair(pieces(&["$A:0", "$B:1"])))
            .map_err(|error| error.to_string())?
            .special_tokens(bos.iter().chain(&eos).cloned().collect::<Vec<_>>())
            .build()
            .map_err(|error| error.to_string())?;
        tokenizer.with_post_processor(Some(template));
        Ok(())
    }

    fn vocab(&self) -> Vocab {
        (0u32..)
            .zip(&self.tokens)
            .map(|(id, text)| ((*text).to_owned(), id))
            .collect()
    }

    /// Returns the merges that the file lists.
    fn listed_merges(&self) -> Option<Result<Vec<(String, String)>, String>> {
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
