use std::fmt::Display;
use std::ops::RangeInclusive;

use axum::http::StatusCode;
use serde_json::{Map, Value};

use crate::serve::error::ApiError;

/// The parameters of a request, or of an object in it, which are taken out by their names. What is left at the end is not known, and
/// refused: nothing that a client asks for is passed over. `null` stands for nothing.
#[derive(Debug)]
pub struct Fields {
    fields: Map<String, Value>,
    /// What the names begin with in an error.
    within: String,
}

impl Fields {
    /// Reads a request.
    ///
    /// # Errors
    /// It is no JSON, or no object.
    pub fn of_body(body: &[u8]) -> Result<Self, ApiError> {
        let bad = |message: String| ApiError::new(StatusCode::BAD_REQUEST, message);
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self {
                fields,
                within: String::new(),
            }),
            Ok(other) => Err(bad(format!(
                "the request is {}, not an object of JSON",
                kind(&other)
            ))),
            Err(error) => Err(bad(format!("the request is no JSON: {error}"))),
        }
    }

    /// Reads an object under `name`.
    ///
    /// # Errors
    /// It is none.
    pub fn of_value(name: &str, value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(fields) => Ok(Self {
                fields,
                within: format!("{name}."),
            }),
            other => Err(expected(name, "an object", &other)),
        }
    }

    /// Returns the name of a parameter in errors.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.within)
    }

    /// Takes out what is under a name.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        let value = self.fields.remove(name);
        value.filter(|value| !value.is_null())
    }

    /// Takes out a switch, which is off by default.
    ///
    /// # Errors
    /// It is neither true nor false.
    pub fn flag(&mut self, name: &str) -> Result<bool, ApiError> {
        self.of_kind(name, "true or false", |value| value.as_bool())
            .map(Option::unwrap_or_default)
    }

    /// Takes out a text.
    ///
    /// # Errors
    /// It is none.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        self.of_kind(name, "a string", |value| Some(value.as_str()?.to_owned()))
    }

    /// Takes out a whole number of at least 1.
    ///
    /// # Errors
    /// It is none, or larger than `most`.
    pub fn count(&mut self, name: &str, most: usize) -> Result<Option<usize>, ApiError> {
        let within = |value: &Value| {
            let number = usize::try_from(value.as_u64()?).ok()?;
            (1..=most).contains(&number).then_some(number)
        };
        let what = match most {
            usize::MAX => "a whole number of at least 1".to_owned(),
            most => format!("a whole number from 1 to {most}"),
        };
        self.of_kind(name, what, within)
    }

    /// Takes out a number.
    ///
    /// # Errors
    /// It is none, or not in `range`.
    pub fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<f32>,
    ) -> Result<Option<f32>, ApiError> {
        let what = match *range.start() {
            start if start == f32::MIN_POSITIVE => {
                format!("a number above 0, at most {}", range.end())
            }
            start => format!("a number from {start} to {}", range.end()),
        };
        self.of_kind(name, what, |value| {
            let number = value.as_f64()? as f32;
            range.contains(&number).then_some(number)
        })
    }

    /// Takes out a parameter that is not served, unless it has a value that asks for nothing.
    ///
    /// # Errors
    /// It asks for something.
    pub fn not_served(
        &mut self,
        name: &str,
        asks_for_nothing: impl Fn(&Value) -> bool,
    ) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !asks_for_nothing(&value) => Err(ApiError::of(
                &self.name(name),
                "is not served; leave it out",
            )),
            _ => Ok(()),
        }
    }

    /// Takes out what is under a name, as `read` has it.
    ///
    /// # Errors
    /// `read` has nothing.
    fn of_kind<T>(
        &mut self,
        name: &str,
        what: impl Display,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match read(&value) {
                Some(read) => Ok(Some(read)),
                None => Err(expected(&self.name(name), what, &value)),
            },
        }
    }

    /// Refuses what is left.
    ///
    /// # Errors
    /// There is something.
    pub fn finish(self) -> Result<(), ApiError> {
        let mut left = self.fields.iter().filter(|(_, value)| !value.is_null());
        match left.next() {
            Some((name, _)) => Err(ApiError::of(
                &self.name(name),
                "is not known to this server; leave it out",
            )),
            None => Ok(()),
        }
    }
}

/// Returns the error of a value of another kind.
pub fn expected(name: &str, what: impl Display, found: &Value) -> ApiError {
    ApiError::of(name, format!("must be {what}, not {}", kind(found)))
}

/// Returns what a value is, with the value where it is short.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) if text.len() <= 40 => format!("{text:?}"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
