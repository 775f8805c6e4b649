//! GGUF files made by hand, correct or not.

use std::path::Path;

use burn_qlora_llama::rope::RopeConfig;
use burn_qlora_llama::{Checkpoint, DecoderConfig};

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use nf4::GgufFormat;
use qlora_test_support::fixture;

/// Collects metadata and tensors; every count and offset can be made to lie afterwards.
#[derive(Clone)]
pub struct GgufBuilder {
    entries: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
    /// Written in place of the real number of tensors.
    pub tensor_count: Option<u64>,
    /// Added to every offset.
    pub offset: u64,
}

const U16: u32 = 2;
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

impl GgufBuilder {
    pub fn new() -> Self {
        Self {
            entries: Vec::new(),
            tensors: Vec::new(),
            tensor_count: None,
            offset: 0,
        }
    }

    /// The parts of a correct file of version 3, to be changed.
    pub fn of(path: &Path) -> Self {
        let file = std::fs::read(path).expect("the file is there");
        let mut reader = Reader { file: &file, at: 8 };
        let mut builder = Self::new();
        let (tensors, entries) = (reader.u64(), reader.u64());
        for _ in 0..entries {
            let key = reader.string();
            let kind = reader.u32();
            let start = reader.at;
            reader.skip_value(kind);
            builder.entry(&key, kind, file[start..reader.at].to_vec());
        }
        let mut places = Vec::new();
        for _ in 0..tensors {
            let name = reader.string();
            let dimensions = reader.u32();
            let extents: Vec<u64> = (0..dimensions).map(|_| reader.u64()).collect();
            let (kind, offset) = (reader.u32(), reader.u64());
            places.push((name, extents, kind, offset as usize));
        }
        let data = reader.at.next_multiple_of(32);
        let mut ends: Vec<usize> = places.iter().map(|place| data + place.3).collect();
        ends.sort_unstable();
        for (name, extents, kind, offset) in places {
            let start = data + offset;
            let next = ends.iter().find(|end| **end > start);
            let end = next.copied().unwrap_or(file.len());
            builder
                .tensors
                .push((name, extents, kind, file[start..end].to_vec()));
        }
        builder
    }

    /// The keys that begin with `prefix`.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let keys = self.entries.iter().map(|(key, _, _)| key.clone());
        keys.filter(|key| key.starts_with(prefix)).collect()
    }

    /// The type and the bytes of the value of `key`.
    pub fn value(&self, key: &str) -> Option<(u32, &[u8])> {
        let mut entries = self.entries.iter();
        let entry = entries.find(|entry| entry.0 == key)?;
        Some((entry.1, &entry.2))
    }

    /// The type and the bytes of the tensor `name`, with what fills its place up.
    pub fn data(&self, name: &str) -> (u32, &[u8]) {
        let mut tensors = self.tensors.iter();
        let tensor = tensors.find(|tensor| tensor.0 == name);
        let tensor = tensor.expect("the tensor is there");
        (tensor.2, &tensor.3)
    }

    /// The names of the tensors.
    pub fn tensor_names(&self) -> Vec<String> {
        self.tensors.iter().map(|tensor| tensor.0.clone()).collect()
    }

    /// The extents of the tensor `name`, as the file has them.
    pub fn extents(&self, name: &str) -> &[u64] {
        let tensor = self.tensors.iter().find(|tensor| tensor.0 == name);
        &tensor.expect("the tensor is there").1
    }

    /// The file without the tensor `name`.
    pub fn without_tensor(&self, name: &str) -> Self {
        let mut file = self.clone();
        file.tensors.retain(|tensor| tensor.0 != name);
        file
    }

    /// The file with the extents of the tensor `name` the other way round, and one of 1 before those of a vector.
    pub fn turned(&self, name: &str) -> Self {
        let mut file = self.clone();
        for (known, extents, _, _) in &mut file.tensors {
            if known == name {
                match extents.as_mut_slice() {
                    [_] => extents.insert(0, 1),
                    extents => extents.reverse(),
                }
            }
        }
        file
    }

    /// The keys of a model of width 64 with one layer.
    pub fn metadata_of_a_tiny_llama() -> Self {
        let mut builder = Self::new();
        builder.text("general.architecture", "llama");
        for (key, value) in [
            ("block_count", 1),
            ("embedding_length", 64),
            ("feed_forward_length", 64),
            ("attention.head_count", 4),
            ("context_length", 128),
        ] {
            builder.number(&format!("llama.{key}"), value);
        }
        builder.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
        builder
    }

    /// Puts in the keys of a model that all architectures have.
    pub fn describe(&mut self, architecture: &str, config: &DecoderConfig) {
        self.text("general.architecture", architecture);
        for (key, value) in [
            ("block_count", config.layers.len()),
            ("embedding_length", config.hidden_size),
            ("feed_forward_length", config.intermediate_size),
            ("attention.head_count", config.num_attention_heads),
            ("attention.head_count_kv", config.num_key_value_heads),
            ("attention.key_length", config.head_dim),
            ("attention.value_length", config.head_dim),
            ("context_length", config.max_position_embeddings),
        ] {
            self.number(&format!("{architecture}.{key}"), value as u32);
        }
        let epsilon = format!("{architecture}.attention.layer_norm_rms_epsilon");
        self.float(&epsilon, config.rms_norm_eps as f32);
    }

    /// The same file with the tensors that [`Self::metadata_of_a_tiny_llama`] speaks of, all zero.
    pub fn with_tensors_of_a_tiny_llama(&self, vocab_size: usize) -> Self {
        const Q4_0: u32 = 2;
        let mut file = self.clone();
        let mut zeros = |name: &str, rows: usize| {
            // A row of 64 elements is two blocks of 18 bytes.
            file.tensor(name, &[rows, 64], Q4_0, vec![0; rows * 2 * 18]);
        };
        zeros("token_embd.weight", vocab_size);
        for name in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            zeros(&format!("blk.0.{name}.weight"), 64);
        }
        for name in ["ffn_gate", "ffn_up", "ffn_down"] {
            zeros(&format!("blk.0.{name}.weight"), 64);
        }
        for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
            file.floats(&format!("{name}.weight"), &[64], &[0.0; 64]);
        }
        file
    }

    /// The file in as many parts as `tensors` has numbers, which are how many tensors each part has, as
    /// llama-gguf-split cuts it.
    pub fn split(&self, tensors: &[usize]) -> Vec<Self> {
        let mut rest = self.tensors.clone();
        let all = rest.len() as i32;
        let mut parts = Vec::new();
        for (number, &count) in tensors.iter().enumerate() {
            let mut part = if number == 0 {
                self.clone()
            } else {
                Self::new()
            };
            let short = |value: usize| (value as u16).to_le_bytes().to_vec();
            part.entry("split.no", U16, short(number));
            part.entry("split.count", U16, short(tensors.len()));
            part.entry("split.tensors.count", I32, all.to_le_bytes().to_vec());
            part.tensors = rest.drain(..count.min(rest.len())).collect();
            parts.push(part);
        }
        assert!(rest.is_empty(), "{} tensors are in no part", rest.len());
        parts
    }

    /// The file with its projections in blocks of one type after another; those whose rows are no whole blocks stay.
    pub fn in_blocks(&self) -> Self {
        const F32: u32 = 0;
        const BF16: u32 = 30;
        // By candle's quantizers, and where it has none by the one below.
        const TYPES: [(Result<GgmlDType, GgufFormat>, u32); 7] = [
            (Ok(GgmlDType::Q4_0), 2),
            (Ok(GgmlDType::Q4_1), 3),
            (Err(GgufFormat::IQ4_NL), 20),
            (Ok(GgmlDType::Q5_0), 6),
            (Ok(GgmlDType::Q5_1), 7),
            (Err(GgufFormat::MXFP4), 39),
            (Ok(GgmlDType::Q8_0), 8),
        ];
        let mut file = self.clone();
        let matrices = file.tensors.iter_mut().filter(|(name, extents, _, _)| {
            name.starts_with("blk.") && extents.len() == 2 && extents[0].is_multiple_of(32)
        });
        for ((_, _, kind, bytes), (dtype, number)) in matrices.zip(TYPES.iter().cycle()) {
            let values: Vec<f32> = match *kind {
                F32 => {
                    let values = bytes.as_chunks().0.iter();
                    values.map(|value| f32::from_le_bytes(*value)).collect()
                }
                BF16 => {
                    let values = bytes.as_chunks().0.iter();
                    let bits = values.map(|value| u32::from(u16::from_le_bytes(*value)) << 16);
                    bits.map(f32::from_bits).collect()
                }
                other => panic!("tensors of type {other} are no numbers"),
            };
            *kind = *number;
            *bytes = match dtype {
                Ok(dtype) => {
                    let values = Tensor::new(values, &Device::Cpu).expect("a tensor");
                    let blocks = QTensor::quantize(&values, *dtype).expect("whole blocks");
                    blocks.data().expect("bytes").into_owned()
                }
                Err(format) => values
                    .as_chunks()
                    .0
                    .iter()
                    .flat_map(|block| four_bits(*format, block))
                    .collect(),
            };
        }
        file
    }

    pub fn entry(&mut self, key: &str, kind: u32, bytes: Vec<u8>) {
        self.entries.retain(|(existing, _, _)| existing != key);
        self.entries.push((key.into(), kind, bytes));
    }

    pub fn number(&mut self, key: &str, value: u32) {
        self.entry(key, U32, value.to_le_bytes().to_vec());
    }

    pub fn float(&mut self, key: &str, value: f32) {
        self.entry(key, F32, value.to_le_bytes().to_vec());
    }

    pub fn text(&mut self, key: &str, value: &str) {
        self.entry(key, STRING, string(value));
    }

    /// An array of truth values.
    pub fn flags(&mut self, key: &str, values: &[bool]) {
        let mut bytes = 7u32.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        bytes.extend(values.iter().map(|value| u8::from(*value)));
        self.entry(key, ARRAY, bytes);
    }

    pub fn without(&self, key: &str) -> Self {
        let mut other = self.clone();
        other.entries.retain(|(existing, _, _)| existing != key);
        other
    }

    /// A tensor of `shape` as Hugging Face writes shapes; the file has the extents the other way round.
    pub fn tensor(&mut self, name: &str, shape: &[usize], kind: u32, bytes: Vec<u8>) {
        let extents = shape.iter().rev().map(|extent| *extent as u64).collect();
        self.tensors.push((name.into(), extents, kind, bytes));
    }

    pub fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.tensor(name, shape, 0, bytes);
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend(
            self.tensor_count
                .unwrap_or(self.tensors.len() as u64)
                .to_le_bytes(),
        );
        file.extend((self.entries.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.entries {
            file.extend(string(key));
            file.extend(kind.to_le_bytes());
            file.extend(value);
        }
        let mut offset = self.offset;
        for (name, extents, kind, bytes) in &self.tensors {
            file.extend(string(name));
            file.extend((extents.len() as u32).to_le_bytes());
            file.extend(extents.iter().flat_map(|extent| extent.to_le_bytes()));
            file.extend(kind.to_le_bytes());
            file.extend(offset.to_le_bytes());
            offset += bytes.len().next_multiple_of(32) as u64;
        }
        file.resize(file.len().next_multiple_of(32), 0);
        for (_, _, _, bytes) in &self.tensors {
            file.extend(bytes);
            file.resize(file.len().next_multiple_of(32), 0);
        }
        file
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).expect("the temporary directory takes files");
    }
}

/// Reads a file that is correct.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        self.at += N;
        self.file[self.at - N..self.at].try_into().expect("N bytes")
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    fn string(&mut self) -> String {
        let length = self.u64() as usize;
        self.at += length;
        String::from_utf8(self.file[self.at - length..self.at].to_vec()).expect("text")
    }

    fn skip_value(&mut self, kind: u32) {
        match kind {
            STRING => drop(self.string()),
            ARRAY => {
                let (element, count) = (self.u32(), self.u64());
                (0..count).for_each(|_| self.skip_value(element));
            }
            0 | 1 | 7 => self.at += 1,
            2 | 3 => self.at += 2,
            4..=6 => self.at += 4,
            _ => self.at += 8,
        }
    }
}

/// A block of IQ4_NL or MXFP4, of the nearest values.
fn four_bits(format: GgufFormat, values: &[f32; 32]) -> Vec<u8> {
    let most = values
        .iter()
        .fold(1e-6f32, |most, value| most.max(value.abs()));
    let (mut bytes, scale) = match format {
        GgufFormat::MXFP4 => {
            let exponent = (most / 12.0).log2().ceil();
            (vec![(exponent + 128.0) as u8], exponent.exp2())
        }
        _ => {
            let scale = half::f16::from_f32(most / 127.0);
            (scale.to_le_bytes().to_vec(), scale.to_f32())
        }
    };
    let codes = format.blocks().codes;
    let code = |value: f32| {
        let distance = |code: u8| (codes.value(code.into()) * scale - value).abs();
        let nearest = (0..16u8).min_by(|a, b| distance(*a).total_cmp(&distance(*b)));
        nearest.expect("16 codes")
    };
    let (low, high) = values.split_at(16);
    bytes.extend(
        low.iter()
            .zip(high)
            .map(|(low, high)| code(*low) | code(*high) << 4),
    );
    bytes
}

pub fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// A recorded model in f32, its q and k rows interleaved as llama.cpp's converter leaves them; `with_factors`
/// stores the scaling of its rotary frequencies as the tensor `rope_freqs.weight`.
pub fn tiny_llama(name: &str, with_factors: bool) -> GgufBuilder {
    let source = Checkpoint::open(fixture(name)).expect("the fixture opens");
    let config = source.config();
    let mut file = GgufBuilder::new();
    file.describe("llama", config);
    file.number("llama.rope.dimension_count", config.head_dim as u32);
    file.float("llama.rope.freq_base", config.rotations[0].theta as f32);
    file.number(
        "tokenizer.ggml.bos_token_id",
        config.bos_token_id.expect("has one"),
    );
    file.number("tokenizer.ggml.eos_token_id", config.eos_token_ids[0]);
    if with_factors {
        let plain = RopeConfig::new()
            .with_theta(config.rotations[0].theta)
            .inverse_frequencies(config.head_dim, 1);
        let scaled = config.rotations[0].inverse_frequencies(config.head_dim, 1);
        let factors: Vec<f32> = plain
            .iter()
            .zip(&scaled)
            .map(|(plain, scaled)| plain / scaled)
            .collect();
        file.floats("rope_freqs.weight", &[factors.len()], &factors);
    }
    let mut copy = |from: &str, to: &str, shape: &[usize], heads: Option<usize>| {
        let mut values = source
            .read_f32(from, shape)
            .expect("the fixture has the tensor");
        if let Some(heads) = heads {
            values = interleaved(&values, shape[0], shape[1], heads);
        }
        file.floats(to, shape, &values);
    };
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let wide = config.num_attention_heads * config.head_dim;
    let narrow = config.num_key_value_heads * config.head_dim;
    copy(
        "model.embed_tokens.weight",
        "token_embd.weight",
        &[config.vocab_size, hidden],
        None,
    );
    for layer in 0..config.layers.len() {
        let mut layer_copy = |from: &str, to: &str, shape: &[usize], heads| {
            copy(
                &format!("model.layers.{layer}.{from}.weight"),
                &format!("blk.{layer}.{to}.weight"),
                shape,
                heads,
            );
        };
        layer_copy("input_layernorm", "attn_norm", &[hidden], None);
        layer_copy("post_attention_layernorm", "ffn_norm", &[hidden], None);
        layer_copy(
            "self_attn.q_proj",
            "attn_q",
            &[wide, hidden],
            Some(config.num_attention_heads),
        );
        layer_copy(
            "self_attn.k_proj",
            "attn_k",
            &[narrow, hidden],
            Some(config.num_key_value_heads),
        );
        layer_copy("self_attn.v_proj", "attn_v", &[narrow, hidden], None);
        layer_copy("self_attn.o_proj", "attn_output", &[hidden, wide], None);
        layer_copy("mlp.gate_proj", "ffn_gate", &[inner, hidden], None);
        layer_copy("mlp.up_proj", "ffn_up", &[inner, hidden], None);
        layer_copy("mlp.down_proj", "ffn_down", &[hidden, inner], None);
    }
    copy("model.norm.weight", "output_norm.weight", &[hidden], None);
    if !config.tie_word_embeddings {
        copy(
            "lm_head.weight",
            "output.weight",
            &[config.vocab_size, hidden],
            None,
        );
    }
    file
}

/// `permute` of llama.cpp's convert_hf_to_gguf.py: reshape to [heads, 2, half, columns], swap the middle axes.
fn interleaved(values: &[f32], rows: usize, columns: usize, heads: usize) -> Vec<f32> {
    let half = rows / heads / 2;
    let mut out = Vec::with_capacity(values.len());
    for head in 0..heads {
        for i in 0..half {
            for j in 0..2 {
                let row = (head * 2 + j) * half + i;
                out.extend(&values[row * columns..(row + 1) * columns]);
            }
        }
    }
    out
}
