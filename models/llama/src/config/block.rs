//! What a block is made of.

use serde::{Deserialize, Serialize};

/// What one layer has of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerConfig {
    /// Keys that a query sees, its own included; `None` for all before it.
    pub window: Option<usize>,
    /// The rotation of queries and keys, by its number in
    /// [`DecoderConfig::rotations`](crate::DecoderConfig::rotations); `None` where they do not rotate.
    pub rotation: Option<usize>,
}

/// All keys, and the first rotation.
impl Default for LayerConfig {
    fn default() -> Self {
        Self {
            window: None,
            rotation: Some(0),
        }
    }
}

/// Where a block has norms: around each of attention and MLP, whose result is then added to the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NormPlacement {
    /// Of what goes in: `h + f(norm(h))`.
    Before,
    /// Of what comes out: `h + norm(f(h))`.
    After,
    /// Of both: `h + norm(f(norm(h)))`.
    Around,
}

impl NormPlacement {
    /// Returns whether what goes in is normalized.
    pub fn before(self) -> bool {
        self != Self::After
    }

    /// Returns whether what comes out is normalized.
    pub fn after(self) -> bool {
        self != Self::Before
    }
}

/// The extent of the norm of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueryKeyNorm {
    /// Over each head, with one weight `[head_dim]` for all heads.
    Head,
    /// Over all heads at once, with a weight of the projection's width.
    Width,
}

/// The projections of a block that have biases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Biases {
    /// Of q, k and v.
    pub query_key_value: bool,
    /// Of o.
    pub output: bool,
    /// Of gate, up and down.
    pub mlp: bool,
}
