//! Where a template compares values or makes texts of them: its expressions, read as far as that takes.
//!
//! An expression is cut into operands of comparisons, these into pieces between `+`, `-` and `~`, and these into factors, by signs
//! and words alone; what is no expression of minijinja's stays, for minijinja to refuse.

use super::FILTER;
use crate::template::tags::{self, string, word};

/// Filters that look at no more of a value than minijinja counts, or count themselves.
const LIGHT: [&str; 10] = [
    "count", "d", "default", "first", "items", "last", "length", "list", "reverse", "tojson",
];
/// Words that end an operand.
const WORDS: [&str; 12] = [
    "and",
    "elif",
    "else",
    "for",
    "if",
    "in",
    "macro",
    "not",
    "or",
    "recursive",
    "set",
    "with",
];
/// Words that are values.
const CONSTANTS: [&str; 6] = ["true", "True", "false", "False", "none", "None"];

/// Returns a template in which the filter stands where it has to.
pub(in crate::template) fn replaced(source: &str) -> String {
    tags::rewritten(source, |code, close, text| {
        let mut scanner = Scanner { rest: code, close };
        let signs = code.len() - code.trim_start_matches(['-', '+']).len();
        text.push_str(scanner.take(signs));
        let first = scanner.rest.trim_start();
        let in_for = close == "%}" && &first[..word(first)] == "for";
        scanner.group(
            Group {
                end: None,
                is_weighed: false,
                in_for,
            },
            text,
        );
        scanner.rest
    })
}

/// What stands between brackets, or in a whole tag.
#[derive(Clone, Copy)]
struct Group {
    /// Its bracket, none of a tag.
    end: Option<char>,
    /// Whether these are arguments, each of which is weighed.
    is_weighed: bool,
    /// Whether it is a tag that goes through what follows its first `in`.
    in_for: bool,
}

struct Scanner<'s> {
    rest: &'s str,
    close: &'static str,
}

/// An operand of a comparison: a sum of pieces, each with the sign that follows it.
#[derive(Default)]
struct Operand {
    pieces: Vec<(Piece, char)>,
}

/// A product: what binds tighter than `+`, `-` and `~`.
#[derive(Default)]
struct Piece {
    text: String,
    /// Where its last factor begins, which is what a filter takes.
    factor: usize,
    /// Whether there is more than literals in it.
    has_names: bool,
}

impl Piece {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn is_empty(&self) -> bool {
        self.text.trim().is_empty()
    }

    /// Returns whether a value stands at its end, so that a bracket calls it or takes an item of it.
    fn ends_in_value(&self) -> bool {
        let last = self.text.trim_end().chars().next_back();
        last.is_some_and(|last| last.is_alphanumeric() || matches!(last, '_' | ')' | ']'))
    }

    /// Weighs what stands from `start` on.
    fn weigh(&mut self, start: usize) {
        let whole = self.text.split_off(start);
        self.text.push_str(&weighed(&whole));
    }
}

fn weighed(expression: &str) -> String {
    let stars = expression.len()
        - expression
            .trim_start_matches([' ', '\n', '\t', '\r', '*'])
            .len();
    let (head, value) = expression.split_at(stars);
    let trimmed = value.trim_end();
    if trimmed.is_empty() {
        return expression.to_owned();
    }
    format!("{head}({trimmed})|{FILTER}{}", &value[trimmed.len()..])
}

impl Operand {
    /// Returns its text, and whether there is more than literals in it.
    fn text(self, last: Piece) -> (String, bool) {
        let mut pieces = self.pieces;
        pieces.push((last, ' '));
        let has_names = pieces.iter().any(|(piece, _)| piece.has_names);
        for place in 1..pieces.len() {
            if pieces[place - 1].1 == '~' {
                for (piece, _) in &mut pieces[place - 1..=place] {
                    if piece.has_names {
                        piece.weigh(0);
                        piece.has_names = false;
                    }
                }
            }
        }
        let mut text = String::new();
        let count = pieces.len();
        for (place, (piece, sign)) in pieces.into_iter().enumerate() {
            text.push_str(&piece.text);
            if place + 1 < count {
                text.push(sign);
            }
        }
        (text, has_names)
    }
}

/// Operands with the comparison that follows each.
#[derive(Default)]
struct Comparison {
    operands: Vec<(String, bool, String)>,
}

impl Comparison {
    /// Appends it to `out`, both sides of a comparison of names weighed.
    fn write(self, last: (String, bool), is_weighed: bool, out: &mut String) {
        let mut operands = self.operands;
        operands.push((last.0, last.1, String::new()));
        let mut heavy = vec![is_weighed && operands.len() == 1 && operands[0].1; operands.len()];
        for place in 1..operands.len() {
            if operands[place - 1].1 && operands[place].1 {
                heavy[place - 1] = true;
                heavy[place] = true;
            }
        }
        for ((text, _, sign), heavy) in operands.into_iter().zip(heavy) {
            let text = if heavy { weighed(&text) } else { text };
            out.push_str(&text);
            out.push_str(&sign);
        }
    }
}

impl<'s> Scanner<'s> {
    fn take(&mut self, len: usize) -> &'s str {
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }

    /// Copies a group up to its end, which is left, and returns whether there is more than literals in it.
    fn group(&mut self, group: Group, out: &mut String) -> bool {
        let Group {
            end,
            is_weighed,
            mut in_for,
        } = group;
        let (mut comparison, mut operand, mut piece) =
            (Comparison::default(), Operand::default(), Piece::default());
        let mut has_names = false;
        // Whether a name follows that is no variable: of an attribute, a filter or a test.
        let mut is_attribute = false;
        // Whether the brackets that follow hold the arguments of what compares or makes a text.
        let mut is_heavy_call = false;
        while let Some(letter) = self.rest.chars().next() {
            let is_end = match end {
                Some(end) => letter == end,
                None => {
                    let unsigned = self.rest.strip_prefix(['-', '+']).unwrap_or(self.rest);
                    unsigned.starts_with(self.close)
                }
            };
            if is_end {
                break;
            }
            // What ends an operand, if this does, and whether it compares.
            let mut separator: Option<(usize, bool)> = None;
            match letter {
                '\'' | '"' => {
                    let len = string(self.rest).unwrap_or(self.rest.len());
                    piece.push(self.take(len));
                }
                '0'..='9' => {
                    let mut len = word(self.rest);
                    if self.rest[len..].starts_with('.') {
                        len += 1 + word(&self.rest[len + 1..]);
                    }
                    piece.push(self.take(len));
                    is_attribute = false;
                }
                _ if letter.is_alphabetic() || letter == '_' => {
                    let len = word(self.rest);
                    let name = &self.rest[..len];
                    let negated = self.rest[len..].trim_start();
                    match name {
                        "not" if is_attribute => piece.push(self.take(len)),
                        _ if is_attribute => {
                            is_heavy_call |= name == "changed";
                            piece.push(self.take(len));
                            is_attribute = false;
                            piece.has_names = true;
                        }
                        "is" => {
                            piece.push(self.take(len));
                            is_attribute = true;
                        }
                        "in" if in_for => {
                            in_for = false;
                            separator = Some((len, false));
                        }
                        "in" => separator = Some((len, true)),
                        "not" if negated[..word(negated)] == *"in" => {
                            separator = Some((self.rest.len() - negated.len() + 2, true));
                        }
                        _ if WORDS.contains(&name) => separator = Some((len, false)),
                        _ => {
                            piece.push(self.take(len));
                            piece.has_names |= !CONSTANTS.contains(&name);
                        }
                    }
                }
                '(' | '[' | '{' => {
                    let is_call = letter == '(' && piece.ends_in_value();
                    piece.push(self.take(1));
                    let end = match letter {
                        '(' => ')',
                        '[' => ']',
                        _ => '}',
                    };
                    let inner = Group {
                        end: Some(end),
                        is_weighed: is_call && is_heavy_call,
                        in_for: false,
                    };
                    let mut inside = String::new();
                    let inner = self.group(inner, &mut inside);
                    piece.push(&inside);
                    piece.has_names |= inner || is_call;
                    if self.rest.starts_with(end) {
                        piece.push(self.take(1));
                    }
                    is_heavy_call = false;
                }
                '|' => {
                    let name = self.rest[1..].trim_start();
                    if !LIGHT.contains(&&name[..word(name)]) {
                        if piece.has_names {
                            piece.weigh(piece.factor);
                        }
                        is_heavy_call = true;
                    }
                    piece.push(self.take(1));
                    is_attribute = true;
                }
                '.' => {
                    piece.push(self.take(1));
                    is_attribute = true;
                }
                '=' if self.rest.starts_with("==") => separator = Some((2, true)),
                '!' if self.rest.starts_with("!=") => separator = Some((2, true)),
                '<' | '>' => {
                    separator = Some((1 + usize::from(self.rest[1..].starts_with('=')), true));
                }
                '=' => {
                    // The name of an argument or a variable, which is no value.
                    let sign = self.take(1);
                    let (text, _) = std::mem::take(&mut operand).text(std::mem::take(&mut piece));
                    std::mem::take(&mut comparison).write((text, false), false, out);
                    out.push_str(sign);
                }
                ',' | ':' => separator = Some((1, false)),
                '~' | '+' | '-' if !piece.is_empty() => {
                    self.take(1);
                    operand.pieces.push((std::mem::take(&mut piece), letter));
                }
                '*' | '/' | '%' => {
                    // A list of literals can be long by it.
                    piece.has_names |= letter == '*';
                    piece.push(self.take(1));
                    piece.factor = piece.text.len();
                }
                letter => piece.push(self.take(letter.len_utf8())),
            }
            if let Some((len, compares)) = separator {
                let (text, names) = std::mem::take(&mut operand).text(std::mem::take(&mut piece));
                has_names |= names;
                let sign = self.take(len);
                if compares {
                    comparison.operands.push((text, names, sign.to_owned()));
                } else {
                    std::mem::take(&mut comparison).write((text, names), is_weighed, out);
                    out.push_str(sign);
                }
                is_attribute = false;
                is_heavy_call = false;
            }
        }
        let (text, names) = operand.text(piece);
        comparison.write((text, names), is_weighed, out);
        has_names || names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compared_or_written_is_weighed() {
        for (source, expected) in [
            ("{{ a ~ 'b' ~ c }}", "{{ (a)|weighed ~ 'b' ~ (c)|weighed }}"),
            (
                "{{ a + b * c ~ -d - e }}",
                "{{ a + (b * c)|weighed ~ (-d)|weighed - e }}",
            ),
            (
                "{% if not a == b[0] and c %}",
                "{% if not (a)|weighed == (b[0])|weighed and c %}",
            ),
            (
                "{%- if a.b not in c.d() -%}",
                "{%- if (a.b)|weighed not in (c.d())|weighed -%}",
            ),
            (
                "{{ a | join(', ') | tojson }}",
                "{{ (a)|weighed | join(', ') | tojson }}",
            ),
            ("{{ 2 * a | sort }}", "{{ 2 * (a)|weighed | sort }}"),
            (
                "{{ 'x' | replace(a, b=c) }}",
                "{{ 'x' | replace((a)|weighed, b=(c)|weighed) }}",
            ),
            ("{{ loop.changed(a) }}", "{{ loop.changed((a)|weighed) }}"),
            (
                "{{ f(a if b else c ~ d)[e] }}",
                "{{ f(a if b else (c)|weighed ~ (d)|weighed)[e] }}",
            ),
            (
                "{% set a.b = {'c': d < e} %}",
                "{% set a.b = {'c': (d)|weighed < (e)|weighed} %}",
            ),
            (
                "{% for a in b if a in c recursive %}",
                "{% for a in b if (a)|weighed in (c)|weighed recursive %}",
            ),
        ] {
            assert_eq!(replaced(source), expected);
        }
        for same in [
            "{{ a }} b ~ c {# d ~ e #}{% raw %}{{ f ~ g }}{% endraw %}",
            "{%- if message['role'] == 'user' and x is not none and 'y' in z[1:] -%}",
            "{%- set ns.x = namespace(a=false, b=[1, 'c']) -%}{% macro m(a, b=1) %}{% endmacro %}",
            "{{ a | tojson(indent=4) + b.strip() + ('c' if d else 'e') }}",
            "{% for a, b in c.items() %}{{ a - 1 }}{{- x % 2 != 0 -}}{% generation %}",
            "{{ (x.y is defined and x is not string) or z is in ['a'] }}",
            "{{ 'open",
            "{{ f(",
            "{{ | }}",
        ] {
            assert_eq!(replaced(same), same);
        }
    }
}
