//! Rows as they are shown: their text, with the part that is learnt.

use anyhow::{Result, anyhow};
use burn_finetune::Row;
use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;
use tokenizers::Tokenizer;

/// How the learnt part is set off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// By a colour.
    Colour,
    /// Between brackets.
    Brackets,
}

/// A stretch of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Its text, special tokens included.
    pub text: String,
    /// Whether it counts in the loss.
    pub learnt: bool,
}

/// Returns the parts of each sequence of a row.
///
/// # Errors
/// A tokenizer that cannot write them.
pub fn parts(tokenizer: &Tokenizer, row: &Row) -> Result<Vec<Vec<Part>>> {
    row.sequences()
        .map(|sequence| {
            let ids = &row.ids[sequence.clone()];
            parts_of(ids, &row.learn[sequence], |ids| {
                let text = tokenizer.decode(ids, false);
                text.map_err(|error| anyhow!("tokenizer: {error}"))
            })
        })
        .collect()
}

/// Cuts the text of `ids` where it begins or ends to be learnt. A token's text can depend on those before it, so all of
/// them are written up to each place.
fn parts_of(
    ids: &[u32],
    learn: &[bool],
    write: impl Fn(&[u32]) -> Result<String>,
) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut written = 0;
    let mut start = 0;
    let whole = write(ids)?;
    while start < ids.len() {
        let learnt = learn[start];
        let len = learn[start..].iter().take_while(|learn| **learn == learnt);
        let end = start + len.count();
        let upto = write(&ids[..end])?;
        // Half a letter shows as U+FFFD until its other half comes.
        let upto = match end == ids.len() {
            true => whole.len(),
            false => upto.trim_end_matches('\u{fffd}').len(),
        };
        let upto = whole.floor_char_boundary(upto).max(written);
        parts.push(Part {
            text: whole[written..upto].to_owned(),
            learnt,
        });
        (written, start) = (upto, end);
    }
    Ok(parts)
}

/// Returns parts as one text for people. The ends of lines are visible, and nothing of the text steers the terminal.
pub fn marked(parts: &[Part], marks: Marks) -> String {
    let green = Style::new().fg_color(Some(AnsiColor::Green.into()));
    let part = |part: &Part| {
        let text = visible(&part.text);
        match (part.learnt, marks) {
            (false, _) => text,
            (true, Marks::Brackets) => format!("⟦{text}⟧"),
            (true, Marks::Colour) => format!("{green}{text}{green:#}"),
        }
    };
    parts.iter().map(part).collect()
}

/// Returns a text in which the ends of lines are seen, and letters that would steer a terminal are written out.
pub fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => visible.push_str("↵\n"),
            '\t' => visible.push('\t'),
            _ if steers(letter) => visible.extend(letter.escape_unicode()),
            _ => visible.push(letter),
        }
    }
    visible
}

/// Returns whether a letter is a control byte, or turns the direction of those behind it.
fn steers(letter: char) -> bool {
    let turns = matches!(letter, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    letter.is_control() || turns
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One token a byte, of letters that take several.
    fn write(ids: &[u32]) -> Result<String> {
        let bytes: Vec<u8> = ids.iter().map(|id| *id as u8).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn shown(text: &str, learnt: std::ops::Range<usize>, marks: Marks) -> String {
        let ids: Vec<u32> = text.bytes().map(u32::from).collect();
        let learn: Vec<bool> = (0..ids.len()).map(|at| learnt.contains(&at)).collect();
        let parts = parts_of(&ids, &learn, write).unwrap();
        let whole: String = parts.iter().map(|part| part.text.as_str()).collect();
        assert_eq!(whole, text);
        marked(&parts, marks)
    }

    #[test]
    fn the_learnt_part_is_set_off() {
        let brackets = |text, learnt| shown(text, learnt, Marks::Brackets);
        assert_eq!(brackets("two and two", 4..7), "two ⟦and⟧ two");
        assert_eq!(brackets("all", 0..3), "⟦all⟧");
        assert_eq!(brackets("none", 0..0), "none");
        // A letter across the boundary belongs to the part that it is finished in.
        assert_eq!(brackets("aä", 2..3), "a⟦ä⟧");
        let colour = shown("two", 1..2, Marks::Colour);
        assert_eq!(colour, "t\u{1b}[32mw\u{1b}[0mo");
    }

    #[test]
    fn nothing_steers_the_terminal() {
        let text = "a\nb\u{1b}[2J\u{7}\t\r\u{202e}c";
        let shown = shown(text, 0..0, Marks::Colour);
        assert_eq!(shown, "a↵\nb\\u{1b}[2J\\u{7}\t\\u{d}\\u{202e}c");
    }
}
