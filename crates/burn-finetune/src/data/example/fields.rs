use crate::data::columns::Columns;
use crate::error::RowProblem;
use minijinja::value::{Value, ValueKind};
use std::cell::RefCell;

/// A row's columns by the names they go by, and which of them were read.
pub struct Fields<'a> {
    row: &'a Value,
    columns: &'a Columns,
    read: RefCell<Vec<String>>,
}

impl<'a> Fields<'a> {
    pub fn new(row: &'a Value, columns: &'a Columns) -> Self {
        Self {
            row,
            columns,
            read: RefCell::default(),
        }
    }

    /// Returns whether a column, by its own name, is there and not null.
    pub fn has(&self, column: &str) -> bool {
        key(self.row, column).is_some()
    }

    /// Returns what goes by `name`, `None` for null and for nothing.
    pub fn get(&self, name: &str) -> Option<Value> {
        let column = self.columns.column(name)?;
        let value = key(self.row, column)?;
        self.read.borrow_mut().push(column.to_owned());
        Some(value)
    }

    /// Returns the string that goes by `name`, which is there.
    pub fn string(&self, name: &str) -> Result<String, RowProblem> {
        Ok(self.optional_string(name)?.unwrap_or_default())
    }

    /// Returns the string that goes by `name`, if there is one.
    pub fn optional_string(&self, name: &str) -> Result<Option<String>, RowProblem> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let text = value.as_str().map(str::to_owned);
        text.map(Some).ok_or_else(|| {
            RowProblem::WrongType(format!(
                "\"{}\" is a {}, not a string",
                self.column(name),
                value.kind()
            ))
        })
    }

    /// Returns the list that goes by `name`, which may be written as a JSON string.
    pub fn list(&self, name: &str) -> Result<Option<Value>, RowProblem> {
        let Some(value) = self.json(name)? else {
            return Ok(None);
        };
        match value.kind() {
            ValueKind::Seq => Ok(Some(value)),
            other => Err(RowProblem::WrongType(format!(
                "\"{}\" is a {other}, not a list",
                self.column(name)
            ))),
        }
    }

    /// Returns what goes by `name`: what a string holds as JSON, and any other value as it is.
    pub fn json(&self, name: &str) -> Result<Option<Value>, RowProblem> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let parsed = match value.as_str() {
            Some(text) if text.trim().is_empty() => return Ok(None),
            Some(text) => serde_json::from_str(text).map_err(|error| {
                RowProblem::WrongType(format!(
                    "\"{}\" is a string, but not JSON: {error}",
                    self.column(name)
                ))
            })?,
            None => value,
        };
        Ok((!parsed.is_none()).then_some(parsed))
    }

    /// Returns the column that goes by `name`.
    pub fn column<'n>(&'n self, name: &'n str) -> &'n str {
        self.columns.column(name).unwrap_or(name)
    }

    /// Returns the columns that were not read and are not null, in alphabetical order.
    pub fn unread(&self) -> Vec<String> {
        let read = self.read.borrow();
        let mut names = self.names();
        names.retain(|name| !read.contains(name));
        names
    }

    /// Returns the columns that are not null, in alphabetical order.
    pub fn names(&self) -> Vec<String> {
        let names = self.row.try_iter().into_iter().flatten();
        let names = names.map(|name| name.to_string());
        let mut names: Vec<String> = names.filter(|name| self.has(name)).collect();
        names.sort();
        names
    }

    /// Returns what a column holds, by its own name.
    pub fn value(&self, column: &str) -> Option<Value> {
        key(self.row, column)
    }
}

/// Returns what is under a key, `None` for null and for nothing.
pub fn key(object: &Value, name: &str) -> Option<Value> {
    let value = object.get_attr(name).ok()?;
    (!value.is_none() && !value.is_undefined()).then_some(value)
}

/// Returns the elements of a list, `None` for anything else.
pub fn elements(value: &Value) -> Option<Vec<Value>> {
    (value.kind() == ValueKind::Seq).then(|| value.try_iter().into_iter().flatten().collect())
}
