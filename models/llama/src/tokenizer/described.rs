//! From a tokenizer to the vocabulary that a GGUF file carries: the other direction of `byte_level` and `sentencepiece`.

use std::collections::HashMap;

use serde_json::Value;
use tokenizers::Tokenizer;

use super::{TokenKind, Vocabulary, byte_level, sentencepiece};

/// A vocabulary as a file of llama.cpp has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DescribedVocabulary {
    /// "gpt2" or "llama".
    pub model: &'static str,
    /// The name of the pre-tokenizer.
    pub pre: &'static str,
    /// Texts by id.
    pub tokens: Vec<String>,
    /// Kinds by id.
    pub kinds: Vec<TokenKind>,
    /// Scores by id; none of bytes.
    pub scores: Vec<f32>,
    /// Pairs in the order of merging; none of pieces, whose scores say it.
    pub merges: Vec<String>,
    /// Whether SentencePiece puts a space before the text.
    pub add_space_prefix: Option<bool>,
    /// Tokens that the model has no row for.
    pub left_out: usize,
}

/// The tokenizer.json of a tokenizer.
pub(super) struct Source {
    json: Value,
    /// Whether bos goes in front of a text.
    pub adds_bos: bool,
}

impl Source {
    /// Returns a value of `model`.
    pub fn model(&self, key: &str) -> &Value {
        &self.json["model"][key]
    }

    pub fn part(&self, key: &str) -> &Value {
        &self.json[key]
    }

    /// Returns the merges, each as its two parts.
    pub fn merges(&self) -> Result<Vec<(&str, &str)>, String> {
        let merges = self.model("merges").as_array();
        let parts = merges.into_iter().flatten().map(|merge| match merge {
            Value::String(merge) => merge.split_once(' '),
            pair => Some((pair[0].as_str()?, pair[1].as_str()?)),
        });
        let parts: Option<Vec<_>> = parts.collect();
        parts.ok_or_else(|| "its merges are no pairs".into())
    }
}

impl DescribedVocabulary {
    /// Describes `tokenizer` for a model with `rows` rows of its embedding.
    ///
    /// # Errors
    /// What a GGUF file cannot say, in words.
    pub fn of(tokenizer: &Tokenizer, rows: usize, adds_bos: bool) -> Result<Self, String> {
        let text = tokenizer
            .to_string(false)
            .map_err(|error| error.to_string())?;
        let json = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let source = Source { json, adds_bos };
        let kind = &source.part("model")["type"];
        if kind != "BPE" {
            return Err(format!(
                "its model is {kind}; byte-pair encoding, over bytes or over SentencePiece's pieces, can be written as GGUF"
            ));
        }
        let mut described = Self::texts(&source, rows)?;
        if source.model("byte_fallback") == true {
            sentencepiece::describe(&source, &mut described)?;
        } else {
            byte_level::describe(&source, &mut described)?;
        }
        Ok(described)
    }

    /// Returns texts and kinds, as llama.cpp's converter has them.
    fn texts(source: &Source, rows: usize) -> Result<Self, String> {
        let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
        let mut kinds = vec![TokenKind::Unused; rows];
        let mut left_out = 0;
        let mut put = |id: &Value, text: &str, kind| {
            let id = id.as_u64().ok_or("a token has no id")? as usize;
            match (tokens.get_mut(id), kinds.get_mut(id)) {
                (Some(token), Some(place)) => {
                    text.clone_into(token);
                    *place = kind;
                }
                _ => left_out += 1,
            }
            Ok::<_, String>(())
        };
        let vocabulary = source.model("vocab").as_object();
        let vocabulary = vocabulary.ok_or("it has no vocabulary")?;
        let added = source.part("added_tokens").as_array();
        let is_added = |text: &str| {
            let mut tokens = added.into_iter().flatten();
            tokens.any(|token| token["content"] == text)
        };
        let has_row = |id: &Value| id.as_u64().is_some_and(|id| id < rows as u64);
        let mut without = vocabulary.iter().filter(|(_, id)| !has_row(id));
        if let Some((text, _)) = without.find(|(text, _)| !is_added(text)) {
            return Err(format!(
                "its token {text:?} has no row in the model, which has {rows}; it belongs to another model"
            ));
        }
        for (text, id) in vocabulary {
            put(id, text, TokenKind::Normal)?;
        }
        for token in added.into_iter().flatten() {
            let text = token["content"].as_str().ok_or("a token has no text")?;
            if token["special"] == true || looks_special(text) {
                put(&token["id"], text, TokenKind::Control)?;
            } else {
                // llama.cpp looks for it in the text as it is typed.
                let typed = text.replace('▁', " ");
                put(&token["id"], &typed, TokenKind::UserDefined)?;
            }
        }
        Ok(Self {
            model: "",
            pre: "",
            tokens,
            kinds,
            scores: Vec::new(),
            merges: Vec::new(),
            add_space_prefix: None,
            left_out,
        })
    }

    /// Returns it as it is read from a file, without its special tokens.
    pub fn vocabulary(&self) -> Vocabulary<'_> {
        let listed = self.merges.iter().map(String::as_str).collect();
        Vocabulary {
            model: self.model,
            pre: Some(self.pre),
            tokens: self.tokens.iter().map(String::as_str).collect(),
            kinds: self.kinds.clone(),
            scores: self.scores.clone(),
            merges: (!self.merges.is_empty()).then_some(listed),
            add_space_prefix: self.add_space_prefix,
            ..Vocabulary::default()
        }
    }

    /// Returns the ids of the normal tokens by their texts.
    pub(super) fn normal_ids(&self) -> HashMap<&str, usize> {
        let tokens = self.tokens.iter().enumerate();
        let normal = tokens.filter(|(id, _)| self.kinds[*id] == TokenKind::Normal);
        normal.map(|(id, text)| (text.as_str(), id)).collect()
    }
}

/// Returns whether llama.cpp's converter takes a token that was added for one with a meaning of its own.
fn looks_special(text: &str) -> bool {
    let between = |start, end| text.starts_with(start) && text.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">")
}

/// Texts that tell ways of cutting words and of joining pieces apart. The first is what llama.cpp's converter tells
/// pre-tokenizers by.
const PROBES: [&str; 5] = [
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u{200d}🌫️ (multiple emojis concatenated) ✅ 🦙🦙 3 33 333 3333 \
     33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ ------======= нещо на Български \
     ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some \
     tea? We'Ve a'lL",
    " Leading and trailing spaces  ",
    "fooBar CamelCase snake_case x==y; while(true) { return a[i]->b; }\r\n\ttabs\u{a0}and\u{3000}more",
    "e\u{301}té ﬁne Ａ ½ ٣ ไทย 한국어 עברית",
    "",
];

/// Returns the first text that two tokenizers encode otherwise.
///
/// # Errors
/// A tokenizer that fails.
pub(crate) fn first_difference(
    a: &Tokenizer,
    b: &Tokenizer,
) -> tokenizers::Result<Option<&'static str>> {
    for text in PROBES {
        if a.encode_fast(text, true)?.get_ids() != b.encode_fast(text, true)?.get_ids() {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs scripts/fetch-tokenizers.sh"]
    fn published_tokenizers_give_the_same_ids_once_they_are_described() {
        for (name, pre) in [
            ("qwen3", "qwen2"),
            ("llama3_1", "llama-bpe"),
            ("gpt4o", "gpt-4o"),
            ("mistral", "default"),
            ("gemma3", "default"),
        ] {
            let path = qlora_test_support::tokenizers().join(name);
            let tokenizer = Tokenizer::from_file(path.join("tokenizer.json")).unwrap();
            let rows = tokenizer.get_vocab_size(true) + 8;
            let empty = tokenizer.encode_fast("", true).unwrap();
            let bos = empty.get_ids().first().copied();
            let described = DescribedVocabulary::of(&tokenizer, rows, bos.is_some()).unwrap();
            assert_eq!((described.pre, described.left_out), (pre, 0), "{name}");
            let mut vocabulary = described.vocabulary();
            vocabulary.bos = bos;
            vocabulary.add_bos = Some(bos.is_some());
            let built = vocabulary.build().unwrap();
            assert_eq!(
                first_difference(&tokenizer, &built).unwrap(),
                None,
                "{name}"
            );
        }
    }
}
