use super::fields::{Fields, elements, key};
use super::{TEXTS, kinds};
use crate::data::verdict::ExampleKind;
use crate::error::RowProblem;
use minijinja::value::{Value, ValueKind};

/// Most names that are told.
const TOLD: usize = 12;

/// Returns why a row without the keys of any kind is refused.
pub fn unknown(row: &Fields<'_>, kind: ExampleKind) -> RowProblem {
    let names = row.names();
    if kind != ExampleKind::Texts {
        return no_preference(&names, kind);
    }
    if is_preference(&names) {
        let chosen = row.value("chosen");
        let is_whole = chosen.as_ref().and_then(elements).is_some_and(|turns| {
            let role = |turn: &Value| key(turn, "role").or_else(|| key(turn, "from"));
            turns
                .first()
                .and_then(role)
                .is_some_and(|role| role.as_str() != Some("assistant"))
        });
        return RowProblem::Preference {
            name: if is_whole { "messages" } else { "completion" },
        };
    }
    let list_of = |name: &String, told: &dyn Fn(&Value) -> bool| {
        row.value(name)
            .as_ref()
            .and_then(elements)
            .is_some_and(|items| {
                items
                    .first()
                    .is_some_and(|item| item.kind() == ValueKind::Map && told(item))
            })
    };
    let is_turn = |item: &Value| {
        ["role", "from"]
            .iter()
            .any(|name| key(item, name).is_some())
    };
    if let Some(turns) = names.iter().find(|name| list_of(name, &is_turn)) {
        return RowProblem::UnknownKeys {
            found: format!(
                "{}; {turns:?} holds turns: --columns messages={turns}",
                told(&names)
            ),
        };
    }
    if let Some(rows) = names.iter().find(|name| list_of(name, &|_| true)) {
        return RowProblem::UnknownKeys {
            found: format!(
                "{}; {rows:?} holds a list of objects: if those are the rows, write that list to a file of its own",
                told(&names)
            ),
        };
    }
    RowProblem::UnknownKeys {
        found: told(&names),
    }
}

/// Returns why a row or a file without preferences is refused.
fn no_preference(names: &[String], kind: ExampleKind) -> RowProblem {
    let has = |columns: &[&str]| {
        let mut columns = columns.iter();
        columns.all(|column| names.iter().any(|name| name == column))
    };
    let is_other = |other: ExampleKind| kinds(other).iter().any(|kind| has(kind.columns));
    RowProblem::NoPreference {
        needs: match kind {
            ExampleKind::Labelled => {
                "--objective kto needs \"prompt\", \"completion\" and \"label\", or \"chosen\" and \"rejected\""
            }
            _ => {
                "--objective dpo and orpo need \"chosen\" and \"rejected\", with \"prompt\" or with the prompt in both"
            }
        },
        served: if is_other(ExampleKind::Labelled) {
            "; --objective kto learns such rows"
        } else if TEXTS.iter().any(|kind| has(kind.columns)) {
            "; --objective sft learns such rows"
        } else {
            ""
        },
        found: told(names),
    }
}

/// Returns why a file with these columns is refused.
pub fn unknown_columns(found: &[String], kind: ExampleKind) -> RowProblem {
    if kind != ExampleKind::Texts {
        return no_preference(found, kind);
    }
    if is_preference(found) {
        let name = if found.iter().any(|name| name == "prompt") {
            "completion"
        } else {
            "messages"
        };
        return RowProblem::Preference { name };
    }
    RowProblem::UnknownKeys { found: told(found) }
}

fn is_preference(names: &[String]) -> bool {
    ["chosen", "rejected"]
        .iter()
        .all(|name| names.iter().any(|found| found == name))
}

/// Returns the names as they are told: not too many, and none too long.
pub fn told(names: &[String]) -> String {
    let short = |name: &String| match name.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.clone(),
    };
    let mut text = names
        .iter()
        .take(TOLD)
        .map(short)
        .collect::<Vec<_>>()
        .join(", ");
    if names.is_empty() {
        text.push_str("none");
    } else if names.len() > TOLD {
        text.push_str(&format!(" and {} more", names.len() - TOLD));
    }
    text
}
