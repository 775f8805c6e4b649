//! The model families: how each one's files name its kind, and what they mean in terms of
//! [`DecoderConfig`].
//!
//! A file a family says what the keys of its config.json and of its GGUF metadata mean. Nothing but reading and writing
//! files asks for a family.

mod gemma;
mod gemma2;
mod gemma3;
mod granite;
mod llama;
mod ministral3;
mod mistral;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod smollm3;

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[cfg(feature = "gguf")]
use crate::checkpoint::{GgufFields, GgufKeys};
use crate::config::{DecoderConfig, Defaults, Keys};
use crate::error::DecoderError;

/// A model family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Family {
    /// LLaMA (Meta), and what goes by its name.
    Llama,
    /// Mistral, Mistral Small and Ministral.
    Mistral,
    /// Ministral 3.
    Ministral3,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3 without experts.
    Qwen3,
    /// SmolLM3 (Hugging Face).
    SmolLm3,
    /// Granite 3 and 4 without experts (IBM).
    Granite,
    /// Phi-3, Phi-3.5 and Phi-4 (Microsoft).
    Phi3,
    /// OLMo 2 (Ai2).
    Olmo2,
    /// Gemma (Google).
    Gemma,
    /// Gemma 2.
    Gemma2,
    /// The text part of Gemma 3.
    Gemma3,
}

/// What a family is called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// `model_type` in config.json.
    pub hf_model_type: &'static str,
    /// The classes in `architectures` of config.json that stand for the model, the one that is written first.
    pub hf_architectures: &'static [&'static str],
}

/// What the file of a family says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Definition {
    pub names: Names,
    pub defaults: Defaults,
    /// Reads a config.json.
    pub read_hf: fn(&Keys) -> Result<DecoderConfig, DecoderError>,
    /// Adds what a config.json has beside the keys of all families; the rotations are in its words.
    pub write_hf: fn(&DecoderConfig, &[Value], &mut Value),
    /// What llama.cpp's files are like; two families can have the same.
    #[cfg(feature = "gguf")]
    pub gguf: GgufDefinition,
}

/// What the file of a family says of GGUF files.
#[cfg(feature = "gguf")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct GgufDefinition {
    /// `general.architecture` in the metadata.
    pub architecture: &'static str,
    /// Whether the rows of q and k are stored so that neighbouring values of a head rotate together.
    pub interleaved: bool,
    /// Reads the metadata.
    pub read: fn(&GgufKeys) -> Result<DecoderConfig, DecoderError>,
    /// Sets the metadata.
    #[cfg_attr(
        not(feature = "qlora"),
        expect(dead_code, reason = "only exports write files")
    )]
    pub write: fn(&DecoderConfig, &mut GgufFields),
}

impl Family {
    /// Every family.
    pub const ALL: &[Self] = &[
        Self::Llama,
        Self::Mistral,
        Self::Ministral3,
        Self::Qwen2,
        Self::Qwen3,
        Self::SmolLm3,
        Self::Granite,
        Self::Phi3,
        Self::Olmo2,
        Self::Gemma,
        Self::Gemma2,
        Self::Gemma3,
    ];

    pub(crate) fn definition(self) -> Definition {
        match self {
            Self::Llama => llama::DEFINITION,
            Self::Mistral => mistral::DEFINITION,
            Self::Ministral3 => ministral3::DEFINITION,
            Self::Qwen2 => qwen2::DEFINITION,
            Self::Qwen3 => qwen3::DEFINITION,
            Self::SmolLm3 => smollm3::DEFINITION,
            Self::Granite => granite::DEFINITION,
            Self::Phi3 => phi3::DEFINITION,
            Self::Olmo2 => olmo2::DEFINITION,
            Self::Gemma => gemma::DEFINITION,
            Self::Gemma2 => gemma2::DEFINITION,
            Self::Gemma3 => gemma3::DEFINITION,
        }
    }

    pub(crate) fn names(self) -> Names {
        self.definition().names
    }

    pub(crate) fn defaults(self) -> Defaults {
        self.definition().defaults
    }

    /// Returns the family that a config.json says it is of.
    pub(crate) fn of_hf(keys: &Keys) -> Result<Self, DecoderError> {
        let expected = || {
            let known = Self::ALL
                .iter()
                .map(|family| family.names().hf_architectures[0]);
            format!("known are {}", known.collect::<Vec<_>>().join(", "))
        };
        let architectures = keys.get("architectures").and_then(Value::as_array);
        let named: Vec<&str> = architectures
            .map(|names| names.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let by_architecture = |family: &&Self| {
            let names = family.names().hf_architectures;
            names.iter().any(|name| named.contains(name))
        };
        let by_architecture = Self::ALL.iter().find(by_architecture).copied();
        if !named.is_empty() && by_architecture.is_none() {
            return Err(keys.unsupported("architecture", &named.join(", "), &expected()));
        }
        let Some(kind) = keys.text("model_type")? else {
            return by_architecture.ok_or_else(|| keys.missing("model_type"));
        };
        let by_type = Self::ALL
            .iter()
            .find(|family| family.names().hf_model_type == kind)
            .copied()
            .ok_or_else(|| keys.unsupported("model type", kind, &expected()))?;
        if by_architecture.is_some_and(|family| family != by_type) {
            let beside = format!("architectures name {} beside it", named.join(", "));
            return Err(keys.unsupported("model type", kind, &beside));
        }
        Ok(by_type)
    }

    /// Returns what the files of the family are like that llama.cpp calls `architecture`.
    ///
    /// # Errors
    /// The names that are known, in words.
    #[cfg(feature = "gguf")]
    pub(crate) fn of_gguf(architecture: &str) -> Result<GgufDefinition, String> {
        let known = || Self::ALL.iter().map(|family| family.definition().gguf);
        let found = known().find(|definition| definition.architecture == architecture);
        found.ok_or_else(|| {
            let mut names: Vec<&str> = Vec::new();
            for GgufDefinition { architecture, .. } in known() {
                if !names.contains(&architecture) {
                    names.push(architecture);
                }
            }
            format!("known are {}", names.join(", "))
        })
    }
}
