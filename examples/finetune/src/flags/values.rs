use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use burn_paged::Budget;
use burn_qlora_llama::Decoder;

pub(super) fn bytes(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(Budget::Bytes(bytes)) => Ok(bytes),
        _ => Err("must be a number of bytes, as 24GB or 20GiB".to_string()),
    }
}

pub(super) fn positive_bytes(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        0 => Err("must be at least 1 byte".to_string()),
        bytes => Ok(bytes),
    }
}

pub(super) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_string()),
        Ok(number) => Ok(number),
        Err(_) => Err("must be a whole number of at least 1".to_string()),
    }
}

pub(super) fn guesses(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=Decoder::MOST_GUESSES).contains(&number) => Ok(number),
        _ => Err(format!(
            "must be a whole number from 1 to {}",
            Decoder::MOST_GUESSES
        )),
    }
}

pub(super) fn number(
    text: &str,
    allowed: impl Fn(f64) -> bool,
    range: &str,
) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if f64::is_finite(number) && allowed(number) => Ok(number),
        _ => Err(format!("must be a number {range}")),
    }
}

pub(super) fn positive_number(text: &str) -> Result<f64, String> {
    number(text, |n| n > 0.0, "above 0")
}

pub(super) fn not_negative(text: &str) -> Result<f64, String> {
    number(text, |n| n >= 0.0, "of at least 0")
}

pub(super) fn probability(text: &str) -> Result<f64, String> {
    number(
        text,
        |n| (0.0..1.0).contains(&n),
        "of at least 0 and below 1",
    )
}

pub(super) fn part(text: &str) -> Result<f64, String> {
    number(text, |n| n > 0.0 && n < 1.0, "above 0 and below 1")
}

pub(super) fn share(text: &str) -> Result<f64, String> {
    number(text, |n| n > 0.0 && n <= 1.0, "above 0 and at most 1")
}

pub(super) fn at_most_one(text: &str) -> Result<f64, String> {
    number(text, |n| (0.0..=1.0).contains(&n), "from 0 to 1")
}

/// A block or several, `3` or `0-3`.
pub(super) fn blocks(text: &str) -> Result<RangeInclusive<usize>, String> {
    const MOST: usize = 1 << 16;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last && last < MOST => Ok(first..=last),
        _ => Err("must be numbers of blocks, as 5 or 0-3".to_string()),
    }
}

/// A pattern and a number, `v_proj=64`.
pub(super) fn with_number<T: FromStr>(text: &str) -> Result<(String, T), String> {
    let parts = text
        .rsplit_once('=')
        .and_then(|(pattern, number)| Some((pattern.to_owned(), number.parse().ok()?)));
    let parts = parts.filter(|(pattern, _)| !pattern.is_empty());
    parts.ok_or_else(|| "must be a pattern and a number, as v_proj=64".to_string())
}

/// A name and a path, `notes=run`.
pub(super) fn named_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !path.is_empty() && is_name(name) => {
            Ok((name.to_owned(), PathBuf::from(path)))
        }
        _ => Err("must be a name and a path, as notes=run".to_string()),
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_control() || c.is_whitespace())
}
