use super::open::{Fault, Record};
use super::text::{MARK, Utf8};
use crate::error::{Place, RowProblem};
use minijinja::value::{Value, ValueKind};
use serde::Deserialize;
use std::io::{BufRead, Read};

/// Objects, one after another or as the elements of arrays, whatever their lines. Behind one that is no JSON it goes on
/// with the next line, but not within an array.
pub struct Json<R> {
    text: Utf8<R>,
    state: State,
    row: usize,
    is_over: bool,
}

/// What was read last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing, or something that is whole.
    Between,
    /// The bracket that opens an array on this line.
    Opened(usize),
    /// An element of an array that was opened on this line.
    Element(usize),
    /// The comma behind it.
    Comma(usize),
}

impl<R: Read> Json<R> {
    pub fn new(text: Utf8<R>) -> Self {
        Self {
            text,
            state: State::Between,
            row: 0,
            is_over: false,
        }
    }

    /// Returns the next byte that is no blank.
    fn next_byte(&mut self) -> Result<Option<u8>, Fault> {
        loop {
            let ready = self.text.fill_buf()?;
            let Some(first) = ready.first() else {
                return Ok(None);
            };
            // Files that were put together have a mark at the start of each.
            if ready.starts_with(MARK) {
                self.text.consume(MARK.len());
            } else if first.is_ascii_whitespace() {
                let blank = ready.iter().take_while(|byte| byte.is_ascii_whitespace());
                let blank = blank.count();
                self.text.consume(blank);
            } else {
                return Ok(Some(*first));
            }
        }
    }

    fn next_record(&mut self) -> Result<Option<Record>, Fault> {
        loop {
            let line = self.text.line();
            let problem =
                |reason: String| Err(Fault::Row(Place::Line(line), RowProblem::NotJson(reason)));
            let byte = match (self.next_byte()?, self.state) {
                (Some(byte), _) => byte,
                (None, State::Between) => return Ok(None),
                (None, State::Opened(line) | State::Element(line) | State::Comma(line)) => {
                    return problem(format!(
                        "the array that begins on line {line} has no end; the file is cut off"
                    ));
                }
            };
            let line = self.text.line();
            let problem = |reason: &str| {
                let reason = reason.to_owned();
                Err(Fault::Row(Place::Line(line), RowProblem::NotJson(reason)))
            };
            self.state = match (self.state, byte) {
                (State::Between, b'[') => State::Opened(line),
                (State::Opened(_) | State::Element(_), b']') => State::Between,
                (State::Element(opened), b',') => State::Comma(opened),
                (State::Comma(_), b']') => {
                    return problem("there is a comma behind the array's last element");
                }
                (State::Element(_), _) => {
                    return problem("there is no comma before this element of the array");
                }
                (State::Between, b',') => {
                    return problem("there is a comma between objects that are in no array");
                }
                (State::Between, _) => return self.value(Place::Line(line)).map(Some),
                (State::Opened(opened) | State::Comma(opened), _) => {
                    self.state = State::Element(opened);
                    self.row += 1;
                    let place = Place::Element {
                        line,
                        row: self.row,
                    };
                    return self.value(place).map(Some);
                }
            };
            self.text.consume(1);
        }
    }

    fn value(&mut self, place: Place) -> Result<Record, Fault> {
        let line = self.text.line();
        // An object ends with its bracket, so nothing behind it is read.
        let mut parser = serde_json::Deserializer::from_reader(&mut self.text);
        match Value::deserialize(&mut parser) {
            Ok(value) => {
                // A number ends with what comes behind it.
                let is_of_number = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
                if value.kind() == ValueKind::Number && !self.text.last().is_none_or(is_of_number) {
                    self.text.give_back();
                }
                Ok(Record { place, value })
            }
            Err(error) if error.is_io() => Err(Fault::Read(error.into())),
            Err(error) => {
                if self.state == State::Between {
                    // The parser looks for the end of an object that is broken, and may have found the next one.
                    let is_next = self.text.line() > line;
                    if is_next && matches!(self.text.last(), Some(b'{' | b'[')) {
                        self.text.give_back();
                    } else {
                        self.text.skip_line()?;
                    }
                    self.is_over = false;
                }
                Err(Fault::Row(place, RowProblem::NotJson(reason(&error))))
            }
        }
    }
}

impl<R: Read> Iterator for Json<R> {
    type Item = Result<Record, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        // Until something has been read behind which there may be more.
        self.is_over = true;
        let record = self.next_record().transpose();
        if matches!(record, Some(Ok(_))) {
            self.is_over = false;
        }
        record
    }
}

/// Returns what is wrong, and where in the object.
pub fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    if what.contains("surrogate") || what.contains("end of hex escape") {
        return "it has a lone surrogate, half of a character (\\ud83d, say), which is no text; write the other half \
                behind it or take it out"
            .to_owned();
    }
    let what = what.replace("expected ident", "expected null, true or false");
    match error.line() {
        0 | 1 => format!("{what} at column {}", error.column()),
        line => format!("{what} on line {line} of the object"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> Result<Vec<(Place, String)>, String> {
        let told = |record: Result<Record, Fault>| match record {
            Ok(record) => Ok((record.place, record.value.to_string())),
            Err(Fault::Row(place, problem)) => Err(format!("{place}: {problem}")),
            Err(_) => Err("another fault".to_owned()),
        };
        Json::new(Utf8::new(text.as_bytes())).map(told).collect()
    }

    #[test]
    fn objects_are_found_whatever_their_lines() {
        let element = |line, row| Place::Element { line, row };
        let lines = [Place::Line(1), Place::Line(3)];
        for (text, expected) in [
            ("{\"a\": 1}\n\n{\"a\": 2}", lines.to_vec()),
            (
                "{\n\"a\": 1}{\r\n\"a\": 2}",
                vec![Place::Line(1), Place::Line(2)],
            ),
            (
                "[{\"a\": 1}, {\"a\": 2}]\n",
                vec![element(1, 1), element(1, 2)],
            ),
            (
                "[\n  {\n \"a\": 1},\n{\"a\": 2}\n]",
                vec![element(2, 1), element(4, 2)],
            ),
            (
                "[]\n[{\"a\": 1}]\u{feff}{\"a\": 2}",
                vec![element(2, 1), Place::Line(2)],
            ),
            ("", vec![]),
            (" \n", vec![]),
        ] {
            let found = places(text).unwrap();
            let expected: Vec<_> = expected.into_iter().enumerate().collect();
            let values = ["{'a': 1}", "{'a': 2}"];
            for ((at, place), found) in expected.iter().zip(&found) {
                assert_eq!(&(*place, values[*at].to_owned()), found, "{text}");
            }
            assert_eq!(expected.len(), found.len(), "{text}");
        }
    }

    #[test]
    fn lines_go_on_behind_one_that_is_no_json() {
        let text = "[1, 2.5]\n3\n{\"a\": 1}\n{\"a\": x}\n{\"a\": \"\n{\"a\": 2}\n[{\"a\": x},\n{\"a\": 3}]";
        let found = Json::new(Utf8::new(text.as_bytes()));
        let told = found.map(|record| match record {
            Ok(record) => record.value.to_string(),
            Err(Fault::Row(place, _)) => place.to_string(),
            Err(_) => "another fault".to_owned(),
        });
        let expected = [
            "1",
            "2.5",
            "3",
            "{'a': 1}",
            ":4",
            ":5",
            "{'a': 2}",
            ":7 (row 3)",
        ];
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_no_json_is_told_with_its_place() {
        for (text, place, expected) in [
            (
                "{\"a\": 1}\n{\"a\": \n{\"a\": 1}\n",
                ":2",
                "on line 3 of the object",
            ),
            ("\n{\"a\": nan}", ":2", "true or false at column 8"),
            ("[{\"a\": 1}\n{\"a\": 2}]", ":2", "no comma before"),
            ("[{\"a\": 1},\n]", ":2", "a comma behind"),
            (
                "[{\"a\": 1},\n{\"a\": 2}",
                ":2",
                "array that begins on line 1 has no end",
            ),
            ("{\"a\": 1},\n{\"a\": 2}", ":1", "in no array"),
            (r#"{"a": "\ud83d x"}"#, ":1", "lone surrogate"),
            (r#"{"a": "\ud83d\ud83d"}"#, ":1", "lone surrogate"),
            (r#"{"a": "\ude00"}"#, ":1", "lone surrogate"),
            (r#"{"a": "\uzzzz"}"#, ":1", "invalid escape"),
            ("{\"a\": \"x\ny\"}", ":1", "control character"),
            ("]", ":1", "expected value"),
        ] {
            let error = places(text).unwrap_err();
            assert!(
                error.starts_with(place) && error.contains(expected),
                "{error}"
            );
        }
    }
}
