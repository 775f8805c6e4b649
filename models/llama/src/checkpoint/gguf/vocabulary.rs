//! The tokenizer's parts of the metadata.

use candle_core::quantized::gguf_file::Value;
use tokenizers::Tokenizer;

use super::GgufFile;
use super::metadata::as_integer;
use crate::checkpoint::special::{SpecialToken, SpecialTokens};
use crate::error::DecoderError;
use crate::tokenizer::Vocabulary;

impl GgufFile {
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer, DecoderError> {
        self.vocabulary()?
            .build()
            .map_err(|reason| DecoderError::Tokenizer {
                path: self.path().to_path_buf(),
                reason,
            })
    }

    pub(crate) fn chat_template(&self) -> Option<String> {
        match self.content.metadata.get("tokenizer.chat_template") {
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

    fn vocabulary(&self) -> Result<Vocabulary<'_>, DecoderError> {
        let keys = self.metadata();
        let need = |key: &str| keys.missing(key);
        let kinds = keys.array("tokenizer.ggml.token_type")?.unwrap_or_default();
        let scores = keys.array("tokenizer.ggml.scores")?.unwrap_or_default();
        let score = |value: &Value| match value {
            Value::F32(score) => Some(*score),
            _ => None,
        };
        Ok(Vocabulary {
            model: keys
                .text("tokenizer.ggml.model")?
                .ok_or_else(|| need("tokenizer.ggml.model"))?,
            pre: keys.text("tokenizer.ggml.pre")?,
            tokens: keys
                .texts("tokenizer.ggml.tokens")?
                .ok_or_else(|| need("tokenizer.ggml.tokens"))?,
            kinds: kinds
                .iter()
                .map(as_integer)
                .collect::<Option<_>>()
                .ok_or_else(|| {
                    keys.invalid(
                        "tokenizer.ggml.token_type",
                        "an array of another type",
                        "an array of integers",
                    )
                })?,
            scores: scores
                .iter()
                .map(score)
                .collect::<Option<_>>()
                .ok_or_else(|| {
                    keys.invalid(
                        "tokenizer.ggml.scores",
                        "an array of another type",
                        "an array of f32",
                    )
                })?,
            merges: keys.texts("tokenizer.ggml.merges")?,
            bos: keys.token("tokenizer.ggml.bos_token_id")?,
            eos: keys.token("tokenizer.ggml.eos_token_id")?,
            unk: keys.token("tokenizer.ggml.unknown_token_id")?,
            add_bos: keys.flag("tokenizer.ggml.add_bos_token")?,
            add_eos: keys.flag("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: keys.flag("tokenizer.ggml.add_space_prefix")?,
        })
    }
}
