//! What ends an answer.

use super::{ChatTemplate, Message};

/// Stand for what user and assistant say, to see what is written around it. No template writes them by itself.
const QUESTION: &str = "Qvjq";
const ANSWER: &str = "Zwkz";

impl ChatTemplate {
    /// Returns what the template writes behind an answer, which a model trained by it writes there too. Where that is
    /// nothing but blanks, what it writes up to the next words of the user; `None` where that is blank as well, or where
    /// the template does not show an answer as it is given.
    pub fn answer_end(&self) -> Option<String> {
        let question = Message::new("user", QUESTION);
        let mut messages = vec![question.clone(), Message::new("assistant", ANSWER)];
        let end = self.behind_answer(&messages)?;
        if !end.trim().is_empty() {
            return Some(end);
        }
        messages.push(question);
        let behind = self.behind_answer(&messages)?;
        let (next, _) = behind.split_once(QUESTION)?;
        (!next.trim().is_empty()).then(|| next.to_owned())
    }

    fn behind_answer(&self, messages: &[Message]) -> Option<String> {
        let text = self.render(messages, false).ok()?;
        let (_, behind) = text.split_once(ANSWER)?;
        (!behind.contains(ANSWER)).then(|| behind.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn end(source: &str) -> Option<String> {
        ChatTemplate::new(source, BTreeMap::new())
            .unwrap()
            .answer_end()
    }

    #[test]
    fn an_answer_ends_with_the_end_of_its_turn_or_the_next_ones_beginning() {
        let turns = |turn: &str| {
            end(&format!(
                "{{% for m in messages %}}{turn}{{% endfor %}}{{{{ '|all' if false }}}}"
            ))
        };
        for (turn, expected) in [
            ("<{{ m.role }}>{{ m.content }}</s>", Some("</s>")),
            (
                "## {{ m.role }}: {{ m.content }}\\n\\n",
                Some("\\n\\n## user: "),
            ),
            ("{{ m.content }}", None),
            ("{{ m.content ~ m.content }}", None),
            ("{{ m.role }}", None),
        ] {
            let turn = turn.replace("\\n", "\n");
            let expected = expected.map(|end| end.replace("\\n", "\n"));
            assert_eq!(turns(&turn), expected, "{turn}");
        }
        assert_eq!(end("{{ raise_exception('no') }}"), None);
    }
}
