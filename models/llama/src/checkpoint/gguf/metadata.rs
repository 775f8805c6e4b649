//! Typed access to GGUF metadata.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;

use super::GgufFile;
use crate::error::DecoderError;

/// The metadata of one file, with errors that name file and key.
#[derive(Clone, Copy)]
pub(super) struct Metadata<'a> {
    path: &'a Path,
    values: &'a HashMap<String, Value>,
}

impl<'a> Metadata<'a> {
    pub(super) fn new(path: &'a Path, values: &'a HashMap<String, Value>) -> Self {
        Self { path, values }
    }

    pub(super) fn missing(&self, key: &str) -> DecoderError {
        DecoderError::MissingKey {
            path: self.path.to_path_buf(),
            key: key.into(),
        }
    }

    pub(super) fn invalid(&self, key: &str, found: impl ToString, expected: &str) -> DecoderError {
        DecoderError::InvalidValue {
            path: self.path.to_path_buf(),
            key: key.into(),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    pub(super) fn unsupported(
        &self,
        what: &'static str,
        found: &str,
        expected: &str,
    ) -> DecoderError {
        DecoderError::Unsupported {
            path: self.path.to_path_buf(),
            what,
            found: found.into(),
            expected: expected.into(),
        }
    }

    /// Returns what is under the keys that begin with `prefix`, with their whole names.
    pub(super) fn under(&self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let values = self.values.iter();
        values
            .map(|(key, value)| (key.as_str(), value))
            .filter(move |(key, _)| key.starts_with(prefix))
    }

    pub(super) fn integer(&self, key: &str) -> Result<Option<usize>, DecoderError> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        as_integer(value)
            .or_else(|| match value {
                // One number a layer; this crate builds layers of one shape.
                Value::Array(values) => {
                    let first = as_integer(values.first()?)?;
                    values
                        .iter()
                        .all(|value| as_integer(value) == Some(first))
                        .then_some(first)
                }
                _ => None,
            })
            .map(Some)
            .ok_or_else(|| {
                self.invalid(key, kind(value), "a whole number, the same for all layers")
            })
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, DecoderError> {
        match self.values.get(key) {
            None => Ok(None),
            // The shortest decimal of the f32: 1e-5 was meant, not 9.999999747378752e-6. Both
            // round to the same f32, and a config.json written from it reads as one would write it.
            Some(Value::F32(value)) => Ok(value.to_string().parse().ok()),
            Some(Value::F64(value)) => Ok(Some(*value)),
            Some(value) => Err(self.invalid(key, kind(value), "a number")),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, DecoderError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(self.invalid(key, kind(value), "a string")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, DecoderError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(value) => Err(self.invalid(key, kind(value), "true or false")),
        }
    }

    pub(super) fn token(&self, key: &str) -> Result<Option<u32>, DecoderError> {
        self.integer(key)?
            .map(|id| u32::try_from(id).map_err(|_| self.invalid(key, id, "a token id")))
            .transpose()
    }

    pub(super) fn array(&self, key: &str) -> Result<Option<&'a [Value]>, DecoderError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(value) => Err(self.invalid(key, kind(value), "an array")),
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, DecoderError> {
        let Some(values) = self.array(key)? else {
            return Ok(None);
        };
        let texts = values.iter().map(|value| match value {
            Value::String(text) => Ok(text.as_str()),
            value => Err(self.invalid(
                key,
                format!("an array with {}", kind(value)),
                "an array of strings",
            )),
        });
        texts.collect::<Result<_, _>>().map(Some)
    }
}

pub(super) fn as_integer(value: &Value) -> Option<usize> {
    match value {
        Value::U8(v) => Some(usize::from(*v)),
        Value::U16(v) => Some(usize::from(*v)),
        Value::U32(v) => usize::try_from(*v).ok(),
        Value::U64(v) => usize::try_from(*v).ok(),
        Value::I8(v) => usize::try_from(*v).ok(),
        Value::I16(v) => usize::try_from(*v).ok(),
        Value::I32(v) => usize::try_from(*v).ok(),
        Value::I64(v) => usize::try_from(*v).ok(),
        _ => None,
    }
}

/// Returns a value in a few words, however long it is.
pub(super) fn kind(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("an array of {} elements", values.len()),
        Value::String(text) => format!("the string {:.60?}", text),
        value => format!("{value:?}"),
    }
}

impl GgufFile {
    /// Returns end of text, and end of turn and of message where the file has one of its own.
    pub(super) fn end_tokens(&self) -> Result<Vec<u32>, DecoderError> {
        let keys = self.metadata();
        let turn_end = match keys.token("tokenizer.ggml.eot_token_id")? {
            None => self.turn_end(),
            named => named,
        };
        let ends = [
            keys.token("tokenizer.ggml.eos_token_id")?,
            turn_end,
            keys.token("tokenizer.ggml.eom_token_id")?,
        ];
        let mut tokens: Vec<u32> = Vec::new();
        for token in ends.into_iter().flatten() {
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        Ok(tokens)
    }
}
