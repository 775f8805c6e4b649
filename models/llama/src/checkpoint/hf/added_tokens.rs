//! The tokens that tokenizer_config.json and special_tokens_map.json add to tokenizer.json, as transformers adds them.

use std::collections::HashSet;

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

/// The keys under which one special token is named, in the order of transformers.
const NAMES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];
/// The keys under which several are.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// Adds the tokens that the two files name and the tokenizer does not have as added tokens yet. A text that the
/// vocabulary has keeps its id, any other gets the next free one.
pub(super) fn add(
    tokenizer: &mut Tokenizer,
    config: &Map<String, Value>,
    map: &Map<String, Value>,
) -> tokenizers::Result<()> {
    let mut tokens = decoder_tokens(config);
    for file in [config, map] {
        let named = NAMES.iter().filter_map(|name| file.get(*name));
        let listed = LISTS.iter().filter_map(|name| file.get(*name));
        let listed = listed.flat_map(|list| match list {
            Value::Array(tokens) => tokens.iter().collect::<Vec<_>>(),
            Value::Object(tokens) => tokens.values().collect(),
            _ => Vec::new(),
        });
        tokens.extend(named.chain(listed).filter_map(|token| read(token, true)));
    }
    let known = tokenizer.get_added_vocabulary().get_vocab();
    let mut seen = HashSet::new();
    tokens.retain(|token| {
        let text = &token.content;
        !text.is_empty() && !known.contains_key(text) && seen.insert(text.clone())
    });
    if !tokens.is_empty() {
        tokenizer.add_tokens(tokens)?;
    }
    Ok(())
}

/// Returns the tokens of `added_tokens_decoder` in the order of their ids.
fn decoder_tokens(config: &Map<String, Value>) -> Vec<AddedToken> {
    let decoder = config.get("added_tokens_decoder");
    let entries = decoder.and_then(Value::as_object).into_iter().flatten();
    let mut tokens: Vec<(u64, AddedToken)> = entries
        .filter_map(|(id, token)| Some((id.parse().ok()?, read(token, false)?)))
        .collect();
    tokens.sort_by_key(|(id, _)| *id);
    tokens.into_iter().map(|(_, token)| token).collect()
}

/// Reads a token that is given by its text or as an object.
fn read(token: &Value, special: bool) -> Option<AddedToken> {
    if let Some(text) = token.as_str() {
        return Some(AddedToken::from(text, special));
    }
    let flag = |name: &str, default| token[name].as_bool().unwrap_or(default);
    let special = flag("special", special);
    Some(
        AddedToken::from(token["content"].as_str()?, special)
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .single_word(flag("single_word", false))
            .normalized(flag("normalized", !special)),
    )
}

/// Refuses a normalizer without its map of characters, on which the reader of tokenizer.json panics.
pub(in crate::checkpoint) fn check_normalizer(text: &[u8]) -> Result<(), String> {
    const KIND: &[u8] = b"Precompiled";
    if !text.windows(KIND.len()).any(|window| window == KIND) {
        return Ok(());
    }
    // What is not JSON the reader of tokenizer.json refuses in its own words.
    let Ok(file) = serde_json::from_slice::<Value>(text) else {
        return Ok(());
    };
    if lacks_map(&file["normalizer"]) {
        return Err(
            "its normalizer `Precompiled` has no precompiled_charsmap; save the tokenizer again"
                .into(),
        );
    }
    Ok(())
}

fn lacks_map(normalizer: &Value) -> bool {
    if normalizer["type"] == "Precompiled" {
        let map = normalizer["precompiled_charsmap"].as_str();
        return map.is_none_or(str::is_empty);
    }
    let steps = normalizer["normalizers"].as_array().into_iter().flatten();
    steps.into_iter().any(lacks_map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokenizers::models::wordlevel::WordLevel;

    fn tokenizer() -> Tokenizer {
        let words = ["<unk>", "a", "<end>"].into_iter().zip(0..);
        let vocab = words.map(|(word, id)| (word.to_owned(), id)).collect();
        let model = WordLevel::builder().vocab(vocab).build().unwrap();
        Tokenizer::new(model)
    }

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn named_tokens_are_whole_and_keep_their_ids() {
        let mut tokenizer = tokenizer();
        let config = object(json!({
            "eos_token": {"content": "<end>", "rstrip": true},
            "added_tokens_decoder": {"3": {"content": "<x>", "special": true}},
            "additional_special_tokens": ["<y>"],
        }));
        let map = object(json!({"pad_token": "<end>", "sep_token": "<z>"}));
        add(&mut tokenizer, &config, &map).unwrap();
        let ids = tokenizer.encode("a<end> <x><y><z>a", false).unwrap();
        assert_eq!(ids.get_ids(), [1, 2, 3, 4, 5, 1]);
    }

    #[test]
    fn a_normalizer_without_its_map_is_named() {
        for normalizer in [
            json!({"type": "Precompiled", "precompiled_charsmap": null}),
            json!({"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": ""}]}),
        ] {
            let file = json!({ "normalizer": normalizer }).to_string();
            let error = check_normalizer(file.as_bytes()).unwrap_err();
            assert!(error.contains("precompiled_charsmap"), "{error}");
        }
        assert!(check_normalizer(br#"{"normalizer": null, "x": "Precompiled"}"#).is_ok());
    }
}
