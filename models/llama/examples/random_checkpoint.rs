//! Writes a checkpoint of random weights in the shape of a LLaMA, to measure with what nobody has to download.
//!
//! A tool for measurements, among the examples because it needs this package alone.
//!
//! usage: `cargo run --release -p burn-qlora-llama --example random_checkpoint -- SHAPE DIR [ADAPTER] [--nf4]`, where SHAPE is
//! `7b`, `13b`, `33b`, `65b`, `tiny` or six numbers `HIDDEN,INNER,LAYERS,HEADS,KV_HEADS,VOCAB`
//!
//! The folder is what Hugging Face writes: safetensors, a shard for each block, and a tokenizer that knows bytes. The weights have
//! a standard deviation of 0.02. In bf16 they are drawn from N(0, 0.02), and 7b takes 13.5 GB; with `--nf4` the linear layers are
//! what transformers + bitsandbytes save in NF4 with double quantization, of codes that are all as frequent: 7b takes 3.9 GB, 65b
//! 34.4. A shard's worth of memory is used: 0.4 GB for 7b in bf16 and for 65b in NF4. ADAPTER becomes the folder of an adapter for
//! it, of rank 16 on every linear layer.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use half::bf16;
use nf4::{Layout, NESTED_MAP, QuantConfig, QuantizedMatrix, bitsandbytes, dynamic_map};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Map, Value, json};
use tensor_files::{AtomicFile, Dtype, TensorWriter};

const USAGE: &str = "usage: random_checkpoint SHAPE DIR [ADAPTER] [--nf4], SHAPE being 7b, 13b, 33b, 65b, tiny or \
                     HIDDEN,INNER,LAYERS,HEADS,KV_HEADS,VOCAB";

/// The sizes of a model.
struct Shape {
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    key_value_heads: usize,
    vocab: usize,
}

/// A tensor of a file.
struct Stored {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let (options, args): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .partition(|arg| arg.starts_with("--"));
    let in_nf4 = match &options[..] {
        [] => false,
        [option] if option == "--nf4" => true,
        _ => return Err(USAGE.into()),
    };
    let (name, dir, adapter) = match &args[..] {
        [name, dir] => (name, dir, None),
        [name, dir, adapter] => (name, dir, Some(adapter)),
        _ => return Err(USAGE.into()),
    };
    let shape = Shape::parse(name)?;
    let dir = Path::new(dir);
    fs::create_dir_all(dir)?;
    fs::write(dir.join("config.json"), shape.config(in_nf4).to_string())?;
    fs::write(dir.join("tokenizer.json"), byte_tokenizer().to_string())?;
    shape.write_weights(dir, in_nf4)?;
    match adapter {
        Some(adapter) => shape.write_adapter(Path::new(adapter)),
        None => Ok(()),
    }
}

impl Shape {
    fn parse(name: &str) -> Result<Self, Box<dyn Error>> {
        // Table 2 of the LLaMA paper.
        let [hidden, inner, layers, heads, key_value_heads, vocab] = match name {
            "7b" => [4096, 11008, 32, 32, 32, 32000],
            "13b" => [5120, 13824, 40, 40, 40, 32000],
            "33b" => [6656, 17920, 60, 52, 52, 32000],
            "65b" => [8192, 22016, 80, 64, 64, 32000],
            "tiny" => [64, 176, 2, 4, 4, 320],
            other => {
                let sizes: Result<Vec<usize>, _> = other.split(',').map(str::parse).collect();
                let sizes = sizes
                    .ok()
                    .and_then(|sizes| <[usize; 6]>::try_from(sizes).ok());
                sizes.ok_or_else(|| format!("there is no shape `{other}`\n{USAGE}"))?
            }
        };
        if heads == 0 || hidden % heads != 0 {
            return Err(format!(
                "{hidden} hidden features for {heads} heads: no whole number each"
            )
            .into());
        }
        Ok(Self {
            hidden,
            inner,
            layers,
            heads,
            key_value_heads,
            vocab,
        })
    }

    fn config(&self, in_nf4: bool) -> Value {
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "tie_word_embeddings": false,
            "vocab_size": self.vocab,
            "hidden_act": "silu",
            "bos_token_id": 0,
            "eos_token_id": 1,
        });
        if in_nf4 {
            config["quantization_config"] = json!({
                "quant_method": "bitsandbytes",
                "load_in_4bit": true,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": true,
                "bnb_4bit_compute_dtype": "bfloat16",
            });
        }
        config
    }

    /// Returns the tensors of shard `i`: the blocks, and then what is outside of them.
    fn shard(&self, i: usize) -> Vec<(String, Vec<usize>)> {
        let (hidden, inner, vocab) = (self.hidden, self.inner, self.vocab);
        let key_value = hidden / self.heads * self.key_value_heads;
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
            at("self_attn.k_proj", &[key_value, hidden]),
            at("self_attn.v_proj", &[key_value, hidden]),
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

    fn write_weights(&self, dir: &Path, in_nf4: bool) -> Result<(), Box<dyn Error>> {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        // A weight is drawn from 65536 normal numbers: two random bytes each.
        let normal: Vec<bf16> = (0..1 << 16)
            .map(|_| bf16::from_f32(0.02 * gaussian(&mut rng)))
            .collect();
        let shards = self.layers + 1;
        let mut map = Map::new();
        for i in 0..shards {
            let file = format!("model-{:05}-of-{shards:05}.safetensors", i + 1);
            let mut tensors = Vec::new();
            for (name, shape) in self.shard(i) {
                match shape[..] {
                    [rows, columns] if in_nf4 && i < self.layers => {
                        tensors.extend(nf4_weight(&name, [rows, columns], &mut rng)?);
                    }
                    _ => tensors.push(bf16_tensor(name, shape, &normal, &mut rng)),
                }
            }
            // torch wants a tensor aligned.
            tensors.sort_by(|one, other| {
                let key = |tensor: &Stored| std::cmp::Reverse(tensor.dtype.bitsize());
                (key(one), &one.name).cmp(&(key(other), &other.name))
            });
            map.extend(
                tensors
                    .iter()
                    .map(|tensor| (tensor.name.clone(), json!(file))),
            );
            write_file(&dir.join(&file), &tensors)?;
        }
        let index = json!({ "metadata": {}, "weight_map": map });
        Ok(fs::write(
            dir.join("model.safetensors.index.json"),
            index.to_string(),
        )?)
    }
}

fn write_file(path: &Path, tensors: &[Stored]) -> Result<(), Box<dyn Error>> {
    let declared = tensors
        .iter()
        .map(|tensor| (tensor.name.clone(), tensor.dtype, tensor.shape.clone()));
    let mut writer = TensorWriter::begin(AtomicFile::create(path)?, None, declared)?;
    for tensor in tensors {
        writer.write(&tensor.name, &tensor.bytes)?;
    }
    Ok(writer.finish()?.commit()?)
}

/// Draws a matrix from `normal`, or makes a vector of ones.
fn bf16_tensor(name: String, shape: Vec<usize>, normal: &[bf16], rng: &mut ChaCha8Rng) -> Stored {
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
    Stored {
        name,
        dtype: Dtype::BF16,
        shape,
        bytes,
    }
}

/// Draws codes and the codes of their scales: the tensors that bitsandbytes has of such a weight.
fn nf4_weight(
    name: &str,
    shape: [usize; 2],
    rng: &mut ChaCha8Rng,
) -> Result<Vec<Stored>, Box<dyn Error>> {
    // NF4's values have a standard deviation of 0.517 when all are as frequent.
    const ABSMAX: f32 = 0.02 / 0.517;
    let layout = Layout::new(shape, QuantConfig::default())?;
    let mut packed = vec![0; layout.packed_words()];
    packed.fill_with(|| rng.next_u32());
    let mut absmax = vec![0; layout.absmax_words()];
    absmax[layout.scale_words()].fill_with(|| rng.next_u32());
    absmax[layout.nested_words()].fill((0.3 * ABSMAX).to_bits());
    absmax[layout.offset_word()] = ABSMAX.to_bits();
    let map: [u32; NESTED_MAP] = dynamic_map().map(f32::to_bits);
    absmax[layout.map_words()].copy_from_slice(&map);
    let matrix = QuantizedMatrix::from_parts(layout, packed, absmax)?;
    let entries = bitsandbytes::write(name, &matrix, "bfloat16")?;
    let stored = |(name, entry): (String, bitsandbytes::Entry<'_>)| Stored {
        name,
        dtype: match entry.dtype {
            bitsandbytes::Dtype::F32 => Dtype::F32,
            _ => Dtype::U8,
        },
        shape: entry.shape,
        bytes: entry.data.into_owned(),
    };
    Ok(entries.into_iter().map(stored).collect())
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
