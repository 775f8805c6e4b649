//! The tokens that are put around every text.

use tokenizers::processors::template::TemplateProcessing;

use super::Vocabulary;

/// Returns the template that adds bos and eos; `None` if neither is added.
pub(super) fn around(vocabulary: &Vocabulary) -> Result<Option<TemplateProcessing>, String> {
    let token = |adds: bool, id: Option<u32>, key: &str| match (adds, id) {
        (false, _) => Ok(None),
        (true, Some(id)) => match vocabulary.text(id) {
            Some(text) => Ok(Some((text.to_owned(), id))),
            None => Err(format!(
                "`{key}` is {id}, outside the vocabulary of {}",
                vocabulary.tokens.len()
            )),
        },
        (true, None) => Err(format!(
            "`{key}` is missing, but the token is to be added to every text"
        )),
    };
    let bos = token(
        vocabulary.adds_bos(),
        vocabulary.bos,
        "tokenizer.ggml.bos_token_id",
    )?;
    let eos = token(
        vocabulary.adds_eos(),
        vocabulary.eos,
        "tokenizer.ggml.eos_token_id",
    )?;
    if bos.is_none() && eos.is_none() {
        return Ok(None);
    }
    let pieces = |parts: &[&str]| -> Vec<String> {
        let name = |token: &Option<(String, u32)>| token.as_ref().map(|(text, _)| text.clone());
        parts
            .iter()
            .flat_map(|part| [name(&bos), Some((*part).to_owned()), name(&eos)])
            .flatten()
            .collect()
    };
    TemplateProcessing::builder()
        .try_single(pieces(&["$A:0"]))
        .and_then(|builder| builder.try_pair(pieces(&["$A:0", "$B:1"])))
        .map_err(|error| error.to_string())?
        .special_tokens(bos.iter().chain(&eos).cloned().collect::<Vec<_>>())
        .build()
        .map(Some)
        .map_err(|error| error.to_string())
}
