//! `adapter_config.json` of mlx-lm.

use crate::config::LoraConfig;
use crate::error::LoraError;
use serde::Deserialize;
use std::path::Path;

/// The keys of mlx-lm that say what an adapter computes; the others are those of its training.
#[derive(Deserialize)]
struct File {
    /// The number of blocks from the last one on; 0 and less for all.
    #[serde(alias = "lora_layers")]
    num_layers: Option<i64>,
    lora_parameters: Parameters,
}

#[derive(Deserialize)]
struct Parameters {
    rank: usize,
    scale: f64,
    alpha: Option<f64>,
    dropout: Option<f64>,
    keys: Option<Vec<String>>,
}

/// The layers that mlx-lm adapts.
#[derive(Debug)]
pub(super) struct Scope {
    /// The number of blocks from the last one on, `None` for all.
    last: Option<usize>,
    /// The paths below a block, `None` for what the tensors say.
    keys: Option<Vec<String>>,
}

/// Takes the configuration `text` of the file at `path`. mlx-lm multiplies the low-rank product by `scale` alone
/// (`LoRALinear` of `mlx_lm/tuner/lora.py`).
///
/// # Errors
/// [`LoraError::Malformed`] when it is no LoRA configuration, [`LoraError::UnsupportedAdapter`] when it asks for what this crate
/// cannot compute.
pub(super) fn read(text: &[u8], path: &Path) -> Result<(LoraConfig, Scope), LoraError> {
    let malformed = |reason: String| LoraError::Malformed {
        path: path.to_owned(),
        expected: "mlx-lm adapter configuration",
        reason,
    };
    let unsupported = |key: &str, value: String, way_out| LoraError::UnsupportedAdapter {
        path: path.to_owned(),
        key: key.to_owned(),
        value,
        way_out,
    };
    // The kind comes first: only a LoRA has the other keys for sure.
    let kind =
        serde_json::from_slice::<Kind>(text).map_err(|error| malformed(error.to_string()))?;
    if let Some(kind) = kind.fine_tune_type.filter(|kind| kind != "lora") {
        let way_out = "of mlx-lm's adapters those of fine_tune_type \"lora\" are read; fuse it into its model with mlx_lm.fuse";
        return Err(unsupported("fine_tune_type", format!("{kind:?}"), way_out));
    }
    let file: File = serde_json::from_slice(text).map_err(|error| malformed(error.to_string()))?;
    let parameters = file.lora_parameters;
    let rank = parameters.rank;
    if let Some(alpha) = parameters.alpha
        && alpha != rank as f64
    {
        let way_out = "mlx-lm multiplied by scale · alpha / rank once and by scale since; \
                       remove it, and make `scale` the factor that the adapter was trained with";
        return Err(unsupported(
            "lora_parameters.alpha",
            alpha.to_string(),
            way_out,
        ));
    }
    let config = LoraConfig::new(rank, parameters.scale * rank as f64)
        .with_dropout(parameters.dropout.unwrap_or(0.0));
    config
        .validate()
        .map_err(|error| malformed(error.to_string()))?;
    let scope = Scope {
        last: file
            .num_layers
            .and_then(|count| usize::try_from(count).ok())
            .filter(|&count| count > 0),
        keys: parameters.keys,
    };
    Ok((config, scope))
}

#[derive(Deserialize)]
struct Kind {
    fine_tune_type: Option<String>,
}

impl Scope {
    /// Returns why mlx-lm would pass over the tensors of the layer `path` in a model of `blocks` blocks, `None` where it takes them.
    pub(super) fn passes_over(&self, path: &str, blocks: usize) -> Option<String> {
        let (block, below) = block_of(path)?;
        if let Some(last) = self.last
            && block + last < blocks
        {
            return Some(format!(
                "`num_layers` says that the last {last} of {blocks} blocks are adapted"
            ));
        }
        let keys = self.keys.as_ref()?;
        (!keys.iter().any(|key| key == below))
            .then(|| format!("`keys` says that these are adapted: {}", keys.join(", ")))
    }
}

/// Returns the number of blocks that `paths` show.
pub(super) fn blocks(paths: &[String]) -> usize {
    let numbers = paths.iter().filter_map(|path| Some(block_of(path)?.0));
    numbers.max().map_or(0, |last| last + 1)
}

/// Returns the number of the block that `path` lies in, and the path below it.
fn block_of(path: &str) -> Option<(usize, &str)> {
    let at = path.find("layers.")? + "layers.".len();
    let (number, below) = path[at..].split_once('.')?;
    Some((number.parse().ok()?, below))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        read(text.as_bytes(), Path::new("adapter_config.json"))
            .unwrap()
            .1
    }

    #[test]
    fn layers_are_counted_from_the_last_block() {
        let text = |layers: i64, keys: &str| {
            format!(
                r#"{{"num_layers": {layers}, "lora_parameters": {{"rank": 2, "scale": 1.0, "keys": {keys}}}}}"#
            )
        };
        let q = |layer: usize| format!("model.layers.{layer}.self_attn.q_proj");
        let one = scope(&text(1, "null"));
        assert!(one.passes_over(&q(0), 2).is_some());
        assert!(one.passes_over(&q(1), 2).is_none());
        for all in [0, -1, 2, 9] {
            assert!(scope(&text(all, "null")).passes_over(&q(0), 2).is_none());
        }
        let v = scope(&text(-1, r#"["self_attn.v_proj"]"#));
        assert!(v.passes_over(&q(1), 2).is_some());
    }
}
