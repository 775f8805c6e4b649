//! Ranks and alphas that differ from layer to layer.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::pattern::Pattern;
use crate::error::LoraError;

/// Values of some layers, by regular expressions, as peft's `rank_pattern` and `alpha_pattern` have them.
///
/// The first expression that matches a layer's whole path, or the end of it after a dot, says the layer's value. In text form it is
/// a map, in this order.
#[derive(Debug, Clone, PartialEq)]
pub struct Overrides<T>(Vec<(String, T)>);

/// peft's get_pattern_key: `re.match(rf"(.*\.)?({key})$", path)`.
const LAYER: &str = r"^(?:.*\.)?(?:{})$";

impl<T> Default for Overrides<T> {
    /// Returns none.
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> FromIterator<(String, T)> for Overrides<T> {
    fn from_iter<I: IntoIterator<Item = (String, T)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl<T: Copy> Overrides<T> {
    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the expressions and their values, in the order in which they are tried.
    pub fn iter(&self) -> impl Iterator<Item = (&str, T)> {
        self.0
            .iter()
            .map(|(pattern, value)| (pattern.as_str(), *value))
    }

    /// Returns the same without the expressions that match none of `paths`.
    ///
    /// # Errors
    /// [`LoraError::InvalidPattern`].
    pub(super) fn fitted_to(self, paths: &[String]) -> Result<Self, LoraError> {
        let mut fitting = Vec::new();
        for (text, value) in self.0 {
            if Pattern::new(&text, LAYER, paths)?
                .matches()?
                .contains(&true)
            {
                fitting.push((text, value));
            }
        }
        Ok(Self(fitting))
    }

    /// Returns the value of each of `paths`, `None` where no expression matches. `strict` asks every expression to match a path.
    ///
    /// # Errors
    /// [`LoraError::InvalidPattern`].
    pub(super) fn of_layers(
        &self,
        paths: &[String],
        strict: bool,
    ) -> Result<Vec<Option<T>>, LoraError> {
        let mut values = vec![None; paths.len()];
        for (text, value) in self.iter() {
            let pattern = Pattern::new(text, LAYER, paths)?;
            let matches = pattern.matches()?;
            if strict && !matches.contains(&true) {
                return Err(pattern.without_a_match());
            }
            for (place, _) in values.iter_mut().zip(matches).filter(|(_, hit)| *hit) {
                place.get_or_insert(value);
            }
        }
        Ok(values)
    }
}

impl<T: Serialize> Serialize for Overrides<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(pattern, value)| (pattern, value)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Overrides<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

/// Reads a map in the order of its text. Of a key that comes twice the last value counts, as in Python.
struct InOrder<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
    type Value = Overrides<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from the patterns of layers to their values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries: Vec<(String, T)> = Vec::new();
        while let Some((pattern, value)) = map.next_entry::<String, T>()? {
            match entries.iter_mut().find(|(known, _)| *known == pattern) {
                Some((_, known)) => *known = value,
                None => entries.push((pattern, value)),
            }
        }
        Ok(Overrides(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What peft 0.21.2 answers to `get_pattern_key(keys, path)`.
    #[test]
    fn the_first_pattern_that_matches_the_end_of_a_path_counts() {
        let paths: Vec<String> = [
            "layers.1.q_proj",
            "layers.11.q_proj",
            "layers.1.fused_q_proj",
        ]
        .map(|path| format!("model.{path}"))
        .to_vec();
        for (patterns, expected) in [
            (vec![("q_proj", 3)], [Some(3), Some(3), None]),
            (vec![("1.q_proj", 3)], [Some(3), None, None]),
            (vec![("^model.layers.1.q_proj", 3)], [Some(3), None, None]),
            (vec![(".*q_proj", 3), ("q_proj", 4)], [Some(3); 3]),
            (
                vec![("q_proj", 4), (".*q_proj", 3)],
                [Some(4), Some(4), Some(3)],
            ),
            (vec![(r"layers\.\d\.(?!fused).*", 5)], [Some(5), None, None]),
            (vec![("a|q_proj", 6)], [Some(6), Some(6), None]),
        ] {
            let overrides: Overrides<usize> = patterns
                .iter()
                .map(|(pattern, value)| (pattern.to_string(), *value))
                .collect();
            let found = overrides.of_layers(&paths, false).unwrap();
            assert_eq!(found, expected, "{patterns:?}");
        }
    }

    #[test]
    fn they_are_read_and_written_in_their_order() {
        let text = r#"{"z":1,"a":2,"z":3}"#;
        let overrides: Overrides<usize> = serde_json::from_str(text).unwrap();
        let written = serde_json::to_string(&overrides).unwrap();
        assert_eq!(written, r#"{"z":3,"a":2}"#);
    }

    #[test]
    fn a_pattern_that_takes_too_long_is_refused() {
        let overrides = Overrides(vec![("(?=(a|a)+$)(a|a)+b".to_owned(), 1)]);
        let path = vec!["a".repeat(64)];
        let error = overrides.of_layers(&path, false).unwrap_err();
        assert!(matches!(error, LoraError::InvalidPattern { .. }), "{error}");
    }
}
