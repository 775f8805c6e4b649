//! What templates expect of Python's Jinja and minijinja does otherwise or not at all.

use super::weighed;
use minijinja::value::{Kwargs, Rest, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::{globals, pycompat};
use std::sync::Arc;

/// Adds it to an environment.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(method);
    environment.add_function("joiner", globals::joiner);
    environment.add_function("cycler", |items: Rest<Value>| {
        globals::cycler(items.to_vec())
    });
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("wordcount", word_count);
    environment.add_filter("truncate", truncate);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", is_iterable);
}

/// Python's methods of strings that `pycompat` lacks, then those it has.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    for value in [value].into_iter().chain(args) {
        weighed::weigh(state, value)?;
    }
    let known = value.as_str().map(|text| string_method(text, name, args));
    match known {
        Some(Ok(Some(result))) => Ok(result),
        Some(Err(error)) => Err(error),
        Some(Ok(None)) | None => pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn string_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "index" | "rindex" => {
            let (part,): (&str,) = from_args(args)?;
            let place = match name {
                "index" => text.find(part),
                _ => text.rfind(part),
            };
            let place = place
                .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
            Value::from(text[..place].chars().count())
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swapped = text.chars().flat_map(|letter| {
                let (upper, lower) = (letter.to_uppercase(), letter.to_lowercase());
                let letters: Vec<char> = match letter.is_uppercase() {
                    true => lower.collect(),
                    false => upper.collect(),
                };
                letters
            });
            Value::from(swapped.collect::<String>())
        }
        "casefold" => {
            let () = from_args(args)?;
            Value::from(text.to_lowercase())
        }
        "rsplit" => rsplit(text, args)?,
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let parts = match name {
                "partition" => text
                    .split_once(separator)
                    .map(|(head, tail)| [head, separator, tail]),
                _ => text
                    .rsplit_once(separator)
                    .map(|(head, tail)| [head, separator, tail]),
            };
            let whole = if name == "partition" {
                [text, "", ""]
            } else {
                ["", "", text]
            };
            Value::from_iter(parts.unwrap_or(whole))
        }
        "format" => {
            let widths = widths(text);
            if widths > WIDEST {
                return Err(too_wide());
            }
            return Ok(None);
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let (sign, digits) = match text.strip_prefix(['-', '+']) {
                Some(digits) => text.split_at(text.len() - digits.len()),
                None => ("", text),
            };
            let zeros = padding(text, width)?;
            Value::from(format!("{sign}{}{digits}", "0".repeat(zeros)))
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (usize, Option<&str>) = from_args(args)?;
            let (fill, room) = (fill.unwrap_or(" "), padding(text, width)?);
            // Python puts the odd blank of `center` to the left where the width is odd.
            let left = match name {
                "ljust" => 0,
                "rjust" => room,
                _ => room / 2 + (room & width & 1),
            };
            Value::from(format!(
                "{}{text}{}",
                fill.repeat(left),
                fill.repeat(room - left)
            ))
        }
        _ => return Ok(None),
    }))
}

/// The most letters that a text is filled up to.
const WIDEST: usize = 1 << 16;

fn too_wide() -> Error {
    let reason = format!("a text is filled up to {WIDEST} letters at most");
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// Returns how many letters `text` is short of `width`.
fn padding(text: &str, width: usize) -> Result<usize, Error> {
    if width > WIDEST {
        return Err(too_wide());
    }
    Ok(width.saturating_sub(text.chars().count()))
}

/// Returns the sum of the numbers behind the colons of a format's fields: widths and precisions.
fn widths(format: &str) -> usize {
    let fields = format.split('{').skip(1);
    let fields = fields.filter_map(|field| field.split('}').next());
    let specs = fields.filter_map(|field| field.split_once(':').map(|(_, spec)| spec));
    let numbers = specs.flat_map(|spec| spec.split(|letter: char| !letter.is_ascii_digit()));
    let numbers = numbers.filter(|digits| !digits.is_empty());
    numbers.fold(0usize, |sum, digits| {
        sum.saturating_add(digits.parse().unwrap_or(usize::MAX))
    })
}

/// Implements `text.rsplit(separator, maxsplit)`.
fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (args, named): (&[Value], Kwargs) = from_args(args)?;
    let argument = |place: usize, name: &str| match args.get(place) {
        Some(value) => Ok(Some(value.clone())),
        None => named.get::<Option<Value>>(name),
    };
    let separator = argument(0, "sep")?.filter(|value| !value.is_none());
    let most = argument(1, "maxsplit")?
        .and_then(|most| most.as_i64())
        .unwrap_or(-1);
    named.assert_all_used()?;
    let pieces = usize::try_from(most).map_or(usize::MAX, |most| most.saturating_add(1));
    let mut parts: Vec<&str> = match separator.as_ref().map(|value| value.as_str()) {
        Some(Some("")) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
        }
        Some(Some(separator)) => text.rsplitn(pieces, separator).collect(),
        Some(None) => {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "a separator is a string",
            ));
        }
        None => {
            let mut rest = text.trim_end();
            let mut parts = Vec::new();
            while !rest.is_empty() && parts.len() + 1 < pieces {
                let (head, tail) = rest.rsplit_once(char::is_whitespace).unwrap_or(("", rest));
                parts.push(tail);
                rest = head.trim_end();
            }
            if !rest.is_empty() {
                parts.push(rest);
            }
            parts
        }
    };
    parts.reverse();
    Ok(Value::from_iter(parts))
}

/// Implements `value | default(other, boolean)`, whose second argument may be named.
fn default(args: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let argument = |place: usize, name: &str| match args.get(place) {
        Some(value) => Ok(Some(value.clone())),
        None => named.get::<Option<Value>>(name),
    };
    let value = argument(0, "value")?.unwrap_or(Value::UNDEFINED);
    let other = argument(1, "default_value")?.unwrap_or_else(|| Value::from(""));
    let boolean = argument(2, "boolean")?.is_some_and(|boolean| boolean.is_true());
    named.assert_all_used()?;
    let absent = value.is_undefined() || (boolean && !value.is_true());
    Ok(if absent { other } else { value })
}

/// Implements `text | wordcount`: runs of letters, digits and underscores.
fn word_count(text: Arc<str>) -> usize {
    let words = text.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
    words.filter(|word| !word.is_empty()).count()
}

/// Implements `text | truncate(length, killwords, end, leeway)`.
fn truncate(args: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let argument = |place: usize, name: &str| match args.get(place) {
        Some(value) => Ok(Some(value.clone())),
        None => named.get::<Option<Value>>(name),
    };
    let number =
        |value: Option<Value>, default| value.and_then(|n| n.as_usize()).unwrap_or(default);
    let text = argument(0, "s")?
        .map(|text| text.to_string())
        .unwrap_or_default();
    let length = number(argument(1, "length")?, 255);
    let whole_words = !argument(2, "killwords")?.is_some_and(|kill| kill.is_true());
    let end = argument(3, "end")?.map_or_else(|| "...".to_owned(), |end| end.to_string());
    let leeway = number(argument(4, "leeway")?, 5);
    named.assert_all_used()?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(Value::from(text));
    }
    let kept = length.saturating_sub(end.chars().count());
    let mut head: String = text.chars().take(kept).collect();
    if whole_words && let Some((words, _)) = head.rsplit_once(' ') {
        head = words.to_owned();
    }
    Ok(Value::from(head + &end))
}

/// Implements `is sequence`: whatever has a length and items, a text and a mapping too.
fn is_sequence(value: &Value) -> bool {
    let kind = value.kind();
    matches!(kind, ValueKind::Seq | ValueKind::String | ValueKind::Map) || value.is_undefined()
}

/// Implements `is iterable`: none is not.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}
