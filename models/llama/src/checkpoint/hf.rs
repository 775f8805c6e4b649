//! Hugging Face directories: config.json, safetensors, tokenizer files; plain or bitsandbytes 4-bit.
//!
//! - `added_tokens`: tokens that other files add to tokenizer.json.
//! - `quantization`: methods that are not read.

mod added_tokens;
mod quantization;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use nf4::bitsandbytes::{self, Entry};
use nf4::{Codebook, FormatError, Layout, QuantizedMatrix};
use serde_json::{Map, Value};
use tensor_files::{Checksum, Dtype};
use tokenizers::Tokenizer;

#[cfg(feature = "qlora")]
pub(super) use added_tokens::check_normalizer;

use super::safetensors::SafeTensorFiles;
use super::special::{SpecialToken, SpecialTokens};
use super::{absent, files, table, tokenizers_result};
use crate::config::{DecoderConfig, HfConfig, generation_eos};
use crate::error::DecoderError;

/// Files that belong to the tokenizer and to generation, copied along when a checkpoint is rewritten.
const COMPANIONS: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
];

/// The longest chat_template.jinja that is read, in bytes; those that come with models have some ten thousand.
const MOST_TEMPLATE: u64 = 1 << 20;

/// An opened directory.
#[derive(Debug)]
pub(crate) struct HfDirectory {
    path: PathBuf,
    weights: SafeTensorFiles,
    bitsandbytes: bool,
}

impl HfDirectory {
    /// Opens a directory; returns what its config.json says where the tensors agree, and themselves.
    pub(crate) fn open(path: &Path) -> Result<(HfConfig, Self), DecoderError> {
        let config_path = path.join("config.json");
        if !files::is_there(&config_path)? {
            return Err(absent::config(path));
        }
        let text = files::read_text(&config_path)?;
        let mut read = HfConfig::read(&text, &config_path)?;
        let generation = path.join("generation_config.json");
        if files::is_there(&generation)? {
            let tokens = &mut read.decoder.eos_token_ids;
            for token in generation_eos(&files::read_text(&generation)?, &generation)? {
                if !tokens.contains(&token) {
                    tokens.push(token);
                }
            }
        }
        let weights = SafeTensorFiles::open(path)?;
        // What config.json says of it can be older than the weights.
        let bitsandbytes = weights.names().any(bitsandbytes::is_quant_state_name);
        let config: Value = serde_json::from_str(&text).unwrap_or_default();
        let stale = quantization::check(&config, &config_path, &weights, bitsandbytes)?;
        read.warnings.extend(stale);
        let directory = Self {
            path: path.to_path_buf(),
            weights,
            bitsandbytes,
        };
        table::reconcile(&mut read, &directory)?;
        Ok((read, directory))
    }

    pub(crate) fn weights(&self) -> &SafeTensorFiles {
        &self.weights
    }

    /// Adds config.json and a sample of every tensor to `sum`.
    pub(crate) fn fingerprint(&self, sum: &mut Checksum) -> Result<(), DecoderError> {
        let config = self.path.join("config.json");
        sum.add_framed(&std::fs::read(&config).map_err(DecoderError::io(&config))?);
        self.weights.sample(sum)
    }

    pub(crate) fn is_bitsandbytes(&self) -> bool {
        self.bitsandbytes
    }

    pub(crate) fn companion_files(&self) -> Vec<PathBuf> {
        COMPANIONS
            .iter()
            .map(|name| self.path.join(name))
            .filter(|path| path.is_file())
            .collect()
    }

    /// Returns config.json, the files beside it, and the weights.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.path.join("config.json")];
        files.extend(self.companion_files());
        files.extend(self.weights.paths().map(Path::to_owned));
        files
    }

    pub(crate) fn tokenizer(&self) -> Result<Tokenizer, DecoderError> {
        let path = self.path.join("tokenizer.json");
        if !files::is_there(&path)? {
            let hint = absent::tokenizer(&self.path)?;
            return Err(DecoderError::MissingFile { path, hint });
        }
        let text = files::read(&path)?;
        let refused = |reason: String| DecoderError::Tokenizer {
            path: path.clone(),
            reason,
        };
        added_tokens::check_normalizer(&text).map_err(refused)?;
        let config = self.tokenizer_config()?;
        let map = self.json_file("special_tokens_map.json")?;
        tokenizers_result(|| {
            let mut tokenizer = Tokenizer::from_bytes(text)?;
            // Whoever saved it may have cut and padded the rows of a training run of theirs.
            tokenizer.with_truncation(None)?;
            tokenizer.with_padding(None);
            added_tokens::add(&mut tokenizer, &config, &map)?;
            Ok(tokenizer)
        })
        .map_err(refused)
    }

    pub(crate) fn chat_template(&self) -> Result<Option<String>, DecoderError> {
        let file = self.path.join("chat_template.jinja");
        if files::is_there(&file)? {
            return files::read_short_text(&file, MOST_TEMPLATE).map(Some);
        }
        Ok(match self.tokenizer_config()?.get("chat_template") {
            Some(Value::String(template)) => Some(template.clone()),
            // Several templates by name; the one without a purpose of its own is called "default".
            Some(Value::Array(named)) => named
                .iter()
                .find(|entry| entry["name"] == "default")
                .and_then(|entry| entry["template"].as_str())
                .map(str::to_owned),
            _ => None,
        })
    }

    pub(crate) fn special_tokens(
        &self,
        config: &DecoderConfig,
    ) -> Result<SpecialTokens, DecoderError> {
        let tokenizer = self.tokenizer()?;
        let settings = self.tokenizer_config()?;
        let map = self.json_file("special_tokens_map.json")?;
        let by_id = |id: u32| {
            tokenizer
                .id_to_token(id)
                .map(|text| SpecialToken { id, text })
        };
        let named = |key: &str| {
            // Either the text itself or an object with the text as `content`.
            let value = [&settings, &map]
                .into_iter()
                .find_map(|file| file.get(key))?;
            let text = value.as_str().or_else(|| value["content"].as_str())?;
            tokenizer.token_to_id(text).map(|id| SpecialToken {
                id,
                text: text.into(),
            })
        };
        // A tokenizer that is described and names no token for the beginning has none, whatever the model's configuration says.
        let is_described = !settings.is_empty() || !map.is_empty();
        let bos = named("bos_token").or_else(|| match is_described {
            true => None,
            false => config.bos_token_id.and_then(by_id),
        });
        let eos =
            named("eos_token").or_else(|| config.eos_token_ids.first().copied().and_then(by_id));
        // What the tokenizer really adds is in its post-processor; asking it is the only reliable way.
        let added = tokenizers_result(|| tokenizer.encode("", true))
            .map(|encoding| encoding.get_ids().to_vec())
            .unwrap_or_default();
        let adds = |token: &Option<SpecialToken>, place: Option<&u32>| {
            token.as_ref().map(|token| &token.id) == place
        };
        Ok(SpecialTokens {
            add_bos: bos.is_some() && adds(&bos, added.first()),
            add_eos: eos.is_some() && adds(&eos, added.last()),
            bos,
            eos,
            unk: named("unk_token"),
            pad: named("pad_token"),
        })
    }

    /// Returns whether bitsandbytes stored the weight `name`.
    pub(crate) fn is_quantized(&self, name: &str) -> bool {
        [Codebook::Nf4, Codebook::Fp4].iter().any(|codebook| {
            let state = bitsandbytes::quant_state_name(name, *codebook);
            self.weights.contains(&state)
        })
    }

    /// Reads a matrix stored by bitsandbytes, bit for bit; `None` when it is stored otherwise.
    pub(crate) fn read_quantized(
        &self,
        name: &str,
        shape: [usize; 2],
    ) -> Result<Option<QuantizedMatrix>, DecoderError> {
        if !self.is_quantized(name) {
            return Ok(None);
        }
        let companions = bitsandbytes::companion_names(name);
        let mut tensors = HashMap::new();
        let mut check = self.weights.check(name);
        for part in std::iter::once(name).chain(companions.iter().map(String::as_str)) {
            if let Some(stored) = self.weights.tensor(part) {
                let bytes = stored.read()?;
                if let Some(check) = &mut check {
                    check.add(&bytes);
                }
                let shape = stored.shape().to_vec();
                tensors.insert(part, (nf4_dtype(stored.dtype()), shape, bytes));
            }
        }
        if let Some(check) = check {
            check.end(self.weights.path_of(name), name)?;
        }
        let get = |part: &str| {
            tensors.get(part).map(|(dtype, shape, bytes)| Entry {
                dtype: *dtype,
                shape: shape.clone(),
                data: Cow::Borrowed(bytes.as_slice()),
            })
        };
        let weight = bitsandbytes::read(name, get).map_err(self.quantization_error(name))?;
        self.check_shape(name, weight.matrix.layout(), shape)?;
        Ok(Some(weight.matrix))
    }

    /// Returns the layout of a matrix stored by bitsandbytes, of whose tensors only the one that describes it is read; `None` when it
    /// is stored otherwise.
    pub(crate) fn stored_layout(
        &self,
        name: &str,
        shape: [usize; 2],
    ) -> Result<Option<Layout>, DecoderError> {
        let states = [Codebook::Nf4, Codebook::Fp4];
        let states = states.map(|codebook| bitsandbytes::quant_state_name(name, codebook));
        let mut there = states
            .iter()
            .filter_map(|state| Some((state, self.weights.tensor(state)?)));
        let Some((state, stored)) = there.next() else {
            return Ok(None);
        };
        let bytes = stored.read()?;
        let get = |part: &str| {
            (part == state).then(|| Entry {
                dtype: nf4_dtype(stored.dtype()),
                shape: stored.shape().to_vec(),
                data: Cow::Borrowed(bytes.as_slice()),
            })
        };
        let len = |part: &str| self.weights.tensor(part).map(|stored| stored.byte_len());
        let layout = bitsandbytes::layout(name, get, len).map_err(self.quantization_error(name))?;
        self.check_shape(name, layout, shape)?;
        Ok(Some(layout))
    }

    fn quantization_error(&self, name: &str) -> impl FnOnce(FormatError) -> DecoderError {
        let (path, tensor) = (self.weights.path_of(name).to_path_buf(), name.to_owned());
        |source| DecoderError::Quantization {
            path,
            tensor,
            source,
        }
    }

    fn check_shape(
        &self,
        name: &str,
        layout: Layout,
        shape: [usize; 2],
    ) -> Result<(), DecoderError> {
        let found = layout.shape();
        if found == shape {
            return Ok(());
        }
        Err(DecoderError::TensorShape {
            path: self.weights.path_of(name).to_path_buf(),
            tensor: name.into(),
            found: found.to_vec(),
            expected: shape.to_vec(),
        })
    }

    /// Returns a value of config.json, or of the text model's part of it.
    #[cfg(feature = "qlora")]
    pub(crate) fn config_value(&self, key: &str) -> Result<Option<Value>, DecoderError> {
        let config = self.json_file("config.json")?;
        let text = config.get("text_config").and_then(|text| text.get(key));
        Ok(config.get(key).or(text).cloned())
    }

    fn tokenizer_config(&self) -> Result<Map<String, Value>, DecoderError> {
        self.json_file("tokenizer_config.json")
    }

    /// Reads a file with a JSON object; one that is not there is empty.
    fn json_file(&self, name: &str) -> Result<Map<String, Value>, DecoderError> {
        let path = self.path.join(name);
        if !files::is_there(&path)? {
            return Ok(Map::new());
        }
        serde_json::from_str(&files::read_text(&path)?)
            .map_err(|error| DecoderError::malformed(&path, format!("not a JSON object: {error}")))
    }
}

fn nf4_dtype(dtype: Dtype) -> bitsandbytes::Dtype {
    match dtype {
        Dtype::U8 => bitsandbytes::Dtype::U8,
        Dtype::F16 => bitsandbytes::Dtype::F16,
        Dtype::BF16 => bitsandbytes::Dtype::Bf16,
        Dtype::F32 => bitsandbytes::Dtype::F32,
        _ => bitsandbytes::Dtype::Other("another type"),
    }
}
