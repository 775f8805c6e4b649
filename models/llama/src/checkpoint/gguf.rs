//! llama.cpp's GGUF files, read with candle's reader and block decoders.
//!
//! - `header`: checks that come before candle's reader sees the file.
//! - `metadata`: typed access to the metadata, and the configuration.
//! - `tensors`: names, shapes, row order and decoding.
//! - `vocabulary`: the tokenizer's parts of the metadata.

mod header;
mod metadata;
mod tensors;
mod vocabulary;

use std::path::Path;

use candle_core::quantized::gguf_file::Content;
use tensor_files::InputFile;

use self::metadata::Metadata;
use crate::config::DecoderConfig;
use crate::error::DecoderError;

/// An opened GGUF file.
#[derive(Debug)]
pub(crate) struct GgufFile {
    input: InputFile,
    content: Content,
    /// Heads of the query and of the key projection, whose rows llama.cpp reorders.
    heads: [usize; 2],
}

impl GgufFile {
    pub(crate) fn open(path: &Path) -> Result<(DecoderConfig, Self), DecoderError> {
        let input = InputFile::open(path)?;
        let mut reader = input.reader();
        header::check(path, &mut reader, input.len())?;
        let content = Content::read(&mut input.reader()).map_err(|error| {
            // candle appends a backtrace when the environment asks for one.
            let reason = error.to_string();
            let reason = reason.lines().next().unwrap_or_default();
            DecoderError::malformed(path, format!("invalid GGUF header: {reason}"))
        })?;
        let mut file = Self {
            input,
            content,
            heads: [1, 1],
        };
        file.check_tensors()?;
        let config = file.read_config()?;
        file.heads = [config.num_attention_heads, config.num_key_value_heads];
        Ok((config, file))
    }

    fn path(&self) -> &Path {
        self.input.path()
    }

    fn metadata(&self) -> Metadata<'_> {
        Metadata::new(self.path(), &self.content.metadata)
    }
}
