//! The model families: how each one's files name its kind, and what they mean in terms of
//! [`DecoderConfig`].
//!
//! A file a family says what the keys of its config.json and of its GGUF metadata mean. Nothing but reading and writing
//! files asks for a family.

mod llama;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{DecoderConfig, Keys};
use crate::error::DecoderError;

/// A model family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Family {
    /// LLaMA (Meta).
    Llama,
}

/// What a family is called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// `model_type` in config.json.
    pub hf_model_type: &'static str,
    /// The class in `architectures` of config.json.
    pub hf_architecture: &'static str,
    /// `general.architecture` in GGUF metadata, where llama.cpp knows the family.
    #[cfg(feature = "gguf")]
    pub gguf_architecture: Option<&'static str>,
}

impl Family {
    /// Every family.
    pub const ALL: &[Self] = &[Self::Llama];

    pub(crate) fn names(self) -> Names {
        match self {
            Self::Llama => llama::NAMES,
        }
    }

    /// Returns the family that a config.json says it is of.
    pub(crate) fn of_hf(keys: &Keys) -> Result<Self, DecoderError> {
        let expected = || {
            let known = Self::ALL
                .iter()
                .map(|family| family.names().hf_architecture);
            format!("known are {}", known.collect::<Vec<_>>().join(", "))
        };
        let architectures = keys.get("architectures").and_then(Value::as_array);
        let named: Vec<&str> = architectures
            .map(|names| names.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let by_architecture = |family: &&Self| named.contains(&family.names().hf_architecture);
        let architecture = Self::ALL.iter().find(by_architecture).copied();
        if !named.is_empty() && architecture.is_none() {
            return Err(keys.unsupported("architecture", &named.join(", "), &expected()));
        }
        match keys.text("model_type")? {
            Some(kind) => Self::ALL
                .iter()
                .find(|family| family.names().hf_model_type == kind)
                .copied()
                .ok_or_else(|| keys.unsupported("model type", kind, &expected())),
            None => architecture.ok_or_else(|| keys.missing("model_type")),
        }
    }

    /// Returns the family that llama.cpp calls `architecture`.
    #[cfg(feature = "gguf")]
    pub(crate) fn of_gguf(architecture: &str) -> Option<Self> {
        let named = |family: &&Self| family.names().gguf_architecture == Some(architecture);
        Self::ALL.iter().find(named).copied()
    }

    /// Reads a config.json of this family.
    pub(crate) fn read_hf(self, keys: &Keys) -> Result<DecoderConfig, DecoderError> {
        match self {
            Self::Llama => llama::read_hf(keys),
        }
    }
}
