//! Adapters on some of the blocks alone.

use serde::{Deserialize, Serialize};

use crate::config::pattern::Pattern;
use crate::error::LoraError;

/// The blocks that are adapted, by their numbers, as peft's `layers_to_transform` and `layers_pattern` say it.
///
/// They narrow [`Targets::Names`](crate::Targets::Names) down, except for a name that is a layer's whole path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blocks {
    /// The blocks' numbers.
    pub numbers: Vec<usize>,
    /// What stands before the number in a path, each a regular expression; none for anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

impl Blocks {
    /// Returns which of `paths` lie in one of the blocks.
    ///
    /// # Errors
    /// [`LoraError::InvalidPattern`].
    pub(super) fn contain(&self, paths: &[String]) -> Result<Vec<bool>, LoraError> {
        // peft's check_target_module_exists: of several numbers in a path the first counts.
        let patterns = if self.names.is_empty() {
            vec![Pattern::new("", r"^.*?\.[^.]*\.(?P<idx>\d+)\.", paths)?]
        } else {
            let names = self.names.iter();
            names
                .map(|name| Pattern::new(name, r"^(?:|.*?\.){}\.(?P<idx>\d+)\.", paths))
                .collect::<Result<_, _>>()?
        };
        paths
            .iter()
            .map(|path| self.contains(&patterns, path))
            .collect()
    }

    fn contains(&self, patterns: &[Pattern<'_>], path: &str) -> Result<bool, LoraError> {
        for pattern in patterns {
            if let Some(found) = pattern.captures(path)? {
                let number = found
                    .name("idx")
                    .and_then(|number| number.as_str().parse().ok());
                return Ok(number.is_some_and(|number: usize| self.numbers.contains(&number)));
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What peft 0.21.2 answers to `check_target_module_exists`.
    #[test]
    fn the_first_number_of_a_path_is_the_block() {
        let paths: Vec<String> = [
            "model.layers.1.q",
            "model.h.1.q",
            "layers.1.q",
            "a.layers.2.x.1.q",
        ]
        .map(str::to_owned)
        .to_vec();
        for (names, expected) in [
            (vec![], [true, true, false, false]),
            (vec!["layers"], [true, false, true, false]),
            (vec!["h", "layers"], [true, true, true, false]),
            (vec!["x"], [false, false, false, true]),
        ] {
            let blocks = Blocks {
                numbers: vec![1, 7],
                names: names.iter().map(|name| name.to_string()).collect(),
            };
            assert_eq!(blocks.contain(&paths).unwrap(), expected, "{names:?}");
        }
    }
}
