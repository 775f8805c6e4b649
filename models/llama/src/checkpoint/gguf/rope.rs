//! Rotary positions in the metadata.

use super::keys::GgufKeys;
use crate::error::DecoderError;
use crate::rope::{RopeConfig, RopeScaling};

pub(super) const FACTORS: &str = "rope_freqs.weight";
pub(super) const SHORT_FACTORS: &str = "rope_factors_short.weight";
pub(super) const LONG_FACTORS: &str = "rope_factors_long.weight";

impl GgufKeys<'_> {
    /// Reads the rotation of whole heads of `head_dim` values.
    pub(crate) fn rope(&self, head_dim: usize) -> Result<RopeConfig, DecoderError> {
        let rope = self.partial_rope(head_dim)?;
        match rope.rotary_dim {
            None => Ok(rope),
            Some(width) => {
                let expected = format!("the head width, {head_dim}");
                Err(self.invalid("rope.dimension_count", width, &expected))
            }
        }
    }

    /// Reads the rotation of heads of `head_dim` values, or of their first ones.
    pub(crate) fn partial_rope(&self, head_dim: usize) -> Result<RopeConfig, DecoderError> {
        let width = self.integer("rope.dimension_count")?.unwrap_or(head_dim);
        Ok(RopeConfig::new()
            .with_theta(self.number("rope.freq_base")?.unwrap_or(10_000.0))
            .with_rotary_dim((width != head_dim).then_some(width))
            .with_scaling(self.rope_scaling(width)?))
    }

    /// Reads the context length of pretraining, which is that of the model where the file does not say.
    pub(crate) fn original_context(&self) -> Result<usize, DecoderError> {
        match self.positive_integer("rope.scaling.original_context_length")? {
            Some(length) => Ok(length),
            None => self.size("context_length"),
        }
    }

    fn rope_scaling(&self, width: usize) -> Result<RopeScaling, DecoderError> {
        // A note where nothing depends on it.
        self.integer("rope.scaling.original_context_length")?;
        let stretched = self.has_tensor(SHORT_FACTORS) || self.has_tensor(LONG_FACTORS);
        let scaling = match self.text("rope.scaling.type")? {
            Some("yarn") => self.yarn()?,
            Some("longrope") => self.longrope(width)?,
            None if stretched => self.longrope(width)?,
            None => match self.factor()? {
                Some(factor) => RopeScaling::Linear { factor },
                None => RopeScaling::Default,
            },
            Some("linear") => RopeScaling::Linear {
                factor: self
                    .factor()?
                    .ok_or_else(|| self.missing("rope.scaling.factor"))?,
            },
            Some("none") => {
                self.factor()?;
                RopeScaling::Default
            }
            Some(other) => {
                let expected =
                    "known are none, linear, yarn, longrope and a tensor rope_freqs.weight";
                return Err(self.unsupported("rope type", other, expected));
            }
        };
        if matches!(scaling, RopeScaling::Linear { .. } | RopeScaling::Default) {
            let key = "rope.scaling.attn_factor";
            if let Some(factor) = self.number(key)?
                && factor != 1.0
            {
                return Err(self.invalid(key, factor, "1, without yarn and longrope"));
            }
        }
        if !self.has_tensor(FACTORS) {
            return Ok(scaling);
        }
        if scaling != RopeScaling::Default {
            let found = "scaled, with rope_freqs.weight";
            return Err(self.unsupported("rope type", found, "one of the two"));
        }
        // How llama.cpp stores the scaling of LLaMA 3.1 and later.
        let factors = self.read_vector(FACTORS, width / 2)?;
        Ok(RopeScaling::Factors(factors))
    }

    /// Reads the divisor of the frequencies; the second key is that of old files.
    fn factor(&self) -> Result<Option<f64>, DecoderError> {
        let old = self.nonzero("rope.scale_linear")?;
        Ok(self.nonzero("rope.scaling.factor")?.or(old))
    }

    fn yarn(&self) -> Result<RopeScaling, DecoderError> {
        let factor = self
            .factor()?
            .ok_or_else(|| self.missing("rope.scaling.factor"))?;
        let extension = "rope.scaling.yarn_ext_factor";
        // Negative stands for unset.
        match self.number(extension)? {
            Some(mix) if mix >= 0.0 && mix != 1.0 => {
                return Err(self.invalid(extension, mix, "1, a whole ramp"));
            }
            _ => {}
        }
        let magnitude = |scale: f64| yarn_magnitude(factor, scale);
        let whole = self.nonzero("rope.scaling.yarn_log_multiplier")?;
        let attention_factor = match (self.nonzero("rope.scaling.yarn_attn_factor")?, whole) {
            (Some(given), _) => given,
            (None, Some(whole)) => magnitude(1.0) / magnitude(whole),
            (None, None) => magnitude(1.0),
        };
        let further = self.nonzero("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let beta = |key: &str, default| Ok::<_, DecoderError>(self.number(key)?.unwrap_or(default));
        Ok(RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: self.original_context()? as f64,
            beta_fast: beta("rope.scaling.yarn_beta_fast", 32.0)?,
            beta_slow: beta("rope.scaling.yarn_beta_slow", 1.0)?,
            truncate: true,
            attention_factor: attention_factor * further,
        })
    }

    fn longrope(&self, width: usize) -> Result<RopeScaling, DecoderError> {
        for name in [SHORT_FACTORS, LONG_FACTORS] {
            if !self.has_tensor(name) {
                let expected = format!("it needs the tensor {name}, which is not there");
                return Err(self.unsupported("rope type", "longrope", &expected));
            }
        }
        // Of the longer context over the first, which the lists of factors stand for.
        self.factor()?;
        let factors = |name: &str| {
            let factors = self.read_vector(name, width / 2)?;
            Ok::<_, DecoderError>(factors.into_iter().map(decimal).collect())
        };
        let magnitude = "rope.scaling.attn_factor";
        Ok(RopeScaling::LongRope {
            short_factor: factors(SHORT_FACTORS)?,
            long_factor: factors(LONG_FACTORS)?,
            original_max_position_embeddings: self.original_context()?,
            attention_factor: self
                .number(magnitude)?
                .ok_or_else(|| self.missing(magnitude))?,
        })
    }
}

/// Returns the factor of rotated values that YaRN takes for a context stretched by `factor`.
pub(super) fn yarn_magnitude(factor: f64, scale: f64) -> f64 {
    if factor > 1.0 {
        0.1 * scale * factor.ln() + 1.0
    } else {
        1.0
    }
}

/// Returns the shortest decimal that rounds to `value`: what a config.json has.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
