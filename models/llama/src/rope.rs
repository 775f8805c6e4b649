//! Rotary position embedding: which values of a head rotate, how fast, and the tables of angles.
//!
//! - [`RopeConfig`]: one rotation, as data. A model can have several, one for each kind of layer.
//! - `scaling`: [`RopeScaling`], the changes for contexts longer than those of pretraining.
//! - `frequencies`: radians a token, from both.
//! - `positions`: [`Positions`], the tables of one forward pass, and [`Rope`], which makes them.

mod frequencies;
mod positions;
mod scaling;

pub use positions::{Positions, Rope, RotaryTable, Rotation};
pub use scaling::RopeScaling;

use std::path::Path;

use burn::config::Config;
use serde::{Deserialize, Serialize};

use crate::error::DecoderError;

/// One rotation of queries and keys by their positions.
#[derive(Config, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric row of frequencies.
    #[config(default = 10000.0)]
    pub theta: f64,
    /// Values of a head that rotate, its first ones; `None` for all.
    pub rotary_dim: Option<usize>,
    /// Change of the frequencies for contexts longer than those of pretraining.
    #[config(default = "RopeScaling::Default")]
    pub scaling: RopeScaling,
    /// A factor of the queries that grows with their positions.
    pub query_scaling: Option<QueryScaling>,
}

/// The factor `1 + beta · ln(1 + floor(position / original_max_position_embeddings))` of queries alone, by which Llama 4
/// and Ministral 3 sharpen attention over long contexts (transformers' `get_llama_4_attn_scale`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryScaling {
    /// The growth; `llama_4_scaling_beta` in config.json.
    pub beta: f64,
    /// Positions below this have the factor 1.
    pub original_max_position_embeddings: f64,
}

impl RopeConfig {
    /// Returns how many values of a head of `head_dim` rotate.
    pub fn rotary_dim_of(&self, head_dim: usize) -> usize {
        self.rotary_dim.unwrap_or(head_dim)
    }

    pub(crate) fn validate(&self, head_dim: usize, path: &Path) -> Result<(), DecoderError> {
        positive(path, "rope_theta", self.theta)?;
        let rotary_dim = self.rotary_dim_of(head_dim);
        if rotary_dim == 0 || rotary_dim > head_dim || !rotary_dim.is_multiple_of(2) {
            return Err(DecoderError::InvalidValue {
                path: path.to_path_buf(),
                key: "partial_rotary_factor".into(),
                found: format!("one that rotates {rotary_dim} of {head_dim} values"),
                expected: "an even number of values, at least 2".into(),
            });
        }
        if let Some(scaling) = self.query_scaling {
            positive(path, "llama_4_scaling_beta", scaling.beta)?;
            positive(
                path,
                "original_max_position_embeddings",
                scaling.original_max_position_embeddings,
            )?;
        }
        self.scaling.validate(rotary_dim, path)
    }
}

/// Checks a number of a configuration.
fn positive(path: &Path, key: &str, value: f64) -> Result<(), DecoderError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(DecoderError::InvalidValue {
        path: path.to_path_buf(),
        key: key.into(),
        found: value.to_string(),
        expected: "a positive number".into(),
    })
}
