//! The tags of a template's source, for what is rewritten in them before it is compiled.

/// Returns a template whose tags are rewritten: `rewrite` is given what follows a tag's opening, what closes the tag, and
/// the text so far; it appends the rewritten code and returns what follows. Comments and raw blocks stay.
pub(super) fn rewritten(
    source: &str,
    mut rewrite: impl for<'s> FnMut(&'s str, &'static str, &mut String) -> &'s str,
) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find('{') {
        let code = open + 2;
        let close = match rest.as_bytes().get(open + 1) {
            Some(b'{') => "}}",
            Some(b'%') if is_raw(&rest[code..]) => {
                let end = end_of_raw(&rest[code..]).map_or(rest.len(), |end| code + end);
                text.push_str(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            Some(b'%') => "%}",
            Some(b'#') => {
                let end = rest[open..].find("#}").map_or(rest.len(), |end| open + end);
                text.push_str(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            _ => {
                text.push_str(&rest[..=open]);
                rest = &rest[open + 1..];
                continue;
            }
        };
        text.push_str(&rest[..code]);
        rest = rewrite(&rest[code..], close, &mut text);
    }
    text.push_str(rest);
    text
}

/// Returns whether the block tag with this code opens a raw block.
fn is_raw(code: &str) -> bool {
    is_tag(code, "raw")
}

fn is_tag(code: &str, name: &str) -> bool {
    let behind = code.trim_start_matches(['-', '+']).trim_start();
    let behind = behind.strip_prefix(name).map(str::trim_start);
    behind.is_some_and(|behind| behind.trim_start_matches(['-', '+']).starts_with("%}"))
}

/// Returns where the code of the tag begins that ends a raw block.
fn end_of_raw(code: &str) -> Option<usize> {
    let tags = code.match_indices("{%").map(|(at, _)| at + 2);
    let mut ends = tags.filter(|at| is_tag(&code[*at..], "endraw"));
    ends.next()
}

/// Returns the length of the name or number that `text` begins with.
pub(super) fn word(text: &str) -> usize {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.find(|letter| !is_part(letter)).unwrap_or(text.len())
}

/// Returns the length of the string that `text` begins with.
pub(super) fn string(text: &str) -> Option<usize> {
    let quote = text.chars().next()?;
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            letter if letter == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_raw_blocks_stay() {
        let source = "a {{ b }} {# {{ c }} #} {%- raw -%} {{ d }} {% x %} {%- endraw %} { {% e %}";
        let mut seen = Vec::new();
        let same = rewritten(source, |code, close, text| {
            let end = code.find(close).unwrap();
            seen.push(code[..end].trim().to_owned());
            text.push_str(&code[..end]);
            &code[end..]
        });
        assert_eq!(same, source);
        assert_eq!(seen, ["b", "e"]);
        assert!(rewritten("{% raw %}{{ a", |code, _, _| code).ends_with("{{ a"));
    }
}
