//! The text in words and signs.

use crate::syntax::SyntaxError;

/// A word or a sign, and its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// The line, counted from 1.
    pub line: usize,
    /// The text: an identifier with its dots, a number, a string in quotes or one sign.
    pub text: &'a str,
}

/// Cuts `text` up, without blanks and comments.
///
/// # Errors
/// A comment or a string without an end, or a sign that PTX does not have.
pub fn tokens(text: &str) -> Result<Vec<Token<'_>>, SyntaxError> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let without_end = |reason: &str| SyntaxError {
            line,
            reason: reason.to_owned(),
        };
        let length = match first {
            blank if blank.is_whitespace() => first.len_utf8(),
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => {
                rest.find("*/")
                    .ok_or_else(|| without_end("a comment has no end"))?
                    + 2
            }
            '"' => {
                rest[1..]
                    .find('"')
                    .ok_or_else(|| without_end("a string has no end"))?
                    + 2
            }
            letter if is_word(letter) => word_length(rest),
            sign if ",;{}[]()+-!|=<>@:*~&".contains(sign) => 1,
            other => {
                return Err(SyntaxError {
                    line,
                    reason: format!("`{other}` is no sign of PTX"),
                });
            }
        };
        let (token, after) = rest.split_at(length);
        if !first.is_whitespace() && !token.starts_with("//") && !token.starts_with("/*") {
            tokens.push(Token { line, text: token });
        }
        line += token.matches('\n').count();
        rest = after;
    }
    Ok(tokens)
}

fn is_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "_$%.".contains(letter)
}

/// Returns the length of the word that `text` begins with: `shared::cta` is part of one.
fn word_length(text: &str) -> usize {
    let mut length = 0;
    loop {
        let rest = &text[length..];
        length += rest.find(|letter| !is_word(letter)).unwrap_or(rest.len());
        let qualified = text[length..].strip_prefix("::");
        match qualified.and_then(|rest| rest.chars().next()) {
            Some(next) if is_word(next) => length += 2,
            _ => return length,
        }
    }
}
