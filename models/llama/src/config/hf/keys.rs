//! Typed access to the keys of a config.json.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;

use burn_fused::Activation;
use serde_json::{Map, Value};

use super::Defaults;
use crate::error::DecoderError;

/// Typed access to one JSON object, with errors that name file and key. `null` counts as absent but for
/// [`states`](Keys::states).
///
/// It remembers which keys it was asked for, so that [`judge_the_rest`](Keys::judge_the_rest) can say what those mean that
/// nobody understood.
pub(crate) struct Keys<'a> {
    object: &'a Map<String, Value>,
    path: &'a Path,
    /// Names of the objects around this one, each with a dot behind it.
    prefix: String,
    asked: RefCell<BTreeSet<String>>,
    warnings: Rc<RefCell<Vec<String>>>,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(object: &'a Map<String, Value>, path: &'a Path) -> Self {
        Self {
            object,
            path,
            prefix: String::new(),
            asked: RefCell::default(),
            warnings: Rc::default(),
        }
    }

    /// Returns the keys of `object`, whose name is `key`; their warnings join those of this object.
    pub(crate) fn inside(&self, key: &str, object: &'a Map<String, Value>) -> Self {
        Self {
            object,
            path: self.path,
            prefix: format!("{}{key}.", self.prefix),
            asked: RefCell::default(),
            warnings: Rc::clone(&self.warnings),
        }
    }

    /// Returns the keys of the object under `key`.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>, DecoderError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(self.inside(key, object))),
            Some(other) => Err(self.invalid(key, other, "an object")),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.object.is_empty()
    }

    /// Returns a key as messages name it.
    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Returns whether the key is there, be it with `null`.
    pub(crate) fn states(&self, key: &str) -> bool {
        self.asked.borrow_mut().insert(key.to_owned());
        self.object.contains_key(key)
    }

    /// Returns the keys that nobody asked for, with their values.
    pub(super) fn unread(&self) -> Vec<(&'a str, &'a Value)> {
        let asked = self.asked.borrow();
        let all = self.object.iter().map(|(key, value)| (key.as_str(), value));
        all.filter(|(key, _)| !asked.contains(*key)).collect()
    }

    /// Keeps something for the user to hear of `key`.
    pub(crate) fn warn(&self, key: &str, what: &str) {
        let text = format!("{}: `{}` {what}", self.path.display(), self.name(key));
        self.warnings.borrow_mut().push(text);
    }

    /// Returns what the user should hear, and forgets it.
    pub(super) fn take_warnings(&self) -> Vec<String> {
        self.warnings.take()
    }

    pub(crate) fn missing(&self, key: &str) -> DecoderError {
        DecoderError::MissingKey {
            path: self.path.to_path_buf(),
            key: self.name(key),
        }
    }

    /// Returns the error for an object of `kind` that lacks a number.
    pub(super) fn incomplete(&self, kind: &str, key: &str) -> DecoderError {
        DecoderError::InvalidValue {
            path: self.path.to_path_buf(),
            key: self.prefix.trim_end_matches('.').into(),
            found: format!("{kind} without `{key}`"),
            expected: "a number there".into(),
        }
    }

    pub(crate) fn invalid(&self, key: &str, found: &Value, expected: &str) -> DecoderError {
        DecoderError::InvalidValue {
            path: self.path.to_path_buf(),
            key: self.name(key),
            found: found.to_string(),
            expected: expected.into(),
        }
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

    /// Returns the error for a setting that the model would need and that is not built.
    pub(super) fn unsupported_setting(&self, key: &str, value: &Value) -> DecoderError {
        let found = format!("{}: {value}", self.name(key));
        self.unsupported(
            "setting",
            &found,
            "it would change what this kind of model computes",
        )
    }

    /// Returns what `read` makes of the value of a key, `expected` in the words of the error where it makes nothing of it.
    fn optional<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, DecoderError> {
        self.get(key)
            .map(|value| read(value).ok_or_else(|| self.invalid(key, value, expected)))
            .transpose()
    }

    pub(crate) fn optional_size(&self, key: &str) -> Result<Option<usize>, DecoderError> {
        self.optional(key, "a whole number", |value| {
            value.as_u64().and_then(|size| usize::try_from(size).ok())
        })
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize, DecoderError> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key))
    }

    /// Reads a size for which `null` says that there is none, and whose absence means `absent`.
    pub(crate) fn size_or_none(
        &self,
        key: &str,
        absent: Option<usize>,
    ) -> Result<Option<usize>, DecoderError> {
        if self.states(key) {
            self.optional_size(key)
        } else {
            Ok(absent)
        }
    }

    pub(crate) fn optional_number(&self, key: &str) -> Result<Option<f64>, DecoderError> {
        self.optional(key, "a number", Value::as_f64)
    }

    pub(crate) fn number(&self, key: &str) -> Result<f64, DecoderError> {
        self.optional_number(key)?.ok_or_else(|| self.missing(key))
    }

    /// Reads a number for which `null` says that there is none, and whose absence means `absent`.
    pub(crate) fn number_or_none(
        &self,
        key: &str,
        absent: Option<f64>,
    ) -> Result<Option<f64>, DecoderError> {
        if self.states(key) {
            self.optional_number(key)
        } else {
            Ok(absent)
        }
    }

    pub(crate) fn numbers(&self, key: &str) -> Result<Vec<f64>, DecoderError> {
        let value = self.get(key).ok_or_else(|| self.missing(key))?;
        let numbers = value.as_array().map(|list| list.iter().map(Value::as_f64));
        numbers
            .and_then(Iterator::collect)
            .ok_or_else(|| self.invalid(key, value, "a list of numbers"))
    }

    pub(crate) fn optional_flag(&self, key: &str) -> Result<Option<bool>, DecoderError> {
        self.optional(key, "true or false", Value::as_bool)
    }

    pub(crate) fn flag(&self, key: &str) -> Result<bool, DecoderError> {
        Ok(self.optional_flag(key)?.unwrap_or(false))
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

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, DecoderError> {
        self.optional(key, "a string", Value::as_str)
    }

    /// Reads the name of an activation in a family of these defaults.
    pub(crate) fn activation(
        &self,
        key: &str,
        defaults: &Defaults,
    ) -> Result<Option<Activation>, DecoderError> {
        match self.text(key)? {
            Some("gelu") if defaults.gelu.is_some() => Ok(defaults.gelu),
            None => Ok(None),
            Some("silu" | "swish") => Ok(Some(Activation::Silu)),
            Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Some(Activation::GeluTanh)),
            Some(other) => {
                Err(self.unsupported("activation", other, "known are silu and gelu_pytorch_tanh"))
            }
        }
    }
}
