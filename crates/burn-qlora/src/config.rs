//! Which layers are adapted, and how.

use crate::error::LoraError;
use serde::{Deserialize, Serialize};

/// The shape of the adapters: `y = W x + s · B A x` with `A: [rank, in]`, `B: [out, rank]`.
///
/// `s` is `alpha / rank`, or `alpha / √rank` with [`rslora`](Self::rslora) (arXiv 2312.03732).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of the low-rank product, at least 1.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Probability of dropping an input of the branch while training, in `[0, 1)`.
    #[serde(default)]
    pub dropout: f64,
    /// Scale by `alpha / √rank` instead of `alpha / rank`.
    #[serde(default)]
    pub rslora: bool,
    /// The layers that get an adapter.
    #[serde(default)]
    pub targets: Targets,
}

/// The largest rank: beyond the width of any layer, and small enough that no size computed from it overflows.
const MAX_RANK: usize = 1 << 20;

impl Default for LoraConfig {
    /// Returns rank 16, alpha 16, no dropout, all linear layers.
    fn default() -> Self {
        Self::new(16, 16.0)
    }
}

impl LoraConfig {
    /// Adapters of `rank` and `alpha` on all linear layers, without dropout.
    pub fn new(rank: usize, alpha: f64) -> Self {
        Self {
            rank,
            alpha,
            dropout: 0.0,
            rslora: false,
            targets: Targets::AllLinear,
        }
    }

    /// Returns the same with another dropout probability.
    pub fn with_dropout(mut self, dropout: f64) -> Self {
        self.dropout = dropout;
        self
    }

    /// Returns the same with rank-stabilized scaling on or off.
    pub fn with_rslora(mut self, rslora: bool) -> Self {
        self.rslora = rslora;
        self
    }

    /// Returns the same for other layers.
    pub fn with_targets(mut self, targets: Targets) -> Self {
        self.targets = targets;
        self
    }

    /// Returns the factor of the low-rank product.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Checks every field for itself.
    ///
    /// # Errors
    /// [`LoraError::InvalidConfig`] for a rank of 0 or above 1048576, an alpha that is not finite or whose scale is beyond
    /// f32, a dropout outside `[0, 1)`, or an empty list of names.
    pub fn validate(&self) -> Result<(), LoraError> {
        let invalid = |field, value: String, expected| {
            Err(LoraError::InvalidConfig {
                field,
                value,
                expected,
            })
        };
        if self.rank == 0 || self.rank > MAX_RANK {
            return invalid("rank", self.rank.to_string(), "from 1 to 1048576");
        }
        if !self.alpha.is_finite() {
            return invalid("alpha", self.alpha.to_string(), "a finite number");
        }
        let scale = self.scale() as f32;
        if !scale.is_finite() || (scale == 0.0 && self.alpha != 0.0) {
            let value = format!("{:e}", self.alpha);
            return invalid(
                "alpha",
                value,
                "such that the scale is neither beyond f32 nor rounded to 0",
            );
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return invalid("dropout", self.dropout.to_string(), "in [0, 1)");
        }
        if matches!(&self.targets, Targets::Names(names) if names.is_empty()) {
            return invalid("targets", "[]".into(), "at least one layer name");
        }
        Ok(())
    }
}

/// The layers that get an adapter, as peft's `target_modules` says it.
///
/// In text form a list is [`Names`](Self::Names), the string `all-linear` is
/// [`AllLinear`](Self::AllLinear) and any other string is a [`Regex`](Self::Regex).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "TargetsText", into = "TargetsText")]
pub enum Targets {
    /// Every linear layer the model offers (never the head).
    #[default]
    AllLinear,
    /// Layers whose path is one of these names or ends in `.name`.
    Names(Vec<String>),
    /// Layers whose whole path matches this regular expression.
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
            TargetsText::Text(text) if text == ALL_LINEAR => Self::AllLinear,
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
        match self {
            Self::AllLinear => Ok(vec![true; paths.len()]),
            Self::Names(names) => {
                if let Some(unknown) = names
                    .iter()
                    .find(|name| !paths.iter().any(|path| is_named(path, name)))
                {
                    return Err(LoraError::UnknownTarget {
                        target: unknown.clone(),
                        known: short_names(paths),
                    });
                }
                Ok(paths
                    .iter()
                    .map(|path| names.iter().any(|name| is_named(path, name)))
                    .collect())
            }
            Self::Regex(pattern) => {
                let invalid = |reason: String| LoraError::InvalidPattern {
                    pattern: pattern.clone(),
                    reason,
                    known: short_names(paths),
                };
                // peft matches the whole path (`re.fullmatch`).
                let regex = regex::Regex::new(&format!("^(?:{pattern})$"))
                    .map_err(|error| invalid(format!("cannot be compiled ({error})")))?;
                let selected: Vec<bool> = paths.iter().map(|path| regex.is_match(path)).collect();
                if !selected.contains(&true) {
                    return Err(invalid("matches no layer".into()));
                }
                Ok(selected)
            }
        }
    }
}

/// Returns whether `path` is `name` or ends in `.name`.
fn is_named(path: &str, name: &str) -> bool {
    path == name
        || path
            .strip_suffix(name)
            .is_some_and(|head| head.ends_with('.'))
}

/// Returns the distinct last parts of `paths`, sorted.
pub(crate) fn short_names(paths: &[String]) -> Vec<String> {
    let mut names: Vec<String> = paths
        .iter()
        .filter_map(|path| path.rsplit('.').next())
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    names
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

    #[test]
    fn impossible_configurations_are_refused() {
        for config in [
            LoraConfig::new(0, 16.0),
            LoraConfig::new(8, f64::NAN),
            LoraConfig::new(8, 16.0).with_dropout(1.0),
            LoraConfig::new(8, 16.0).with_dropout(-0.1),
            LoraConfig::new(8, 16.0).with_targets(Targets::Names(vec![])),
        ] {
            assert!(matches!(
                config.validate(),
                Err(LoraError::InvalidConfig { .. })
            ));
        }
        assert!(LoraConfig::default().validate().is_ok());
    }
}
