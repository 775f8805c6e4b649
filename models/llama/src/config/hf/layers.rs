//! What layers have of their own in a config.json: which of them see a window of keys only.

use serde_json::{Value, json};

use super::Keys;
use crate::config::{DecoderConfig, LayerConfig};
use crate::error::DecoderError;

pub(crate) const SLIDING: &str = "sliding_attention";
pub(crate) const FULL: &str = "full_attention";

impl Keys<'_> {
    /// Returns the layers of a model of `count` with a window in some of them: those that `layer_types` names, or those of
    /// `pattern` where that is absent. All have the first rotation.
    pub(crate) fn windowed_layers(
        &self,
        count: usize,
        window: Option<usize>,
        pattern: impl Fn(usize) -> bool,
    ) -> Result<Vec<LayerConfig>, DecoderError> {
        let slides = match self.get("layer_types") {
            Some(kinds) => self.sliding_layers(kinds, count)?,
            None => (0..count).map(pattern).collect(),
        };
        if window.is_none() && slides.contains(&true) {
            return Err(self.invalid("layer_types", &json!(SLIDING), "a window for such layers"));
        }
        let layers = slides.into_iter().map(|slides| LayerConfig {
            window: window.filter(|_| slides),
            ..LayerConfig::default()
        });
        Ok(layers.collect())
    }

    fn sliding_layers(&self, kinds: &Value, count: usize) -> Result<Vec<bool>, DecoderError> {
        let expected = format!("a list of {count}, each {FULL} or {SLIDING}");
        let invalid = || self.invalid("layer_types", kinds, &expected);
        let list = kinds.as_array().filter(|list| list.len() == count);
        let slides = list.ok_or_else(invalid)?.iter().map(|kind| match kind {
            Value::String(kind) if kind == FULL => Some(false),
            Value::String(kind) if kind == SLIDING => Some(true),
            _ => None,
        });
        slides.collect::<Option<_>>().ok_or_else(invalid)
    }
}

impl DecoderConfig {
    /// Returns the window of the layers that have one.
    pub(crate) fn window(&self) -> Option<usize> {
        self.layers.iter().find_map(|layer| layer.window)
    }

    /// Returns `layer_types` of a config.json, by which layers have a window.
    pub(crate) fn layer_types(&self) -> Value {
        let kind = |layer: &LayerConfig| {
            if layer.window.is_some() {
                SLIDING
            } else {
                FULL
            }
        };
        self.layers.iter().map(kind).collect()
    }
}
