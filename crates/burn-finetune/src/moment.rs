//! A date and a time.

use chrono::{DateTime, FixedOffset, Local};
use std::fmt;
use std::str::FromStr;

/// A date and a time as the clock on the wall shows them, with their offset from UTC.
///
/// A run keeps the one it was started at, and chat templates that print today's date print that of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(DateTime<FixedOffset>);

impl Moment {
    /// Returns what the clock shows now.
    pub fn now() -> Self {
        Self(Local::now().fixed_offset())
    }

    /// Writes it as Python's `strftime` does; `None` for a format that does not exist.
    pub(crate) fn strftime(self, format: &str) -> Option<String> {
        use fmt::Write;
        let mut text = String::new();
        write!(text, "{}", self.0.format(format)).ok()?;
        Some(text)
    }
}

/// Writes it as RFC 3339 has it, to the nanosecond, so that it can be [parsed](FromStr) to the same.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_rfc3339())
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        DateTime::parse_from_rfc3339(text)
            .map(Self)
            .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_same_when_it_was_written_and_read() {
        let now = Moment::now();
        assert_eq!(now.to_string().parse(), Ok(now));
        let text = "2026-12-31T23:59:58.123456789+05:30";
        let moment: Moment = text.parse().unwrap();
        assert_eq!(moment.to_string(), text);
        let shown = moment.strftime("%d %b %Y %H:%M:%S");
        assert_eq!(shown.as_deref(), Some("31 Dec 2026 23:59:58"));
        assert_eq!(moment.strftime("%"), None);
        assert!("yesterday".parse::<Moment>().is_err());
    }
}
