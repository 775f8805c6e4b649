//! The `{% generation %}` marks, by which a template says itself which part is the assistant's.

use std::ops::Range;

/// Noncharacters of Unicode, which no text contains: they stand for the marks in a marked rendering.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

/// Returns a template that minijinja reads in place of `source`: each mark becomes an empty block with the same
/// whitespace control. With `written` the block writes a character that [`spans`] finds.
pub(super) fn replaced(source: &str, written: bool) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((start, end)) = next_tag(rest) {
        let tag = rest[start + 2..end - 2].trim_matches(['-', '+', ' ', '\t', '\n', '\r']);
        let mark = match tag {
            "generation" => Some(OPEN),
            "endgeneration" => Some(CLOSE),
            _ => None,
        };
        let Some(mark) = mark else {
            text.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        };
        text.push_str(&rest[..start]);
        let control = |sign: &str| if sign == "-" { "-" } else { "" };
        let open = control(&rest[start + 2..start + 3]);
        let close = control(&rest[end - 3..end - 2]);
        let body = if written {
            format!("{{{{ '{mark}' }}}}")
        } else {
            String::new()
        };
        text.push_str(&format!("{{%{open} if true %}}{body}{{% endif {close}%}}"));
        rest = &rest[end..];
    }
    text.push_str(rest);
    text
}

/// Returns whether a template has such marks.
pub(super) fn has_marks(source: &str) -> bool {
    replaced(source, false) != source
}

/// Returns the byte ranges of `text` that the marks of its marked rendering enclose; `None` when the marks changed the
/// text, as in a template that trims what it has written.
pub(super) fn spans(marked: &str, text: &str) -> Option<Vec<Range<usize>>> {
    let mut plain = String::with_capacity(marked.len());
    let (mut spans, mut open) = (Vec::new(), None);
    for letter in marked.chars() {
        match letter {
            OPEN => open = Some(plain.len()),
            CLOSE => spans.push(open.take()?..plain.len()),
            _ => plain.push(letter),
        }
    }
    (open.is_none() && plain == text).then_some(spans)
}

/// Returns where the next block tag begins and ends.
fn next_tag(text: &str) -> Option<(usize, usize)> {
    let start = text.find("{%")?;
    let end = text[start + 2..].find("%}")? + start + 4;
    // `{%%}` holds not even a sign of whitespace control.
    (end - start > 4).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_keep_their_whitespace_control() {
        assert_eq!(
            replaced(
                "a {%- generation %}b{% endgeneration -%} c{% if x %}",
                false
            ),
            "a {%- if true %}{% endif %}b{% if true %}{% endif -%} c{% if x %}"
        );
        assert!(has_marks("{% generation %}") && !has_marks("{% set generation = 1 %}"));
    }

    #[test]
    fn a_text_that_the_marks_changed_has_no_spans() {
        let marked = format!("ab{OPEN}cd{CLOSE}{OPEN}e{CLOSE}");
        assert_eq!(spans(&marked, "abcde").unwrap(), [2..4, 4..5]);
        assert!(spans(&marked, "abcd").is_none());
        assert!(spans(&format!("ab{OPEN}"), "ab").is_none());
    }
}
