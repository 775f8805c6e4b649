//! Which layers are adapted, and how.
//!
//! - `targets`: sets of layers, by name or by regular expression
//! - `blocks`: adapters on some of the blocks alone
//! - `overrides`: ranks and alphas that differ from layer to layer
//! - `pattern`: regular expressions as peft matches them
//! - `tokens`: tokens whose rows are trained

mod blocks;
mod overrides;
mod pattern;
mod targets;
mod tokens;

pub use blocks::Blocks;
pub use overrides::Overrides;
pub use targets::Targets;
pub(crate) use targets::{is_named, short_name, short_names};
pub use tokens::TokenIndices;

use crate::error::LoraError;
use serde::{Deserialize, Serialize};
use targets::unknown_target;

/// The shape of the adapters: `y = W x + s · B A x` with `A: [rank, in]`, `B: [out, rank]`.
///
/// `s` is `alpha / rank`, or `alpha / √rank` with [`rslora`](Self::rslora) (arXiv 2312.03732). Rank and alpha are those of
/// every layer but the ones that [`rank_pattern`](Self::rank_pattern) and [`alpha_pattern`](Self::alpha_pattern) name;
/// [`of_layers`](Self::of_layers) tells what each layer gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of the low-rank product, from 1 to [`MAX_RANK`](Self::MAX_RANK).
    pub rank: usize,
    /// Numerator of the scale, not 0.
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
    /// Layers among these that get none after all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude: Option<Targets>,
    /// The blocks whose layers get adapters, `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Blocks>,
    /// Layers of another rank.
    #[serde(default, skip_serializing_if = "Overrides::is_empty")]
    pub rank_pattern: Overrides<usize>,
    /// Layers of another alpha.
    #[serde(default, skip_serializing_if = "Overrides::is_empty")]
    pub alpha_pattern: Overrides<f64>,
    /// Names of the layers beside the adapted ones, such as `lm_head`, whose whole weight belongs to the adapter. They are
    /// frozen here, and saved with it as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules_to_save: Vec<String>,
    /// Tokens whose rows of embedding and head are trained beside the adapters.
    #[serde(default, skip_serializing_if = "TokenIndices::is_empty")]
    pub trainable_token_indices: TokenIndices,
}

impl Default for LoraConfig {
    /// Returns rank 16, alpha 16, no dropout, all linear layers.
    fn default() -> Self {
        Self::new(16, 16.0)
    }
}

impl LoraConfig {
    /// The largest rank: beyond the width of any layer, and small enough that no size computed from it overflows.
    pub const MAX_RANK: usize = 1 << 20;

    /// Adapters of `rank` and `alpha` on all linear layers, without dropout.
    pub fn new(rank: usize, alpha: f64) -> Self {
        Self {
            rank,
            alpha,
            dropout: 0.0,
            rslora: false,
            targets: Targets::AllLinear,
            exclude: None,
            blocks: None,
            rank_pattern: Overrides::default(),
            alpha_pattern: Overrides::default(),
            modules_to_save: Vec::new(),
            trainable_token_indices: TokenIndices::default(),
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

    /// Returns the same with other ranks where these patterns say so.
    pub fn with_rank_pattern(mut self, ranks: Overrides<usize>) -> Self {
        self.rank_pattern = ranks;
        self
    }

    /// Returns the same with other alphas where these patterns say so.
    pub fn with_alpha_pattern(mut self, alphas: Overrides<f64>) -> Self {
        self.alpha_pattern = alphas;
        self
    }

    /// Returns the same with the rows of these tokens trained as well.
    pub fn with_trainable_token_indices(mut self, tokens: TokenIndices) -> Self {
        self.trainable_token_indices = tokens;
        self
    }

    /// Returns the factor of the low-rank product, of a layer that no pattern names.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Returns the configuration of each of the layers `paths` (such as `model.layers.0.self_attn.q_proj`), with that layer's rank
    /// and alpha, `None` for a layer without an adapter.
    ///
    /// # Errors
    /// [`LoraError::UnknownTarget`] when a name fits none of the paths, [`LoraError::InvalidPattern`] when a pattern is no
    /// regular expression or fits none of the paths.
    pub fn of_layers(&self, paths: &[String]) -> Result<Vec<Option<Self>>, LoraError> {
        let selected = self.selected(self.targets.select(paths)?, paths)?;
        let own = self.with_own_ranks(paths, true)?;
        let layers = selected.into_iter().zip(own);
        Ok(layers
            .map(|(selected, own)| selected.then_some(own))
            .collect())
    }

    /// Returns the configuration of each of the layers `paths`, as [`of_layers`](Self::of_layers) does, and that of the head at the path
    /// `head`, where the model has one that can carry an adapter: `None` where it gets none. [`Targets::AllLinear`] does not mean
    /// it, as in peft; a name or a pattern does.
    ///
    /// # Errors
    /// Those of [`of_layers`](Self::of_layers).
    pub fn of_layers_and_head(
        &self,
        paths: &[String],
        head: Option<&str>,
    ) -> Result<(Vec<Option<Self>>, Option<Self>), LoraError> {
        let Some(head) = head.filter(|_| self.targets != Targets::AllLinear) else {
            return Ok((self.of_layers(paths)?, None));
        };
        let mut layers = self.of_layers(&[paths, &[head.to_owned()]].concat())?;
        let head = layers.pop().flatten();
        Ok((layers, head))
    }

    /// Returns the same without the names and patterns that fit none of `paths`, as peft passes them over: adapters are written
    /// with one list of names for many architectures.
    ///
    /// # Errors
    /// [`LoraError::InvalidPattern`] when a pattern is no regular expression, and [`LoraError::UnknownTarget`] when no layer
    /// would be left and nothing else is of the adapter.
    pub fn fitted_to(mut self, paths: &[String]) -> Result<Self, LoraError> {
        if let Targets::Names(names) = &mut self.targets {
            let fits = |name: &str| paths.iter().any(|path| is_named(path, name));
            if let Some(first) = names.first().cloned() {
                names.retain(|name| fits(name));
                if names.is_empty() && self.modules_to_save.is_empty() {
                    return Err(unknown_target(&first, paths));
                }
            }
        }
        self.rank_pattern = self.rank_pattern.fitted_to(paths)?;
        self.alpha_pattern = self.alpha_pattern.fitted_to(paths)?;
        Ok(self)
    }

    /// peft's `check_target_module_exists`, given what the targets alone select.
    fn selected(&self, targeted: Vec<bool>, paths: &[String]) -> Result<Vec<bool>, LoraError> {
        let mut selected = targeted;
        if let Some(exclude) = &self.exclude {
            let excluded = exclude.matches(paths)?;
            for (selected, excluded) in selected.iter_mut().zip(excluded) {
                *selected &= !excluded;
            }
        }
        if let (Some(blocks), Targets::Names(_)) = (&self.blocks, &self.targets) {
            let contained = blocks.contain(paths)?;
            for ((selected, contained), path) in selected.iter_mut().zip(contained).zip(paths) {
                *selected &= contained || self.targets.names_whole(path);
            }
        }
        Ok(selected)
    }

    /// Returns the configuration that each of `paths` has where it is adapted. `strict` asks every pattern to fit one.
    fn with_own_ranks(&self, paths: &[String], strict: bool) -> Result<Vec<Self>, LoraError> {
        let ranks = self.rank_pattern.of_layers(paths, strict)?;
        let alphas = self.alpha_pattern.of_layers(paths, strict)?;
        let layers = ranks.into_iter().zip(alphas);
        Ok(layers
            .map(|(rank, alpha)| {
                Self::new(rank.unwrap_or(self.rank), alpha.unwrap_or(self.alpha))
                    .with_dropout(self.dropout)
                    .with_rslora(self.rslora)
            })
            .collect())
    }

    /// Returns the configuration that the layer `path` has where it is adapted.
    ///
    /// # Errors
    /// [`LoraError::InvalidPattern`].
    pub(crate) fn of_layer(&self, path: &str) -> Result<Self, LoraError> {
        let mut own = self.with_own_ranks(&[path.to_owned()], false)?;
        Ok(own.remove(0))
    }

    /// Checks every field for itself.
    ///
    /// # Errors
    /// [`LoraError::InvalidConfig`] for a rank of 0 or beyond [`MAX_RANK`](Self::MAX_RANK), an alpha that is 0, not finite or such
    /// that the scale is beyond f32, a dropout outside `[0, 1)`, an empty list of names, or a token whose row is trained twice.
    pub fn validate(&self) -> Result<(), LoraError> {
        let invalid = |field, value: String, expected| {
            Err(LoraError::InvalidConfig {
                field,
                value,
                expected,
            })
        };
        let ranks = self
            .rank_pattern
            .iter()
            .map(|(_, rank)| ("rank_pattern", rank));
        for (field, rank) in ranks.chain([("rank", self.rank)]) {
            if !(1..=Self::MAX_RANK).contains(&rank) {
                return invalid(field, rank.to_string(), "from 1 to 1048576");
            }
        }
        let alphas = self
            .alpha_pattern
            .iter()
            .map(|(_, alpha)| ("alpha_pattern", alpha));
        for (field, alpha) in alphas.chain([("alpha", self.alpha)]) {
            if !alpha.is_finite() || alpha == 0.0 {
                return invalid(field, alpha.to_string(), "a finite number other than 0");
            }
        }
        let scale = self.scale() as f32;
        if !scale.is_finite() || scale == 0.0 {
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
        self.trainable_token_indices.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_configurations_are_refused() {
        let ranks = |rank| [("q".to_owned(), rank)].into_iter().collect();
        let alphas = |alpha| [("q".to_owned(), alpha)].into_iter().collect();
        for config in [
            LoraConfig::new(0, 16.0),
            LoraConfig::new(LoraConfig::MAX_RANK + 1, 16.0),
            LoraConfig::new(8, f64::NAN),
            LoraConfig::new(8, 0.0),
            LoraConfig::new(8, 16.0).with_dropout(1.0),
            LoraConfig::new(8, 16.0).with_dropout(-0.1),
            LoraConfig::new(8, 16.0).with_targets(Targets::Names(vec![])),
            LoraConfig::new(8, 16.0).with_rank_pattern(ranks(0)),
            LoraConfig::new(8, 16.0).with_alpha_pattern(alphas(f64::INFINITY)),
        ] {
            assert!(matches!(
                config.validate(),
                Err(LoraError::InvalidConfig { .. })
            ));
        }
        assert!(LoraConfig::default().validate().is_ok());
    }

    #[test]
    fn every_layer_has_its_rank_and_alpha() {
        let paths: Vec<String> = ["q", "k", "v"]
            .iter()
            .flat_map(|name| (0..2).map(move |layer| format!("model.layers.{layer}.{name}")))
            .collect();
        let config = LoraConfig {
            exclude: Some(Targets::Regex(r".*\.v".into())),
            blocks: Some(Blocks {
                numbers: vec![1],
                names: vec![],
            }),
            ..LoraConfig::new(8, 16.0)
        }
        .with_targets(Targets::Names(
            ["q", "k", "v", "model.layers.0.q"]
                .map(str::to_owned)
                .to_vec(),
        ))
        .with_rank_pattern([("0.q".to_owned(), 2)].into_iter().collect())
        .with_alpha_pattern([(r"layers\.\d\.k".to_owned(), 3.5)].into_iter().collect());
        let layers = config.of_layers(&paths).unwrap();
        let found: Vec<_> = layers
            .iter()
            .map(|layer| layer.as_ref().map(|layer| (layer.rank, layer.alpha)))
            .collect();
        let expected = [
            Some((2, 16.0)),
            Some((8, 16.0)),
            None,
            Some((8, 3.5)),
            None,
            None,
        ];
        assert_eq!(found, expected);

        let typo = config.with_rank_pattern([("o".to_owned(), 2)].into_iter().collect());
        assert!(matches!(
            typo.of_layers(&paths),
            Err(LoraError::InvalidPattern { .. })
        ));
        let fitted = typo.fitted_to(&paths).unwrap();
        assert!(fitted.rank_pattern.is_empty() && fitted.of_layers(&paths).is_ok());
    }
}
