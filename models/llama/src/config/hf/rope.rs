//! Rotary positions in a config.json, as transformers reads them (`modeling_rope_utils.py`).

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::Keys;
use super::unread::{is_nothing, is_one_of};
use crate::config::DecoderConfig;
use crate::error::DecoderError;
use crate::rope::{RopeConfig, RopeScaling};

/// Words of one or the other scaling, which are without effect beside another.
const OF_SOME_SCALING: &[&str] = &[
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "short_factor",
    "long_factor",
    "low_freq_factor",
    "high_freq_factor",
];

/// Words without effect anywhere.
const WITHOUT_EFFECT: &[&str] = &["finetuned", "max_position_embeddings", "type", "rope_type"];

/// Factors that other programs have beside yarn.
const IGNORED_FACTORS: [&str; 2] = ["attn_factor", "extrapolation_factor"];

/// The keys of one rotation: an object of its own, and keys beside that.
pub(crate) struct RopeKeys<'k, 'a> {
    /// The model's.
    pub top: &'k Keys<'a>,
    /// The rotation's; of an empty object where it has none.
    pub own: Keys<'a>,
}

impl<'a> Keys<'a> {
    /// Returns the keys of the only rotation.
    ///
    /// transformers 5 keeps everything in `rope_parameters`; before, theta stood at the top and the scaling in
    /// `rope_scaling`, which wins where both are there.
    pub(crate) fn rope_keys(&self) -> Result<RopeKeys<'_, 'a>, DecoderError> {
        let new = self.object("rope_parameters")?;
        let old = self.object("rope_scaling")?.filter(|old| !old.is_empty());
        let own = old.or(new).unwrap_or_else(|| self.empty("rope_parameters"));
        Ok(RopeKeys { top: self, own })
    }

    /// Returns the keys of an object that is not there.
    pub(crate) fn empty(&self, key: &str) -> Keys<'a> {
        static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
        self.inside(key, &EMPTY)
    }

    /// Reads the rotation of a model that has one for all layers and rotates whole heads; of the scalings, longrope is read by
    /// Phi-3 alone.
    pub(crate) fn rope(&self, config: &DecoderConfig) -> Result<RopeConfig, DecoderError> {
        self.rope_keys()?
            .read(config, "rope_theta", config.family.defaults().rope_theta)
    }
}

impl RopeKeys<'_, '_> {
    /// Reads the rotation of whole heads; the base can also stand under `theta_key` of the model.
    pub(crate) fn read(
        &self,
        config: &DecoderConfig,
        theta_key: &str,
        absent_theta: f64,
    ) -> Result<RopeConfig, DecoderError> {
        for keys in [self.top, &self.own] {
            if let Some(part) = keys.optional_number("partial_rotary_factor")?
                && part != 1.0
            {
                return Err(keys.unsupported_setting("partial_rotary_factor", &json!(part)));
            }
        }
        let kind = self.kind()?;
        let rope = RopeConfig::new()
            .with_theta(self.theta(theta_key, absent_theta)?)
            .with_scaling(self.scaling(kind, config)?);
        self.judge_the_rest(kind)?;
        Ok(rope)
    }

    /// Reads the kind of scaling.
    pub(crate) fn kind(&self) -> Result<&str, DecoderError> {
        let (new, old) = (self.own.text("rope_type")?, self.own.text("type")?);
        Ok(new.or(old).unwrap_or("default"))
    }

    /// Reads the base: the rotation's own, or that which the model has under `top`.
    pub(crate) fn theta(&self, top: &str, absent: f64) -> Result<f64, DecoderError> {
        let beside = self.top.optional_number(top)?;
        let own = self.own.optional_number("rope_theta")?;
        Ok(own.or(beside).unwrap_or(absent))
    }

    /// Reads a scaling of a kind that every family has.
    fn scaling(&self, kind: &str, config: &DecoderConfig) -> Result<RopeScaling, DecoderError> {
        let context = config.max_position_embeddings as f64;
        let need = |key: &str| {
            let number = self.own.optional_number(key)?;
            number.ok_or_else(|| self.own.incomplete(kind, key))
        };
        match kind {
            "default" => Ok(RopeScaling::Default),
            "linear" => Ok(RopeScaling::Linear {
                factor: need("factor")?,
            }),
            "dynamic" => Ok(RopeScaling::Dynamic {
                factor: need("factor")?,
                max_position_embeddings: context,
            }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: need("low_freq_factor")?,
                high_freq_factor: need("high_freq_factor")?,
                original_max_position_embeddings: self.original_context(context)?,
            }),
            "yarn" => self.yarn(context),
            other => Err(self.own.unsupported(
                "rope type",
                other,
                "known are default, linear, dynamic, yarn and llama3, and longrope in Phi-3",
            )),
        }
    }

    fn yarn(&self, context: f64) -> Result<RopeScaling, DecoderError> {
        let own = &self.own;
        let original = self.original_context(context)?;
        // null says that it follows from the contexts.
        let factor = match own.optional_number("factor")? {
            None if own.states("factor") => context / original,
            None => return Err(own.incomplete("yarn", "factor")),
            Some(factor) => factor,
        };
        let growth = |scale: f64| {
            if factor <= 1.0 {
                1.0
            } else {
                0.1 * scale * factor.ln() + 1.0
            }
        };
        let nonzero = |key: &str| -> Result<Option<f64>, DecoderError> {
            Ok(own.optional_number(key)?.filter(|value| *value != 0.0))
        };
        let inferred = match (nonzero("mscale")?, nonzero("mscale_all_dim")?) {
            (Some(scale), Some(all_dim)) => growth(scale) / growth(all_dim),
            _ => growth(1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: original,
            beta_fast: nonzero("beta_fast")?.unwrap_or(32.0),
            beta_slow: nonzero("beta_slow")?.unwrap_or(1.0),
            truncate: own.optional_flag("truncate")?.unwrap_or(true),
            attention_factor: own.optional_number("attention_factor")?.unwrap_or(inferred),
        })
    }

    /// Reads longrope, whose context of pretraining is `original`.
    pub(crate) fn longrope(
        &self,
        original: usize,
        config: &DecoderConfig,
    ) -> Result<RopeScaling, DecoderError> {
        let own = &self.own;
        let ratio = config.max_position_embeddings as f64 / original as f64;
        let factor = own.optional_number("factor")?.unwrap_or(ratio);
        let inferred = if factor <= 1.0 {
            1.0
        } else {
            (1.0 + factor.ln() / (original as f64).ln()).sqrt()
        };
        Ok(RopeScaling::LongRope {
            short_factor: own.numbers("short_factor")?,
            long_factor: own.numbers("long_factor")?,
            original_max_position_embeddings: original,
            attention_factor: own.optional_number("attention_factor")?.unwrap_or(inferred),
        })
    }

    /// Reads the context of pretraining: the model's own key wins over the rotation's.
    pub(crate) fn original_context(&self, absent: f64) -> Result<f64, DecoderError> {
        const KEY: &str = "original_max_position_embeddings";
        let (top, own) = (
            self.top.optional_number(KEY)?,
            self.own.optional_number(KEY)?,
        );
        if let (Some(top), Some(own)) = (top, own)
            && top != own
        {
            self.own.warn(
                KEY,
                &format!("is {own}, and {top} beside the rotation wins"),
            );
        }
        Ok(top.or(own).unwrap_or(absent))
    }

    /// Judges the keys of the rotation that nobody asked for.
    pub(crate) fn judge_the_rest(&self, kind: &str) -> Result<(), DecoderError> {
        for (key, value) in self.own.unread() {
            if is_nothing(value) || is_one_of(WITHOUT_EFFECT, key) {
                continue;
            }
            if is_one_of(OF_SOME_SCALING, key) {
                self.own
                    .warn(key, &format!("is without effect beside rope type {kind}"));
                continue;
            }
            if !IGNORED_FACTORS.contains(&key) {
                return Err(self.own.unsupported_setting(key, value));
            }
            if value.as_f64() != Some(1.0) {
                self.own.warn(key, "is left out, as transformers does");
            }
        }
        Ok(())
    }
}
