//! The model families: how each one's files name its kind, and what they mean in terms of
//! [`DecoderConfig`].
//!
//! A file a family says what the keys of its config.json and of its GGUF metadata mean. Nothing but reading and writing
//! files asks for a family.

mod llama;

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[cfg(feature = "gguf")]
use crate::checkpoint::GgufKeys;
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
    /// What llama.cpp calls it, where it has a name of its own there.
    #[cfg(feature = "gguf")]
    pub gguf: Option<GgufNames>,
}

/// What a family is called in llama.cpp.
#[cfg(feature = "gguf")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct GgufNames {
    /// `general.architecture` in the metadata.
    pub architecture: &'static str,
    /// Whether the rows of q and k are stored so that neighbouring values of a head rotate together.
    pub interleaved: bool,
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
        let named = |family: &&Self| {
            let names = family.names().gguf;
            names.is_some_and(|names| names.architecture == architecture)
        };
        Self::ALL.iter().find(named).copied()
    }

    /// Returns the names of all families that llama.cpp knows, for an error.
    #[cfg(feature = "gguf")]
    pub(crate) fn known_to_llama_cpp() -> String {
        let names = Self::ALL.iter().filter_map(|family| family.names().gguf);
        let names: Vec<_> = names.map(|names| names.architecture).collect();
        format!("known are {}", names.join(", "))
    }

    /// Reads the GGUF metadata of this family.
    #[cfg(feature = "gguf")]
    pub(crate) fn read_gguf(self, keys: &GgufKeys) -> Result<DecoderConfig, DecoderError> {
        match self {
            Self::Llama => llama::read_gguf(keys),
        }
    }

    /// Reads a config.json of this family.
    pub(crate) fn read_hf(self, keys: &Keys) -> Result<DecoderConfig, DecoderError> {
        match self {
            Self::Llama => llama::read_hf(keys),
        }
    }
}
