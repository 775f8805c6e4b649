//! What a file says of itself and of the tokenizer.

use candle_core::quantized::gguf_file::Value;
use tokenizers::{AddedToken, Tokenizer};

use super::GgufOptions;
use crate::checkpoint::{Checkpoint, SpecialToken, tokenizers_result};
use crate::config::DecoderConfig;
use crate::error::DecoderError;
use crate::export::merged::MergedCheckpoint;
use crate::family::GgufDefinition;
use crate::tokenizer::{DescribedVocabulary, TokenKind, first_difference};

/// Keys of a file that are about that file alone.
const OF_THE_FILE: [&str; 3] = [
    "general.file_type",
    "general.quantization_version",
    "general.alignment",
];
/// Where a chat template is.
const TEMPLATE: &str = "tokenizer.chat_template";

/// Returns all metadata; `described` is the architecture's.
///
/// From a GGUF file come its own, but for what is about the architecture and the file itself.
///
/// # Errors
/// [`DecoderError::Tokenizer`]; files that cannot be read.
pub(super) fn of(
    model: &MergedCheckpoint<'_>,
    definition: &GgufDefinition,
    described: Vec<(String, Value)>,
    options: &GgufOptions,
    warnings: &mut Vec<String>,
) -> Result<Vec<(String, Value)>, DecoderError> {
    let checkpoint = model.checkpoint();
    let text = |text: &str| Value::String(text.into());
    let mut metadata = vec![("general.architecture".into(), text(definition.architecture))];
    let (general, tokenizer) = match checkpoint.gguf_values() {
        Some(values) => {
            let prefix = format!("{}.", definition.architecture);
            let is_dropped = |key: &str| {
                OF_THE_FILE.contains(&key)
                    || key == "general.architecture"
                    || ["split.", "quantize.", &prefix]
                        .iter()
                        .any(|start| key.starts_with(start))
            };
            let kept = values.iter().filter(|(key, _)| !is_dropped(key));
            let mut kept: Vec<_> = kept
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            kept.sort_by(|(a, _), (b, _)| a.cmp(b));
            extend(&mut kept, checkpoint)?;
            kept.into_iter()
                .partition(|(key, _)| !key.starts_with("tokenizer."))
        }
        None => (
            vec![
                ("general.type".to_owned(), text("model")),
                ("general.name".to_owned(), text(&name_of(checkpoint))),
            ],
            tokenizer(checkpoint, model.config(), definition, warnings)?,
        ),
    };
    metadata.extend(general);
    metadata.extend(described);
    metadata.push((
        OF_THE_FILE[0].into(),
        Value::U32(options.weights.file_type()),
    ));
    metadata.push((OF_THE_FILE[1].into(), Value::U32(2)));
    metadata.extend(tokenizer);
    let template = match &options.chat_template {
        Some(template) => Some(template.clone()),
        None => checkpoint.chat_template()?,
    };
    if let Some(template) = template {
        metadata.retain(|(key, _)| key != TEMPLATE);
        metadata.push((TEMPLATE.into(), Value::String(template)));
    }
    Ok(metadata)
}

/// Adds the tokens that were added to the vocabulary to that of a file.
///
/// # Errors
/// [`DecoderError::Tokenizer`] where the file lists other tokens than there are rows.
fn extend(metadata: &mut [(String, Value)], checkpoint: &Checkpoint) -> Result<(), DecoderError> {
    let added = checkpoint.added_tokens();
    let Some(first) = added.first() else {
        return Ok(());
    };
    let id = checkpoint.tokenizer()?.token_to_id(&first.content);
    for (key, value) in metadata {
        let of_token: fn(&AddedToken) -> Value = match key.strip_prefix("tokenizer.ggml.") {
            Some("tokens") => |token| Value::String(token.content.clone()),
            Some("scores") => |_| Value::F32(0.0),
            Some("token_type") => |token| {
                let kind = match token.special {
                    true => TokenKind::Control,
                    false => TokenKind::UserDefined,
                };
                Value::I32(kind.number().into())
            },
            _ => continue,
        };
        if let Value::Array(values) = value {
            if id != u32::try_from(values.len()).ok() {
                return Err(DecoderError::Tokenizer {
                    path: checkpoint.path().to_path_buf(),
                    reason: format!(
                        "`{key}` has {} entries, so that {:?} cannot be the next token; export to a Hugging Face directory",
                        values.len(),
                        first.content
                    ),
                });
            }
            values.extend(added.iter().map(of_token));
        }
    }
    Ok(())
}

/// Returns the name of a model: that of its folder or file.
pub(in crate::export) fn name_of(checkpoint: &Checkpoint) -> String {
    let path = checkpoint.path();
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let name = path.file_stem().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Returns the vocabulary of a Hugging Face directory, and its tokens with a role.
fn tokenizer(
    checkpoint: &Checkpoint,
    config: &DecoderConfig,
    definition: &GgufDefinition,
    warnings: &mut Vec<String>,
) -> Result<Vec<(String, Value)>, DecoderError> {
    let refused = |reason: String| DecoderError::Tokenizer {
        path: checkpoint.path().to_path_buf(),
        reason,
    };
    let tokenizer = checkpoint.tokenizer()?;
    let special = checkpoint.special_tokens()?;
    let described = DescribedVocabulary::of(&tokenizer, config.vocab_size, special.add_bos);
    let described = described.map_err(refused)?;
    if described.left_out > 0 {
        warnings.push(format!(
            "{} tokens of the tokenizer are left out: the model has {} rows",
            described.left_out, config.vocab_size
        ));
    }
    let id = |token: &Option<SpecialToken>| token.as_ref().map(|token| token.id);
    let in_vocabulary = |id: &u32| (*id as usize) < config.vocab_size;
    let pad = checkpoint.config_value("pad_token_id")?;
    let pad = pad.and_then(|pad| u32::try_from(pad.as_u64()?).ok());
    let bos = id(&special.bos).or(config.bos_token_id);
    let eos = id(&special.eos).or(config.eos_token_ids.first().copied());
    let unknown = id(&special.unk);
    let mut vocabulary = described.vocabulary();
    vocabulary.bos = bos.filter(in_vocabulary);
    vocabulary.eos = eos.filter(in_vocabulary);
    vocabulary.unk = unknown.filter(in_vocabulary);
    vocabulary.add_bos = Some(special.add_bos);
    vocabulary.add_eos = Some(special.add_eos);
    vocabulary.strips_behind_special =
        described.model == "llama" && definition.architecture == "phi3";
    check(&tokenizer, || vocabulary.build()).map_err(refused)?;

    // Those that neither the end of text nor the vocabulary's own end of a turn names.
    let named = [vocabulary.eos, vocabulary.turn_end()];
    let ends = config.eos_token_ids.iter().copied().filter(in_vocabulary);
    let mut further = ends.filter(|end| !named.contains(&Some(*end)));
    let (first, second) = (further.next(), further.next());
    let (turn_end, message_end) = match (vocabulary.turn_end(), first, second) {
        (None, turn, message) => (turn, message),
        (Some(_), message, None) => (None, message),
        // The place of the one that is found by its text anyway.
        (Some(_), turn, message) => (turn, message),
    };

    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let texts = |texts: &[String]| texts.iter().cloned().map(Value::String).collect();
    let kinds = described.kinds.iter();
    let kinds = kinds.map(|kind| Value::I32(kind.number().into()));
    let mut values = vec![
        (key("model"), Value::String(described.model.into())),
        (key("pre"), Value::String(described.pre.into())),
        (key("tokens"), Value::Array(texts(&described.tokens))),
    ];
    if !described.scores.is_empty() {
        let scores = described.scores.iter().copied().map(Value::F32);
        values.push((key("scores"), Value::Array(scores.collect())));
    }
    values.push((key("token_type"), Value::Array(kinds.collect())));
    if !described.merges.is_empty() {
        values.push((key("merges"), Value::Array(texts(&described.merges))));
    }
    for (name, id) in [
        ("bos_token_id", vocabulary.bos),
        ("eos_token_id", vocabulary.eos),
        ("eot_token_id", turn_end),
        ("eom_token_id", message_end),
        ("unknown_token_id", vocabulary.unk),
        (
            "padding_token_id",
            id(&special.pad).or(pad).filter(in_vocabulary),
        ),
    ] {
        if let Some(id) = id {
            values.push((key(name), Value::U32(id)));
        }
    }
    for (name, flag) in [
        ("add_bos_token", Some(special.add_bos)),
        ("add_eos_token", Some(special.add_eos)),
        ("add_space_prefix", described.add_space_prefix),
    ] {
        if let Some(flag) = flag {
            values.push((key(name), Value::Bool(flag)));
        }
    }
    Ok(values)
}

/// Compares a tokenizer with the one that the file will give.
fn check(
    tokenizer: &Tokenizer,
    written: impl FnOnce() -> Result<Tokenizer, String>,
) -> Result<(), String> {
    let difference = tokenizers_result(|| {
        let written = written().map_err(tokenizers::Error::from)?;
        first_difference(tokenizer, &written)
    })?;
    match difference {
        None => Ok(()),
        Some(text) => Err(format!(
            "as GGUF it would give other tokens, for the text {:?} among others; llama.cpp has no words for this tokenizer",
            text.chars().take(40).collect::<String>()
        )),
    }
}
