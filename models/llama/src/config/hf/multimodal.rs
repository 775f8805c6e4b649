//! A decoder's configuration inside that of a model which also takes images.

use serde_json::Value;

use super::Keys;
use crate::config::DecoderConfig;
use crate::error::DecoderError;
use crate::family::Family;

/// A class whose config.json has the decoder's as `text_config`.
struct Multimodal {
    architecture: &'static str,
    model_type: &'static str,
    /// The decoder where `text_config` does not name it.
    text: Family,
}

const CLASSES: [Multimodal; 2] = [
    Multimodal {
        architecture: "Gemma3ForConditionalGeneration",
        model_type: "gemma3",
        text: Family::Gemma3,
    },
    Multimodal {
        architecture: "Mistral3ForConditionalGeneration",
        model_type: "mistral3",
        text: Family::Mistral,
    },
];

/// Keys about images.
const ABOUT_IMAGES: [&str; 12] = [
    "vision_config",
    "mm_tokens_per_image",
    "image_token_index",
    "image_token_id",
    "boi_token_index",
    "boi_token_id",
    "eoi_token_index",
    "eoi_token_id",
    "projector_hidden_act",
    "multimodal_projector_bias",
    "spatial_merge_size",
    "vision_feature_layer",
];

impl<'a> Keys<'a> {
    /// Returns the keys of the decoder, where it is part of a larger model.
    pub(crate) fn text_model(&self) -> Result<Option<Keys<'a>>, DecoderError> {
        match self.multimodal_class() {
            None => Ok(None),
            Some(_) => match self.object("text_config")? {
                Some(text) => Ok(Some(text)),
                None => Err(self.missing("text_config")),
            },
        }
    }

    fn multimodal_class(&self) -> Option<&'static Multimodal> {
        let architectures = self.get("architectures").and_then(Value::as_array);
        let is_named =
            |name: &str| architectures.is_some_and(|names| names.iter().any(|named| named == name));
        let model_type = self.get("model_type").and_then(Value::as_str);
        CLASSES
            .iter()
            .find(|class| is_named(class.architecture) || model_type == Some(class.model_type))
    }

    /// Reads what a larger model says beside its decoder, and judges the rest of it.
    pub(crate) fn read_around_text_model(
        &self,
        decoder: &mut DecoderConfig,
    ) -> Result<(), DecoderError> {
        if let Some(tied) = self.optional_flag("tie_word_embeddings")? {
            decoder.tie_word_embeddings = tied;
        }
        let bos = self.tokens("bos_token_id")?.first().copied();
        let eos = self.tokens("eos_token_id")?;
        decoder.bos_token_id = decoder.bos_token_id.or(bos);
        if decoder.eos_token_ids.is_empty() {
            decoder.eos_token_ids = eos;
        }
        for key in ABOUT_IMAGES {
            self.get(key);
        }
        self.warn(
            "vision_config",
            "is left out: the model is read without its part for images, for text alone",
        );
        self.judge_the_rest()
    }
}

impl Family {
    /// Returns the family of a decoder inside a larger model.
    pub(crate) fn of_text_model(text: &Keys, outer: &Keys) -> Result<Self, DecoderError> {
        match outer.multimodal_class() {
            Some(class) if text.get("model_type").is_none() => Ok(class.text),
            _ => Self::of_hf(text),
        }
    }
}
