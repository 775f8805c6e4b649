//! `tojson` as Python's `json.dumps` writes it.

use super::limits;
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, ErrorKind};
use std::fmt::Write;

/// The deepest nesting that is written; data has none of it by accident.
const DEEPEST: usize = 200;

/// The arguments of `json.dumps` that transformers lets a template give.
struct Style {
    ensure_ascii: bool,
    indent: Option<String>,
    between_items: String,
    after_key: String,
    sort_keys: bool,
}

/// Implements `value | tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub(super) fn to_json(args: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let (value, places) = args
        .split_first()
        .ok_or_else(|| Error::new(ErrorKind::MissingArgument, "tojson needs a value"))?;
    let argument = |place: usize, name: &str| -> Result<Option<Value>, Error> {
        let value = match places.get(place) {
            Some(value) => Some(value.clone()),
            None => named.get::<Option<Value>>(name)?,
        };
        Ok(value.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let indent = argument(1, "indent")?.map(|indent| match indent.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(indent.as_usize().unwrap_or(0).min(64)),
    });
    let separators = argument(2, "separators")?;
    let separator = |place: usize, default: &str| match &separators {
        Some(pair) => Ok(pair.get_item_by_index(place)?.to_string()),
        None => Ok::<_, Error>(default.to_owned()),
    };
    let style = Style {
        ensure_ascii: is_true(argument(0, "ensure_ascii")?),
        between_items: separator(0, if indent.is_some() { "," } else { ", " })?,
        after_key: separator(1, ": ")?,
        indent,
        sort_keys: is_true(argument(3, "sort_keys")?),
    };
    named.assert_all_used()?;
    let mut text = String::new();
    style.value(value, 0, &mut text)?;
    Ok(Value::from_safe_string(text))
}

impl Style {
    fn value(&self, value: &Value, depth: usize, text: &mut String) -> Result<(), Error> {
        let refused = |what: String| Err(Error::new(ErrorKind::BadSerialization, what));
        if text.len() > limits::MOST_WRITTEN {
            return Err(limits::too_much());
        }
        if depth > DEEPEST {
            return refused(format!("tojson: nested deeper than {DEEPEST}"));
        }
        match value.kind() {
            ValueKind::None => text.push_str("null"),
            ValueKind::Bool | ValueKind::Number => text.push_str(&scalar(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), text),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.map(|item| (None, item)).collect();
                self.items(['[', ']'], items, depth, text)?;
            }
            ValueKind::Map => {
                let mut items = Vec::new();
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    items.push((Some(name(&key)), item));
                }
                if self.sort_keys {
                    items.sort_by(|one, other| one.0.cmp(&other.0));
                }
                self.items(['{', '}'], items, depth, text)?;
            }
            other => return refused(format!("tojson: {other} has no JSON")),
        }
        Ok(())
    }

    fn items(
        &self,
        [open, close]: [char; 2],
        items: Vec<(Option<String>, Value)>,
        depth: usize,
        text: &mut String,
    ) -> Result<(), Error> {
        text.push(open);
        let is_empty = items.is_empty();
        for (place, (key, value)) in items.into_iter().enumerate() {
            if place > 0 {
                text.push_str(&self.between_items);
            }
            self.line(depth + 1, text)?;
            if let Some(key) = key {
                self.string(&key, text);
                text.push_str(&self.after_key);
            }
            self.value(&value, depth + 1, text)?;
        }
        if !is_empty {
            self.line(depth, text)?;
        }
        text.push(close);
        Ok(())
    }

    fn line(&self, depth: usize, text: &mut String) -> Result<(), Error> {
        if let Some(indent) = &self.indent {
            if indent.len().saturating_mul(depth) > limits::MOST_WRITTEN {
                return Err(limits::too_much());
            }
            text.push('\n');
            text.push_str(&indent.repeat(depth));
        }
        Ok(())
    }

    fn string(&self, string: &str, text: &mut String) {
        text.push('"');
        for letter in string.chars() {
            match letter {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\u{8}' => text.push_str("\\b"),
                '\u{c}' => text.push_str("\\f"),
                letter if letter < ' ' || (self.ensure_ascii && letter > '~') => {
                    for unit in letter.encode_utf16(&mut [0; 2]) {
                        // Writing into a string does not fail.
                        let _ = write!(text, "\\u{unit:04x}");
                    }
                }
                letter => text.push(letter),
            }
        }
        text.push('"');
    }
}

/// Returns a key's name: Python writes numbers, booleans and none as their JSON.
fn name(key: &Value) -> String {
    match key.kind() {
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool | ValueKind::Number => scalar(key),
        _ => key.to_string(),
    }
}

/// Returns the JSON of a number or a boolean.
fn scalar(value: &Value) -> String {
    match value.kind() {
        ValueKind::Bool => value.is_true().to_string(),
        _ if value.is_integer() => value.to_string(),
        _ => f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float),
    }
}

/// Returns a float as Python's `repr` writes it: the shortest digits that give it back, with an exponent of two digits
/// or more below 1e-4 and from 1e16.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let size = value.abs();
    if size == 0.0 || (1e-4..1e16).contains(&size) {
        return format!("{value:?}");
    }
    let scientific = format!("{value:e}");
    match scientific.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, places) = exponent
                .strip_prefix('-')
                .map_or(('+', exponent), |places| ('-', places));
            format!("{digits}e{sign}{places:0>2}")
        }
        None => scientific,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_pythons() {
        for (value, expected) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e-7, "1e-07"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (1e20, "1e+20"),
            (1e15, "1000000000000000.0"),
            (1.25e300, "1.25e+300"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(float(value), expected);
        }
    }
}
