//! Typed access to the keys of a config.json.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::DecoderError;

/// Typed access to one JSON object, with errors that name file and key. `null` counts as absent.
pub(crate) struct Keys<'a> {
    object: &'a Map<String, Value>,
    path: &'a Path,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(object: &'a Map<String, Value>, path: &'a Path) -> Self {
        Self { object, path }
    }

    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn missing(&self, key: &str) -> DecoderError {
        DecoderError::MissingKey {
            path: self.path.to_path_buf(),
            key: key.into(),
        }
    }

    pub(crate) fn invalid(&self, key: &str, found: &Value, expected: &str) -> DecoderError {
        DecoderError::InvalidValue {
            path: self.path.to_path_buf(),
            key: key.into(),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    pub(crate) fn optional_size(&self, key: &str) -> Result<Option<usize>, DecoderError> {
        self.get(key)
            .map(|value| {
                value
                    .as_u64()
                    .and_then(|size| usize::try_from(size).ok())
                    .ok_or_else(|| self.invalid(key, value, "a whole number"))
            })
            .transpose()
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize, DecoderError> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn optional_number(&self, key: &str) -> Result<Option<f64>, DecoderError> {
        self.get(key)
            .map(|value| {
                value
                    .as_f64()
                    .ok_or_else(|| self.invalid(key, value, "a number"))
            })
            .transpose()
    }

    pub(crate) fn number(&self, key: &str) -> Result<f64, DecoderError> {
        self.optional_number(key)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn flag(&self, key: &str) -> Result<bool, DecoderError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(self.invalid(key, value, "true or false")),
        }
    }

    pub(crate) fn tokens(&self, key: &str) -> Result<Vec<u32>, DecoderError> {
        let Some(value) = self.get(key) else {
            return Ok(Vec::new());
        };
        let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match value {
            Value::Array(values) => values.iter().map(one).collect(),
            value => one(value).map(|id| vec![id]),
        }
        .ok_or_else(|| self.invalid(key, value, "a token id or a list of them"))
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, DecoderError> {
        self.get(key)
            .map(|value| {
                value
                    .as_str()
                    .ok_or_else(|| self.invalid(key, value, "a string"))
            })
            .transpose()
    }

    pub(crate) fn unsupported(
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
}
