//! The files beside the weights: the tokenizer's, the chat template, what generation begins with.

use serde_json::{Map, Value, json};
use tensor_files::StagedDir;

use crate::checkpoint::Checkpoint;
use crate::error::DecoderError;

const GENERATION_CONFIG: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";

/// Copies the files of the checkpoint, and makes those that it keeps elsewhere or lacks; `template` takes the place of its chat
/// template.
pub(super) fn write_companions(
    checkpoint: &Checkpoint,
    template: Option<&str>,
    staging: &StagedDir,
) -> Result<(), DecoderError> {
    for (name, content) in companions(checkpoint)? {
        staging.write(&name, &content)?;
    }
    if !staging.has(GENERATION_CONFIG) {
        let generation = generation_config(checkpoint)?;
        staging.write(GENERATION_CONFIG, pretty(&generation).as_bytes())?;
    }
    if let Some(template) = template {
        staging.write("chat_template.jinja", template.as_bytes())?;
    }
    Ok(())
}

impl Checkpoint {
    /// Returns the files of its tokenizer and its chat template, by their names, with the tokens that were
    /// [added](Self::add_tokens): what transformers' `AutoTokenizer` reads.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn tokenizer_files(&self) -> Result<Vec<(String, Vec<u8>)>, DecoderError> {
        let mut files = companions(self)?;
        files.retain(|(name, _)| name != GENERATION_CONFIG);
        Ok(files)
    }
}

/// Returns the files of the tokenizer, and others that the checkpoint has beside its weights.
fn companions(checkpoint: &Checkpoint) -> Result<Vec<(String, Vec<u8>)>, DecoderError> {
    let Some(paths) = checkpoint.companion_files() else {
        return made_tokenizer(checkpoint);
    };
    let mut files = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let content = match (checkpoint.is_extended(), name.as_ref()) {
            // SentencePiece's own file, and a list that tokenizer.json has too, have none of the new tokens.
            (true, "tokenizer.model" | "added_tokens.json") => continue,
            (true, TOKENIZER) => tokenizer_json(checkpoint)?,
            _ => std::fs::read(&path).map_err(DecoderError::io(&path))?,
        };
        files.push((name.into_owned(), content));
    }
    Ok(files)
}

/// Returns the text of a tokenizer.json.
fn tokenizer_json(checkpoint: &Checkpoint) -> Result<Vec<u8>, DecoderError> {
    let text = checkpoint.tokenizer()?.to_string(true);
    text.map(String::into_bytes)
        .map_err(|error| DecoderError::Tokenizer {
            path: checkpoint.path().to_path_buf(),
            reason: error.to_string(),
        })
}

/// Returns the files of the tokenizer that the weights' own file holds.
fn made_tokenizer(checkpoint: &Checkpoint) -> Result<Vec<(String, Vec<u8>)>, DecoderError> {
    let special = checkpoint.special_tokens()?;
    let mut settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": checkpoint.config().max_position_embeddings,
        "clean_up_tokenization_spaces": false,
    });
    for (key, token) in [
        ("bos_token", special.bos),
        ("eos_token", special.eos),
        ("unk_token", special.unk),
        ("pad_token", special.pad),
    ] {
        if let Some(token) = token {
            settings[key] = json!(token.text);
        }
    }
    if let Some(template) = checkpoint.chat_template()? {
        settings["chat_template"] = json!(template);
    }
    Ok(vec![
        (TOKENIZER.to_owned(), tokenizer_json(checkpoint)?),
        (
            "tokenizer_config.json".to_owned(),
            pretty(&settings).into_bytes(),
        ),
    ])
}

/// Returns what transformers derives from a config.json where there is no such file.
fn generation_config(checkpoint: &Checkpoint) -> Result<Value, DecoderError> {
    let config = checkpoint.config();
    let mut generation = Map::new();
    generation.insert("_from_model_config".into(), json!(true));
    if let Some(bos) = config.bos_token_id {
        generation.insert("bos_token_id".into(), json!(bos));
    }
    match config.eos_token_ids.as_slice() {
        [] => {}
        [one] => drop(generation.insert("eos_token_id".into(), json!(one))),
        many => drop(generation.insert("eos_token_id".into(), json!(many))),
    }
    if let Some(pad) = padding(checkpoint)? {
        generation.insert("pad_token_id".into(), json!(pad));
    }
    Ok(Value::Object(generation))
}

/// Returns the token that the file of the weights itself names for padding.
pub(super) fn padding(checkpoint: &Checkpoint) -> Result<Option<u32>, DecoderError> {
    if !checkpoint.is_gguf() {
        return Ok(None);
    }
    Ok(checkpoint.special_tokens()?.pad.map(|token| token.id))
}

/// Returns the text of a JSON file.
pub(super) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
