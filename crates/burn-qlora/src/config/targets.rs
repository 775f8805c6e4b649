//! Sets of layers, by name or by regular expression.

use serde::{Deserialize, Serialize};

use crate::config::pattern::Pattern;
use crate::error::LoraError;

/// The layers that get an adapter, as peft's `target_modules` says it.
///
/// In text form a list is [`Names`](Self::Names), the string `all-linear` is
/// [`AllLinear`](Self::AllLinear) and any other string is a [`Regex`](Self::Regex).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "TargetsText", into = "TargetsText")]
pub enum Targets {
    /// Every linear layer the model offers (never the head, which is to be named).
    #[default]
    AllLinear,
    /// Layers whose path is one of these names or ends in `.name`.
    Names(Vec<String>),
    /// Layers whose whole path matches this regular expression, in the language of Python's `re`.
    Regex(String),
}

/// The form of [`Targets`] in a file.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum TargetsText {
    List(Vec<String>),
    Text(String),
}

impl From<TargetsText> for Targets {
    fn from(text: TargetsText) -> Self {
        match text {
            TargetsText::List(names) => Self::Names(names),
            TargetsText::Text(text) if text.eq_ignore_ascii_case(ALL_LINEAR) => Self::AllLinear,
            TargetsText::Text(pattern) => Self::Regex(pattern),
        }
    }
}

impl From<Targets> for TargetsText {
    fn from(targets: Targets) -> Self {
        match targets {
            Targets::AllLinear => Self::Text(ALL_LINEAR.into()),
            Targets::Names(names) => Self::List(names),
            Targets::Regex(pattern) => Self::Text(pattern),
        }
    }
}

/// peft's word for [`Targets::AllLinear`].
const ALL_LINEAR: &str = "all-linear";

impl Targets {
    /// Marks which of `paths` (such as `model.layers.0.self_attn.q_proj`) are meant.
    ///
    /// # Errors
    /// [`LoraError::UnknownTarget`] when a name fits none of the paths, [`LoraError::InvalidPattern`]
    /// when a pattern is no regular expression or fits none of the paths.
    pub fn select(&self, paths: &[String]) -> Result<Vec<bool>, LoraError> {
        let selected = self.matches(paths)?;
        match self {
            Self::AllLinear => {}
            Self::Names(names) => {
                let fits = |name: &&String| paths.iter().any(|path| is_named(path, name));
                if let Some(unknown) = names.iter().find(|name| !fits(name)) {
                    return Err(unknown_target(unknown, paths));
                }
            }
            Self::Regex(pattern) if !selected.contains(&true) => {
                return Err(Pattern::new(pattern, WHOLE, paths)?.without_a_match());
            }
            Self::Regex(_) => {}
        }
        Ok(selected)
    }

    /// Marks which of `paths` are meant, without a word about what fits none, as peft does.
    ///
    /// # Errors
    /// [`LoraError::InvalidPattern`].
    pub(super) fn matches(&self, paths: &[String]) -> Result<Vec<bool>, LoraError> {
        match self {
            Self::AllLinear => Ok(vec![true; paths.len()]),
            Self::Names(names) => Ok(paths
                .iter()
                .map(|path| names.iter().any(|name| is_named(path, name)))
                .collect()),
            Self::Regex(pattern) => Pattern::new(pattern, WHOLE, paths)?.matches(),
        }
    }

    /// Returns whether `path` as a whole is one of the names.
    pub(super) fn names_whole(&self, path: &String) -> bool {
        matches!(self, Self::Names(names) if names.contains(path))
    }
}

/// peft matches the whole path (`re.fullmatch`).
const WHOLE: &str = "^(?:{})$";

/// Returns the error of a name that fits no layer.
pub(super) fn unknown_target(name: &str, paths: &[String]) -> LoraError {
    LoraError::UnknownTarget {
        target: name.to_owned(),
        known: short_names(paths),
    }
}

/// Returns whether `path` is `name` or ends in `.name`.
pub(crate) fn is_named(path: &str, name: &str) -> bool {
    path == name
        || path
            .strip_suffix(name)
            .is_some_and(|head| head.ends_with('.'))
}

/// Returns the distinct last parts of `paths`, sorted.
pub(crate) fn short_names(paths: &[String]) -> Vec<String> {
    let mut names: Vec<String> = paths
        .iter()
        .map(|path| short_name(path).to_owned())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Returns the last part of `path`.
pub(crate) fn short_name(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> Vec<String> {
        ["layers.0.q_proj", "layers.0.o_proj", "layers.1.q_proj"]
            .map(str::to_owned)
            .to_vec()
    }

    #[test]
    fn a_name_selects_by_whole_parts_of_the_path() {
        let names = |name: &str| Targets::Names(vec![name.into()]).select(&paths());
        assert_eq!(names("q_proj").unwrap(), [true, false, true]);
        assert_eq!(names("0.q_proj").unwrap(), [true, false, false]);
        let error = names("proj").unwrap_err().to_string();
        assert_eq!(
            error,
            "no linear layer is called `proj`; this model has: o_proj, q_proj"
        );
    }

    #[test]
    fn a_pattern_must_match_the_whole_path() {
        let regex = |pattern: &str| Targets::Regex(pattern.into()).select(&paths());
        assert_eq!(regex(r".*\.0\..*").unwrap(), [true, true, false]);
        assert_eq!(regex(r".*q_proj|.*o_proj").unwrap(), [true; 3]);
        assert_eq!(regex(r"(?!.*o_proj).*").unwrap(), [true, false, true]);
        assert!(matches!(
            regex("q_proj"),
            Err(LoraError::InvalidPattern { .. })
        ));
        assert!(matches!(regex("("), Err(LoraError::InvalidPattern { .. })));
    }

    #[test]
    fn targets_are_written_as_peft_writes_them() {
        for (targets, json) in [
            (Targets::AllLinear, r#""all-linear""#),
            (Targets::Names(vec!["q".into()]), r#"["q"]"#),
            (Targets::Regex(".*q".into()), r#"".*q""#),
        ] {
            assert_eq!(serde_json::to_string(&targets).unwrap(), json);
            assert_eq!(serde_json::from_str::<Targets>(json).unwrap(), targets);
        }
    }
}
