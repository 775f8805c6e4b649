//! What comparing a value, or making a text of it, costs a rendering.
//!
//! minijinja counts the items of a list, not what is in them: a list that holds another twice, that one a third twice, and so
//! on, takes no room, but all time to be compared and all memory to be written. So the filter here stands behind the operands
//! of `~` and of comparisons, before and in filters that make texts or compare, and takes the fuel that its value stands for.

mod operands;

pub(super) use operands::replaced;

use super::limits;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, State};

/// The filter.
const FILTER: &str = "weighed";
/// The most that a list may stand for, in bytes, so that to weigh one takes no time to speak of.
const MOST_WEIGHT: usize = 32 << 20;

/// A test of two values.
type Comparing = fn(&Value, &Value) -> bool;
/// A test of a text and a part of it.
type Searching = fn(&str, &str) -> bool;

/// Adds the filter, and the tests that compare.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.add_filter(
        FILTER,
        |state: &State, value: Value| -> Result<Value, Error> {
            weigh(state, &value)?;
            Ok(value)
        },
    );
    let tests: [(&[&str], Comparing); 6] = [
        (&["eq", "equalto", "=="], Value::eq),
        (&["ne", "!="], Value::ne),
        (&["lt", "lessthan", "<"], Value::lt),
        (&["le", "<="], Value::le),
        (&["gt", "greaterthan", ">"], Value::gt),
        (&["ge", ">="], Value::ge),
    ];
    for (names, compare) in tests {
        for name in names {
            environment.add_test(
                *name,
                move |state: &State, one: Value, other: Value| -> Result<bool, Error> {
                    weigh(state, &one)?;
                    weigh(state, &other)?;
                    Ok(compare(&one, &other))
                },
            );
        }
    }
    environment.add_test(
        "in",
        |state: &State, one: Value, other: Value| -> Result<bool, Error> {
            weigh(state, &one)?;
            weigh(state, &other)?;
            minijinja::tests::is_in(state, &one, &other)
        },
    );
    let texts: [(&str, Searching); 2] = [
        ("startingwith", |text, part| text.starts_with(part)),
        ("endingwith", |text, part| text.ends_with(part)),
    ];
    for (name, is_at) in texts {
        environment.add_test(
            name,
            move |state: &State, one: Value, other: Value| -> Result<bool, Error> {
                weigh(state, &one)?;
                weigh(state, &other)?;
                Ok(is_at(&one.to_string(), &other.to_string()))
            },
        );
    }
    // It writes all there is, unweighed, and no chat template has it.
    environment.remove_global("debug");
}

/// Takes the fuel that `value` stands for.
///
/// # Errors
/// minijinja's of a rendering without fuel.
pub(super) fn weigh(state: &State, value: &Value) -> Result<(), Error> {
    if !matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::String
    ) {
        return Ok(());
    }
    let left = state.fuel_levels().map_or(0, |(_, left)| left);
    let most = usize::try_from(left).unwrap_or(usize::MAX);
    let most = most.saturating_mul(limits::BYTES_OF_WORK).min(MOST_WEIGHT);
    let weight = limits::weight(value, most);
    let is_list = value.kind() != ValueKind::String;
    let fuel = (weight / limits::BYTES_OF_WORK) as u64;
    // What is left is rounded down.
    let all = left.saturating_add(1);
    state.consume_fuel(if is_list && weight > most { all } else { fuel })
}
