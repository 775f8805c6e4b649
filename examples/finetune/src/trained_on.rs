//! The form of the weights that an adapter was trained on, as its run wrote it down.

use std::path::Path;

use burn_finetune::RunRecord;
use burn_qlora::{Codebook, QuantConfig};
use burn_qlora_llama::Weights;
use serde_json::Value;

/// The setting's name in a run's `run.json`.
pub const SETTING: &str = "weights";

/// The block sizes there are.
const BLOCK_SIZES: [usize; 8] = [32, 64, 128, 256, 512, 1024, 2048, 4096];

/// Returns what a run writes down of its weights.
pub fn written(weights: Weights) -> Value {
    format!("{weights:?}").into()
}

/// Returns the weights of a run that wrote this down; `None` for what no version writes.
pub fn read(setting: &Value) -> Option<Weights> {
    let setting = setting.as_str()?;
    all().find(|weights| written(*weights) == setting)
}

/// Returns the weights of the run whose folder `adapter` is or is in, as a checkpoint or a file of it; `None` where there is no
/// such run.
pub fn of_adapter(adapter: &Path) -> Option<Weights> {
    let folder = match adapter.is_file() {
        true => adapter.parent()?,
        false => adapter,
    };
    let run = match folder.parent() {
        Some(parent) if parent.ends_with("checkpoints") => parent.parent()?,
        _ => folder,
    };
    let record = RunRecord::read(run).ok()?;
    read(record.setting(SETTING)?)
}

fn all() -> impl Iterator<Item = Weights> {
    let quantized = [Codebook::Nf4, Codebook::Fp4, Codebook::Int4]
        .into_iter()
        .flat_map(|codebook| BLOCK_SIZES.map(|block_size| (codebook, block_size)))
        .flat_map(|(codebook, block_size)| {
            [true, false].map(|double_quant| {
                Weights::Quantized(QuantConfig {
                    codebook,
                    block_size,
                    double_quant,
                })
            })
        });
    [Weights::AsStored, Weights::Kept, Weights::Dense]
        .into_iter()
        .chain(quantized)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;
    use std::fs;

    #[test]
    fn what_is_written_is_read() {
        for weights in all() {
            assert_eq!(read(&written(weights)), Some(weights));
        }
        // As versions wrote it that knew nothing else.
        let nf4 = "Quantized(QuantConfig { codebook: Nf4, block_size: 64, double_quant: true })";
        let expected = Some(Weights::Quantized(QuantConfig::default()));
        assert_eq!(read(&nf4.into()), expected);
        assert_eq!(read(&"nf4".into()), None);
    }

    #[test]
    fn an_adapter_is_known_by_the_run_that_it_is_in() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let checkpoint = run.join("checkpoints/step-00000010");
        fs::create_dir_all(&checkpoint).unwrap();
        let settings = Map::from_iter([(SETTING.to_owned(), written(Weights::Kept))]);
        fs::write(run.join("run.json"), Value::from(settings).to_string()).unwrap();
        let file = checkpoint.join("adapter_model.safetensors");
        fs::write(&file, "").unwrap();
        for adapter in [&run, &checkpoint, &file] {
            assert_eq!(of_adapter(adapter), Some(Weights::Kept), "{adapter:?}");
        }
        assert_eq!(of_adapter(folder.path()), None);
    }
}
