//! Tokens whose rows are trained.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::config::targets::is_named;
use crate::error::LoraError;

/// The tokens whose rows of an embedding or a head are trained, by the names of these layers, as peft's
/// `trainable_token_indices` says it.
///
/// In text form a list is of the embedding, which peft looks for by the name `embed_tokens`, and a map is by names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "IndicesText", into = "IndicesText")]
pub struct TokenIndices(BTreeMap<String, Vec<u32>>);

/// The form of [`TokenIndices`] in a file.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum IndicesText {
    List(Vec<u32>),
    Map(BTreeMap<String, Vec<u32>>),
}

/// The name of the embedding where a list names none.
const EMBEDDING: &str = "embed_tokens";

impl From<IndicesText> for TokenIndices {
    fn from(text: IndicesText) -> Self {
        match text {
            IndicesText::List(ids) => [(EMBEDDING.to_owned(), ids)].into_iter().collect(),
            IndicesText::Map(layers) => layers.into_iter().collect(),
        }
    }
}

impl From<TokenIndices> for IndicesText {
    fn from(TokenIndices(mut layers): TokenIndices) -> Self {
        match (layers.len(), layers.remove(EMBEDDING)) {
            (1, Some(ids)) => Self::List(ids),
            (_, ids) => {
                layers.extend(ids.map(|ids| (EMBEDDING.to_owned(), ids)));
                Self::Map(layers)
            }
        }
    }
}

impl FromIterator<(String, Vec<u32>)> for TokenIndices {
    /// Takes the tokens of layers by the layers' names.
    fn from_iter<I: IntoIterator<Item = (String, Vec<u32>)>>(layers: I) -> Self {
        let layers = layers.into_iter().filter(|(_, ids)| !ids.is_empty());
        Self(layers.collect())
    }
}

impl TokenIndices {
    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the names of the layers and their tokens.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u32])> {
        let layers = self.0.iter();
        layers.map(|(name, ids)| (name.as_str(), ids.as_slice()))
    }

    /// Returns the tokens of the layer at `path`, `None` where no name is its own.
    pub fn of_layer(&self, path: &str) -> Option<&[u32]> {
        self.iter()
            .find_map(|(name, ids)| is_named(path, name).then_some(ids))
    }

    /// Returns the same without the layers that `path_is_gone` names.
    pub(crate) fn without(self, is_gone: impl Fn(&str) -> bool) -> Self {
        let layers = self.0.into_iter();
        layers.filter(|(name, _)| !is_gone(name)).collect()
    }

    /// Checks that no token is there twice.
    ///
    /// # Errors
    /// [`LoraError::InvalidConfig`].
    pub(super) fn validate(&self) -> Result<(), LoraError> {
        for (_, ids) in self.iter() {
            let mut seen = HashSet::new();
            if let Some(twice) = ids.iter().find(|id| !seen.insert(**id)) {
                return Err(LoraError::InvalidConfig {
                    field: "trainable_token_indices",
                    value: format!("a list with {twice} twice"),
                    expected: "a list of different tokens",
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The forms that `LoraConfig.save_pretrained` of peft 0.21.2 writes.
    #[test]
    fn a_list_is_of_the_embedding() {
        for (text, layers) in [
            ("[3,1]", vec![("embed_tokens", [3, 1])]),
            (
                r#"{"embed_tokens":[3,1],"lm_head":[4,2]}"#,
                vec![("embed_tokens", [3, 1]), ("lm_head", [4, 2])],
            ),
            (r#"{"lm_head":[4,2]}"#, vec![("lm_head", [4, 2])]),
        ] {
            let indices: TokenIndices = serde_json::from_str(text).unwrap();
            let found: Vec<_> = indices.iter().collect();
            let layers: Vec<_> = layers.iter().map(|(name, ids)| (*name, &ids[..])).collect();
            assert_eq!(found, layers);
            assert_eq!(serde_json::to_string(&indices).unwrap(), text);
        }
        let none: TokenIndices = serde_json::from_str("[]").unwrap();
        assert!(none.is_empty());
        let full: TokenIndices = serde_json::from_str("[7]").unwrap();
        assert_eq!(full.of_layer("model.embed_tokens"), Some(&[7][..]));
        assert_eq!(full.of_layer("lm_head"), None);
        let twice: TokenIndices = serde_json::from_str("[7, 7]").unwrap();
        assert!(twice.validate().is_err());
    }
}
