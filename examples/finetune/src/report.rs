//! Errors for people: one line of a length that can be read, whatever libraries and files its words come from.

/// Characters of a line that are kept of one that is longer: its beginning and its end.
const HEAD: usize = 1000;
const TAIL: usize = 400;

/// The error and its causes on one line. A cause that the text before it repeats already is left out,
/// since some libraries write their causes into their own message.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = words(&cause.to_string());
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
    }
    shortened(line)
}

/// The text as one line that is safe to print: a space wherever it has a line's end, and control characters, which move
/// a terminal's cursor, colour it or turn the direction of writing, in the form of an escape (`\x1b`). A long text loses its
/// middle.
pub fn words(text: &str) -> String {
    let parts = text.split(breaks).map(str::trim);
    let mut line = String::new();
    for part in parts.filter(|part| !part.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        push(&mut line, part);
    }
    shortened(line)
}

/// Returns whether a line or its column ends here.
fn breaks(c: char) -> bool {
    matches!(
        c,
        '\n' | '\r' | '\t' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

fn push(line: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            line.push_str(&format!("\\x{:02x}", c as u32));
        } else if is_invisible(c) {
            line.extend(c.escape_unicode());
        } else {
            line.push(c);
        }
    }
}

/// Returns whether a character only changes how others are shown: marks and overrides of direction, and joints of no width.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Returns the text without its middle if it is long, and says how much is left out.
fn shortened(text: String) -> String {
    // Bytes are no fewer than characters.
    if text.len() <= HEAD + TAIL {
        return text;
    }
    let count = text.chars().count();
    if count <= HEAD + TAIL {
        return text;
    }
    let head: String = text.chars().take(HEAD).collect();
    let tail: String = text.chars().skip(count - TAIL).collect();
    let left_out = count - HEAD - TAIL;
    format!("{head} [{left_out} characters left out] {tail}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn causes_follow_once_each_on_one_line() {
        let cause = std::io::Error::other("disk\nfull");
        let error = Err::<(), _>(cause)
            .context("save: disk full")
            .context("step 3")
            .unwrap_err();
        assert_eq!(one_line(&error), "step 3: save: disk full");
    }

    #[test]
    fn a_line_has_no_control_characters() {
        let text = "tensor `\u{1b}[31mred\u{7}\u{9b}2J` of\r\n   \u{202e}file\u{0}\n";
        assert_eq!(
            words(text),
            r"tensor `\x1b[31mred\x07\x9b2J` of \u{202e}file\x00"
        );
        // Spaces may be those of a name.
        assert_eq!(words("two  spaces.gguf: é"), "two  spaces.gguf: é");
    }

    #[test]
    fn a_long_line_keeps_its_ends() {
        let name = "ä".repeat(1 << 20);
        let line = one_line(&anyhow::anyhow!("key `{name}` is not known; leave it out"));
        assert!(line.chars().count() < 1500, "{}", line.len());
        assert!(line.starts_with("key `ä") && line.ends_with("leave it out"));
        assert!(line.contains("characters left out"));
    }
}
