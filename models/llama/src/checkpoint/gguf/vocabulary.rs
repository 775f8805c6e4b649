//! The tokenizer's parts of the metadata.

use candle_core::quantized::gguf_file::Value;
use tokenizers::Tokenizer;

use super::GgufFile;
use super::metadata::{as_integer, kind};
use crate::checkpoint::special::{SpecialToken, SpecialTokens};
use crate::checkpoint::tokenizers_result;
use crate::error::DecoderError;
use crate::tokenizer::{TokenKind, Vocabulary};

impl GgufFile {
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer, DecoderError> {
        let vocabulary = self.vocabulary()?;
        tokenizers_result(|| vocabulary.build().map_err(Into::into)).map_err(|reason| {
            DecoderError::Tokenizer {
                path: self.path().to_path_buf(),
                reason,
            }
        })
    }

    pub(crate) fn chat_template(&self) -> Option<String> {
        match self.values().get("tokenizer.chat_template") {
            Some(Value::String(template)) => Some(template.clone()),
            _ => None,
        }
    }

    pub(crate) fn special_tokens(&self) -> Result<SpecialTokens, DecoderError> {
        let vocabulary = self.vocabulary()?;
        let token = |id: Option<u32>| {
            let id = id?;
            let text = vocabulary.text(id)?.to_owned();
            Some(SpecialToken { id, text })
        };
        Ok(SpecialTokens {
            bos: token(vocabulary.bos),
            eos: token(vocabulary.eos),
            unk: token(vocabulary.unk),
            pad: token(self.metadata().token("tokenizer.ggml.padding_token_id")?),
            add_bos: vocabulary.adds_bos(),
            add_eos: vocabulary.adds_eos(),
        })
    }

    /// Returns the token that ends a turn, going by its text.
    pub(super) fn turn_end(&self) -> Option<u32> {
        // A file without a vocabulary can be opened; what is wrong with one is said to whoever asks for the tokenizer.
        self.vocabulary().ok()?.turn_end()
    }

    fn vocabulary(&self) -> Result<Vocabulary<'_>, DecoderError> {
        let keys = self.metadata();
        let model = keys
            .text("tokenizer.ggml.model")?
            .ok_or_else(|| keys.missing("tokenizer.ggml.model"))?;
        let tokens = keys
            .texts("tokenizer.ggml.tokens")?
            .ok_or_else(|| keys.missing("tokenizer.ggml.tokens"))?;
        // llama.cpp's ids for SentencePiece, where a file does not say.
        let sentencepiece = model == "llama";
        let token = |key: &str, default: u32| match keys.token(key)? {
            Some(id) if id as usize >= tokens.len() => Err(keys.invalid(
                key,
                id,
                &format!("a token of the vocabulary of {}", tokens.len()),
            )),
            None if sentencepiece && (default as usize) < tokens.len() => Ok(Some(default)),
            id => Ok(id),
        };
        Ok(Vocabulary {
            model,
            pre: keys.text("tokenizer.ggml.pre")?,
            kinds: self.elements(
                "tokenizer.ggml.token_type",
                "an array of token types",
                |value| TokenKind::numbered(as_integer(value)?),
            )?,
            scores: self.elements(
                "tokenizer.ggml.scores",
                "an array of f32",
                |value| match value {
                    Value::F32(score) => Some(*score),
                    _ => None,
                },
            )?,
            merges: keys.texts("tokenizer.ggml.merges")?,
            bos: token("tokenizer.ggml.bos_token_id", 1)?,
            eos: token("tokenizer.ggml.eos_token_id", 2)?,
            unk: token("tokenizer.ggml.unknown_token_id", 0)?,
            add_bos: keys.flag("tokenizer.ggml.add_bos_token")?,
            add_eos: keys.flag("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: keys.flag("tokenizer.ggml.add_space_prefix")?,
            // Phi-3's tokenizer.json says so, and a GGUF cannot; Phi-4-mini has a vocabulary of bytes.
            strips_behind_special: sentencepiece
                && keys.text("general.architecture")? == Some("phi3"),
            tokens,
        })
    }

    /// Returns the elements of an array, none where the key is missing.
    fn elements<T>(
        &self,
        key: &str,
        expected: &str,
        element: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<T>, DecoderError> {
        let keys = self.metadata();
        let values = keys.array(key)?.unwrap_or_default();
        values
            .iter()
            .map(|value| {
                element(value).ok_or_else(|| {
                    keys.invalid(key, format!("an array with {}", kind(value)), expected)
                })
            })
            .collect()
    }
}
