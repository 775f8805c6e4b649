//! Python's `'…' % value`, which minijinja has as a filter alone.

use super::tags::{self, string, word};
use minijinja::value::{Tuple, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use std::iter;

/// The filter that takes the operator's place.
const FILTER: &str = "percent";

/// Adds the filter.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.add_filter(FILTER, percent);
}

/// Implements `format % value`: a tuple fills several places, a mapping those it is named in.
fn percent(state: &mut State<'_, '_>, format: Value, value: Value) -> Result<Value, Error> {
    let is_mapping = value.kind() == ValueKind::Map;
    let values: Vec<Value> = match value.downcast_object_ref::<Tuple>() {
        Some(_) => value.try_iter()?.collect(),
        None => vec![value],
    };
    if !is_mapping && values.len() > places(format.as_str().unwrap_or_default()) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "not all arguments converted during string formatting",
        ));
    }
    let arguments: Vec<Value> = iter::once(format).chain(values).collect();
    state.apply_filter("format", &arguments)
}

/// Returns how many values a format takes: one for each `%` that is not doubled, and one for each width given as `*`.
fn places(format: &str) -> usize {
    let mut places = 0;
    let mut rest = format;
    while let Some((_, behind)) = rest.split_once('%') {
        if let Some(behind) = behind.strip_prefix('%') {
            rest = behind;
            continue;
        }
        let flags = behind.trim_start_matches(['#', '0', '-', ' ', '+']);
        let kind = flags.find(|letter: char| letter.is_alphabetic());
        places += 1 + flags[..kind.unwrap_or(0)].matches('*').count();
        rest = behind;
    }
    places
}

/// Returns a template in which the filter stands where the operator follows a string. What follows the operator is taken
/// as Jinja takes it; where that is more than names, literals, calls and filters, it stays as it is.
pub(super) fn replaced(source: &str) -> String {
    tags::rewritten(source, in_tag)
}

/// Copies a tag up to its `close`, and returns what follows.
fn in_tag<'s>(mut rest: &'s str, close: &'static str, text: &mut String) -> &'s str {
    let mut depth = 0usize;
    // Whether an operator stands before, which binds as `%` does and so takes the string first.
    let mut is_operand = false;
    while let Some(letter) = rest.chars().next() {
        if depth == 0 && rest.starts_with(close) {
            return rest;
        }
        let len = match letter {
            '\'' | '"' => {
                let Some(len) = string(rest) else { break };
                text.push_str(&rest[..len]);
                rest = &rest[len..];
                if !is_operand && let Some((operand, behind)) = operand_of(rest, close) {
                    text.push_str(&format!(" | {FILTER}({operand})"));
                    rest = behind;
                }
                is_operand = false;
                continue;
            }
            '(' | '[' | '{' => {
                depth += 1;
                1
            }
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                1
            }
            letter => letter.len_utf8(),
        };
        if !letter.is_whitespace() {
            is_operand = matches!(letter, '*' | '/' | '%');
        }
        text.push_str(&rest[..len]);
        rest = &rest[len..];
    }
    text.push_str(rest);
    ""
}

/// Returns the operand of the `%` that `rest` begins with, and what follows it.
fn operand_of<'s>(rest: &'s str, close: &str) -> Option<(&'s str, &'s str)> {
    let behind = rest.trim_start().strip_prefix('%')?;
    if close == "%}" && behind.starts_with('}') {
        return None;
    }
    let operand = behind.trim_start();
    let unsigned = operand.strip_prefix(['-', '+']).unwrap_or(operand);
    let mut end = operand.len() - unsigned.len();
    end += match unsigned.chars().next()? {
        '\'' | '"' => string(unsigned)?,
        '(' | '[' | '{' => bracket(unsigned)?,
        letter if letter.is_alphanumeric() || letter == '_' => word(unsigned),
        _ => return None,
    };
    loop {
        let more = &operand[end..];
        let next = more.trim_start();
        let blanks = more.len() - next.len();
        let len = match next.chars().next() {
            Some('(' | '[') => bracket(next)?,
            Some('.') => 1 + word(&next[1..]),
            Some('|') => {
                let name = next[1..].trim_start();
                let len = next.len() - name.len() + word(name);
                if word(name) == 0 {
                    return None;
                }
                len
            }
            _ if next.starts_with("**") => return None,
            _ if word(next) == 2 && next.starts_with("is") => return None,
            _ => return Some((&operand[..end], &operand[end..])),
        };
        end += blanks + len;
    }
}

/// Returns the length of what stands in the brackets that `text` begins with, and of themselves.
fn bracket(text: &str) -> Option<usize> {
    let (mut depth, mut at) = (0usize, 0);
    while let Some(letter) = text[at..].chars().next() {
        match letter {
            '\'' | '"' => {
                at += string(&text[at..])?;
                continue;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        at += letter.len_utf8();
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_places() {
        for (format, expected) in [("a", 0), ("%%", 0), ("%s%%%-*.*f|%5d", 5), ("%", 1)] {
            assert_eq!(places(format), expected, "{format}");
        }
    }

    #[test]
    fn only_the_operator_behind_a_string_is_replaced() {
        for (source, expected) in [
            (
                "{{ '%s' % x.y[1]|f(2) ~ 'é' }}",
                "{{ '%s' | percent(x.y[1]|f(2)) ~ 'é' }}",
            ),
            (
                "{%- set a = \"%d%%\" %(b, ')') -%}",
                "{%- set a = \"%d%%\" | percent((b, ')')) -%}",
            ),
            (
                "{{ f('%s'%-1, {'a': 2}) }}",
                "{{ f('%s' | percent(-1), {'a': 2}) }}",
            ),
        ] {
            assert_eq!(replaced(source), expected);
        }
        for same in [
            "'%s' % x {# '%s' % x #} { % '%s' % x %}",
            "{% if a == 'b' %}'c' % d{% endif %}",
            "{{ a % 2 }}{{ 2 * '%s' % x }}{{ '%s' % x is odd }}{{ '%s' % x ** 2 }}",
            "{{ '%s' % }}{{ '%s' % (",
            "{{ 'open",
            "{",
        ] {
            assert_eq!(replaced(same), same);
        }
    }
}
