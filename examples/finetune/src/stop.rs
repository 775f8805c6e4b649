//! Where an answer ends: the tokens and the text that a model was taught to write there.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::opened_model::OpenedModel;

/// What ends an answer. None of it belongs to the answer.
#[derive(Clone, Debug)]
pub struct Stop {
    tokens: BTreeSet<u32>,
    texts: Vec<String>,
}

/// The part of a text that is shown.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown<'t> {
    /// The text up to the end, or up to what may become one.
    pub text: &'t str,
    /// Whether the end was there.
    pub ended: bool,
}

impl Stop {
    /// Returns what ends an answer of the model: the end tokens of its configuration, of its generation settings and of its
    /// tokenizer (a GGUF file's ends of text, turn and message), and what its chat template writes behind an answer. That is
    /// a token where the tokenizer has one for it, else a text.
    ///
    /// # Errors
    /// A tokenizer that fails.
    pub fn of(opened: &OpenedModel) -> Result<Self> {
        let named = opened.checkpoint.config().eos_token_ids.iter().copied();
        let mut tokens: BTreeSet<u32> = named.collect();
        tokens.extend(opened.special.eos.as_ref().map(|token| token.id));
        let template = opened.template.as_ref();
        let Some(end) = template.and_then(|template| template.answer_end()) else {
            return Ok(Self {
                tokens,
                texts: Vec::new(),
            });
        };
        let added = opened.tokenizer.get_added_tokens_decoder();
        let is_mark = |id: &u32| {
            let token = added.get(id);
            token.is_some_and(|token| !token.content.trim().is_empty())
        };
        let ids = opened.texts().rendered(&end)?;
        let mark = ids.into_iter().find(is_mark);
        tokens.extend(mark);
        let text = mark.is_none().then(|| end.trim_end().to_owned());
        Ok(Self {
            tokens,
            texts: text.into_iter().collect(),
        })
    }

    /// Returns it with more texts that end an answer. None of them is empty.
    #[must_use]
    pub fn with_texts(mut self, texts: Vec<String>) -> Self {
        self.texts.extend(texts);
        self
    }

    /// Returns the tokens.
    pub fn tokens(&self) -> Vec<u32> {
        self.tokens.iter().copied().collect()
    }

    /// Returns the tokens of an answer up to the first that ends it.
    pub fn answer<'t>(&self, tokens: &'t [u32]) -> &'t [u32] {
        let end = tokens.iter().position(|token| self.tokens.contains(token));
        &tokens[..end.unwrap_or(tokens.len())]
    }

    /// Returns the part of a text that is shown while more of it may come.
    pub fn shown<'t>(&self, text: &'t str) -> Shown<'t> {
        let Some(at) = self.end(text) else {
            let begun = self.texts.iter().map(|end| begun(text, end)).max();
            return Shown {
                text: &text[..text.len() - begun.unwrap_or(0)],
                ended: false,
            };
        };
        Shown {
            text: &text[..at],
            ended: true,
        }
    }

    /// Returns the part of a finished text that comes before its end.
    pub fn cut<'t>(&self, text: &'t str) -> &'t str {
        &text[..self.end(text).unwrap_or(text.len())]
    }

    /// Returns where the first end in a text is.
    fn end(&self, text: &str) -> Option<usize> {
        let ends = self.texts.iter().filter_map(|end| text.find(end));
        ends.min()
    }
}

/// Returns the length of the longest part of `end` that it begins with and `text` ends with.
fn begun(text: &str, end: &str) -> usize {
    let lengths = end.char_indices().map(|(at, _)| at).rev();
    let mut begun = lengths.filter(|len| text.ends_with(&end[..*len]));
    begun.next().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_become_the_end_waits() {
        let stop = Stop {
            tokens: BTreeSet::from([2, 7]),
            texts: vec!["\n[é]".into()],
        };
        let shown = |text| {
            let shown = stop.shown(text);
            (shown.text, shown.ended)
        };
        assert_eq!(shown("a\n"), ("a", false));
        assert_eq!(shown("a\n[é"), ("a", false));
        assert_eq!(shown("a\n[b"), ("a\n[b", false));
        assert_eq!(shown("a\n\n[é] b"), ("a\n", true));
        assert_eq!((stop.cut("a\n"), stop.cut("a\n[é]\n")), ("a\n", "a"));
        assert_eq!(stop.answer(&[5, 7, 5]), [5]);
        assert_eq!(stop.answer(&[5, 6]), [5, 6]);
    }

    #[test]
    fn the_first_of_several_ends_counts_and_the_longest_that_has_begun_waits() {
        let stop = Stop {
            tokens: BTreeSet::new(),
            texts: vec!["bcd".into()],
        };
        let stop = stop.with_texts(vec!["abx".into(), "d".into()]);
        let shown = |text| {
            let shown = stop.shown(text);
            (shown.text, shown.ended)
        };
        assert_eq!(shown("zab"), ("z", false));
        assert_eq!(shown("zabc"), ("za", false));
        assert_eq!(shown("zabcd"), ("za", true));
        assert_eq!(shown("zabx d"), ("z", true));
    }
}
