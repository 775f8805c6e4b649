//! What a template may cost: it comes with a model, from whoever made that.
//!
//! minijinja counts the work of a rendering and the bytes that it makes (its fuel), and how deep calls go. What it does not
//! see is bounded here: how long it compiles, how deep a value can be nested, and what `{{ }}` and `tojson` write of one.
//! What it costs to compare values is in `weighed`.

use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, escape_formatter};
use std::thread;
use tensor_files::catch_panic;

/// The longest template in bytes; those that come with models have some ten thousand.
pub const MOST_SOURCE: usize = 256 << 10;
/// The longest tag in bytes, without its strings: compiling one takes time that grows with the square of it, and stack.
const MOST_CODE: usize = 2048;
/// The fuel of a rendering: so many instructions, or [`BYTES_OF_WORK`] times as many bytes.
pub const MOST_WORK: u64 = 2_000_000;
/// The bytes that one fuel pays for, as minijinja counts.
pub const BYTES_OF_WORK: usize = 64;
/// Fuel that does not suffice to nest a value deeper than any stack can bear.
pub const LITTLE_WORK: u64 = 4096;
/// The stack for all that [`MOST_WORK`] can nest, and for [`MOST_SOURCE`]. A level takes 330 bytes to be written, 80 to be
/// freed, and 1.5 of fuel to be made.
const DEEP_STACK: usize = 512 << 20;
/// The most that is written of one value, in bytes.
pub const MOST_WRITTEN: usize = 8 << 20;
/// The bytes that an element of a list or a map stands for beside its text, so that to count them takes no time to speak of.
const ELEMENT: usize = 64;

/// Installs the limits of a rendering.
pub fn install(environment: &mut Environment<'static>) {
    environment.set_fuel(Some(LITTLE_WORK));
    // It indents by the depth of a value, and no chat template uses it.
    environment.remove_filter("pprint");
    environment.set_formatter(write_value);
}

/// Refuses a source that would take too long to compile.
///
/// # Errors
/// The reason.
pub fn check_source(source: &str) -> Result<(), String> {
    if source.len() > MOST_SOURCE {
        return Err(format!(
            "it has more than {MOST_SOURCE} bytes, which is the most a template may have"
        ));
    }
    match longest_tag(source) {
        longest if longest > MOST_CODE => Err(format!(
            "it has a tag of {longest} bytes without its strings, and {MOST_CODE} are the most a tag may have"
        )),
        _ => Ok(()),
    }
}

/// Runs `work` on a stack that the most nested value does not exceed.
///
/// # Errors
/// The reason why the system gives none.
pub fn on_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(DEEP_STACK);
        let running = thread
            .spawn_scoped(scope, || catch_panic(work))
            .map_err(|error| format!("it needs a stack of {DEEP_STACK} bytes: {error}"))?;
        let result = running.join().unwrap_or_else(|_| Err("a panic".to_owned()));
        result.map_err(|panic| format!("minijinja fails on it ({panic})"))
    })
}

/// Returns whether the fuel did not suffice.
pub fn is_out_of_fuel(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let error_of_jinja = error.downcast_ref::<Error>();
        if error_of_jinja.is_some_and(|error| error.kind() == ErrorKind::OutOfFuel) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Returns the error of a value that is too large to be written.
pub fn too_much() -> Error {
    let reason = format!("a value is written that has more than {MOST_WRITTEN} bytes");
    Error::new(ErrorKind::InvalidOperation, reason)
}

fn write_value(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    let is_list = matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
    );
    if is_list && weight(value, MOST_WRITTEN) > MOST_WRITTEN {
        return Err(too_much());
    }
    escape_formatter(out, state, value)
}

/// Returns the bytes that a value stands for when it is written or gone through, lists that it holds over and over each time
/// they are met; of more than `most` it does not tell how much more.
pub fn weight(value: &Value, most: usize) -> usize {
    let (mut open, mut count) = (vec![value.clone()], 0usize);
    while let Some(value) = open.pop() {
        count = count.saturating_add(ELEMENT + value.as_str().map_or(0, str::len));
        let is_map = value.kind() == ValueKind::Map;
        if is_map || matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
            for item in value.try_iter().into_iter().flatten() {
                if is_map {
                    open.extend(value.get_item(&item));
                }
                open.push(item);
                if count.saturating_add(ELEMENT * open.len()) > most {
                    return count.saturating_add(ELEMENT * open.len());
                }
            }
        }
        if count > most {
            return count;
        }
    }
    count
}

/// Returns the bytes of the longest tag, without its strings.
fn longest_tag(source: &str) -> usize {
    let bytes = source.as_bytes();
    let (mut longest, mut at) = (0, 0);
    while at + 1 < bytes.len() {
        at = match (bytes[at], bytes[at + 1]) {
            (b'{', b'#') => source[at..].find("#}").map_or(bytes.len(), |end| at + end),
            (b'{', b'{' | b'%') => {
                let (code, end) = tag(bytes, at + 2, bytes[at + 1] == b'{');
                longest = longest.max(code);
                end
            }
            _ => at + 1,
        };
    }
    longest
}

/// Returns the bytes outside of strings of the tag that begins at `start`, and where it ends.
fn tag(bytes: &[u8], start: usize, is_expression: bool) -> (usize, usize) {
    let (mut code, mut depth, mut quote) = (0, 0usize, None);
    let mut at = start;
    while at < bytes.len() {
        let next = bytes.get(at + 1);
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, byte @ (b'\'' | b'"')) => quote = Some(byte),
            (None, b'}') if is_expression && depth == 0 && next == Some(&b'}') => break,
            (None, b'%') if !is_expression && next == Some(&b'}') => break,
            (None, byte) => {
                code += 1;
                match byte {
                    b'{' => depth += 1,
                    b'}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
        }
        at += 1;
    }
    (code, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_text_do_not_make_a_tag_longer() {
        let long = "x".repeat(5000);
        for source in [
            format!("{long}{{{{ '{long}\\'' }}}}"),
            format!("{{# {long} #}}{{% set x = \"%}}{long}\" %}}{long}"),
            format!("{{{{ {{'a': {{'b': '{long}'}}}} }}}}{long}"),
        ] {
            assert!(longest_tag(&source) < 20, "{source}");
        }
        assert_eq!(longest_tag("{{ a + 'b' }}{%- if c -%}"), 8);
    }
}
