//! Layers of a model, quantized where they are.

use nf4::QuantConfig;

use crate::config::Targets;
use crate::error::LoraError;
use crate::layers::{LayerMut, Layers};

impl LayerMut<'_> {
    fn quantize(&mut self, config: QuantConfig) -> Result<(), LoraError> {
        match self {
            Self::Any(layer) => layer.quantize(config),
            Self::QLora(layer) => layer.quantize(config),
        }
    }
}

/// Quantizes the layers that `targets` means, one after the other.
pub(crate) fn quantize_layers(
    layers: Layers<LayerMut>,
    targets: &Targets,
    config: QuantConfig,
) -> Result<(), LoraError> {
    config
        .validate()
        .map_err(|error| LoraError::Quantize(error.into()))?;
    let (paths, layers): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
    if paths.is_empty() {
        return Err(LoraError::NoLayers);
    }
    let selected = targets.select(&paths)?;
    for ((path, mut layer), selected) in paths.into_iter().zip(layers).zip(selected) {
        if selected {
            layer.quantize(config).map_err(|error| match error {
                LoraError::Quantize(source) => LoraError::QuantizeLayer {
                    layer: path,
                    source,
                },
                error => error,
            })?;
        }
    }
    Ok(())
}
