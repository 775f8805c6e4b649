//! Writes a checkpoint of random weights in the shape of a LLaMA, to measure with what nobody has to download.
//!
//! A tool for measurements, among the examples because it needs this package alone.
//!
//! usage: `cargo run --release -p burn-qlora-llama --example random_checkpoint -- 7b DIR [ADAPTER]` (or `13b`, `33b`, `65b`, `tiny`)
//!
//! The folder is what Hugging Face writes: bf16 safetensors, a shard for each block, and a tokenizer that knows bytes. The
//! weights are N(0, 0.02); 7b takes 13.5 GB of disk and a shard's worth of memory, 0.4 GB. ADAPTER becomes the folder of an adapter
//! for it, of rank 16 on every linear layer.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use half::bf16;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Map, Value, json};
use tensor_files::{AtomicFile, Dtype, TensorWriter};

/// The sizes of a model.
struct Shape {
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    vocab: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(dir), adapter, None) =
        (args.next(), args.next(), args.next(), args.next())
    else {
        return Err("usage: random_checkpoint 7b|13b|33b|65b|tiny DIR [ADAPTER]".into());
    };
    // Table 2 of the LLaMA paper.
    let [hidden, inner, layers, heads, vocab] = match name.as_str() {
        "7b" => [4096, 11008, 32, 32, 32000],
        "13b" => [5120, 13824, 40, 40, 32000],
        "33b" => [6656, 17920, 60, 52, 32000],
        "65b" => [8192, 22016, 80, 64, 32000],
        "tiny" => [64, 176, 2, 4, 320],
        other => {
            return Err(format!("there is no size `{other}`: 7b, 13b, 33b, 65b or tiny").into());
        }
    };
    let shape = Shape {
        hidden,
        inner,
        layers,
        heads,
        vocab,
    };
    let dir = Path::new(&dir);
    fs::create_dir_all(dir)?;
    fs::write(dir.join("config.json"), shape.config().to_string())?;
    fs::write(dir.join("tokenizer.json"), byte_tokenizer().to_string())?;
    shape.write_weights(dir)?;
    match adapter {
        Some(adapter) => shape.write_adapter(Path::new(&adapter)),
        None => Ok(()),
    }
}

impl Shape {
    fn config(&self) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "tie_word_embeddings": false,
            "vocab_size": self.vocab,
            "hidden_act": "silu",
            "bos_token_id": 0,
            "eos_token_id": 1,
        })
    }

    /// Returns the tensors of shard `i`: the blocks, and then what is outside of them.
    fn shard(&self, i: usize) -> Vec<(String, Vec<usize>)> {
        let (hidden, inner, vocab) = (self.hidden, self.inner, self.vocab);
        if i == self.layers {
            return vec![
                ("model.embed_tokens.weight".into(), vec![vocab, hidden]),
                ("model.norm.weight".into(), vec![hidden]),
                ("lm_head.weight".into(), vec![vocab, hidden]),
            ];
        }
        let at = |name: &str, shape: &[usize]| {
            (format!("model.layers.{i}.{name}.weight"), shape.to_vec())
        };
        vec![
            at("input_layernorm", &[hidden]),
            at("self_attn.q_proj", &[hidden, hidden]),
            at("self_attn.k_proj", &[hidden, hidden]),
            at("self_attn.v_proj", &[hidden, hidden]),
            at("self_attn.o_proj", &[hidden, hidden]),
            at("post_attention_layernorm", &[hidden]),
            at("mlp.gate_proj", &[inner, hidden]),
            at("mlp.up_proj", &[inner, hidden]),
            at("mlp.down_proj", &[hidden, inner]),
        ]
    }

    fn write_adapter(&self, dir: &Path) -> Result<(), Box<dyn Error>> {
        const RANK: usize = 16;
        fs::create_dir_all(dir)?;
        let config = json!({
            "peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": [
                "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
            ],
        });
        fs::write(dir.join("adapter_config.json"), config.to_string())?;
        let blocks = (0..self.layers).flat_map(|i| self.shard(i));
        let mut factors = BTreeMap::new();
        for (name, shape) in blocks {
            let [rows, columns] = shape[..] else { continue };
            let path = name.strip_suffix(".weight").unwrap_or(&name);
            let key = |factor: &str| format!("base_model.model.{path}.lora_{factor}.weight");
            factors.insert(key("A"), vec![RANK, columns]);
            factors.insert(key("B"), vec![rows, RANK]);
        }
        let declared = factors.iter();
        let declared = declared.map(|(name, shape)| (name.clone(), Dtype::F32, shape.clone()));
        let file = AtomicFile::create(dir.join("adapter_model.safetensors"))?;
        let mut writer = TensorWriter::begin(file, None, declared)?;
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (name, shape) in &factors {
            let values = (0..shape.iter().product()).map(|_| 0.01 * gaussian(&mut rng));
            let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
            writer.write(name, &bytes)?;
        }
        Ok(writer.finish()?.commit()?)
    }

    fn write_weights(&self, dir: &Path) -> Result<(), Box<dyn Error>> {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        // A weight is drawn from 65536 normal numbers: two random bytes each.
        let normal: Vec<bf16> = (0..1 << 16)
            .map(|_| bf16::from_f32(0.02 * gaussian(&mut rng)))
            .collect();
        let shards = self.layers + 1;
        let mut map = Map::new();
        for i in 0..shards {
            let file = format!("model-{:05}-of-{shards:05}.safetensors", i + 1);
            let tensors: BTreeMap<String, Vec<usize>> = self.shard(i).into_iter().collect();
            let declared = tensors
                .iter()
                .map(|(name, shape)| (name.clone(), Dtype::BF16, shape.clone()));
            let mut writer =
                TensorWriter::begin(AtomicFile::create(dir.join(&file))?, None, declared)?;
            let mut drawn = BTreeMap::new();
            for (name, shape) in self.shard(i) {
                let mut bytes = vec![0; 2 * shape.iter().product::<usize>()];
                if shape.len() == 2 {
                    rng.fill_bytes(&mut bytes);
                }
                for value in bytes.as_chunks_mut::<2>().0 {
                    *value = match shape.len() {
                        2 => normal[usize::from(u16::from_le_bytes(*value))],
                        _ => bf16::ONE,
                    }
                    .to_le_bytes();
                }
                map.insert(name.clone(), json!(file));
                drawn.insert(name, bytes);
            }
            for (name, bytes) in &drawn {
                writer.write(name, bytes)?;
            }
            writer.finish()?.commit()?;
        }
        let index = json!({ "metadata": {}, "weight_map": map });
        Ok(fs::write(
            dir.join("model.safetensors.index.json"),
            index.to_string(),
        )?)
    }
}

/// Draws one of N(0, 1), by Box and Muller.
fn gaussian(rng: &mut ChaCha8Rng) -> f32 {
    let mut unit = || (f64::from(rng.next_u32()) + 0.5) / 2f64.powi(32);
    let (radius, angle) = ((-2.0 * unit().ln()).sqrt(), std::f64::consts::TAU * unit());
    (radius * angle.cos()) as f32
}

/// Returns a tokenizer of two special tokens, the 256 bytes, and one merge, without which GGUF has no vocabulary.
fn byte_tokenizer() -> Value {
    let mut alphabet: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
        .into_iter()
        .collect();
    alphabet.sort_unstable();
    let special = ["<s>", "</s>"];
    let vocab: Map<String, Value> = special
        .iter()
        .map(ToString::to_string)
        .chain(alphabet.into_iter().map(String::from))
        .chain(["th".to_owned()])
        .enumerate()
        .map(|(id, token)| (token, json!(id)))
        .collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({
                "id": id, "content": content, "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocab, "merges": [["t", "h"]],
        },
    })
}
