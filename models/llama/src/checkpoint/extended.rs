//! Tokens that a vocabulary is extended by.

use std::collections::HashSet;

use tokenizers::{AddedToken, Tokenizer};

use super::{Checkpoint, tokenizers_result};
use crate::error::DecoderError;
use crate::tensors::{EMBEDDING, HEAD};

impl Checkpoint {
    /// Adds tokens to the vocabulary, as transformers' `tokenizer.add_tokens` does, and returns their ids: the tokenizer finds them
    /// whole in a text, and embedding and head have a row for each. The files stay as they are.
    ///
    /// Where the model has rows beyond its tokenizer's last token, as vocabularies are padded, the first tokens have these, as
    /// they are. Further rows are the mean of all rows that are stored: what `resize_token_embeddings` draws from a normal
    /// distribution around (transformers 5.23.0, `_init_added_embeddings_weights_with_mean`, whose covariance is 1e-9 of
    /// theirs), without the draw.
    ///
    /// # Errors
    /// [`DecoderError::AddedToken`] for one that is empty, comes twice or is in the vocabulary already, and for a tokenizer that
    /// has tokens beyond the model's rows; those of [`tokenizer`](Self::tokenizer). The checkpoint is then unchanged.
    pub fn add_tokens(&mut self, tokens: &[AddedToken]) -> Result<Vec<u32>, DecoderError> {
        let Some(first) = tokens.first() else {
            return Ok(Vec::new());
        };
        let mut tokenizer = self.tokenizer()?;
        let refused = |token: &AddedToken, reason: String| DecoderError::AddedToken {
            token: token.content.clone(),
            reason,
        };
        let mut seen = HashSet::new();
        for token in tokens {
            let text = token.content.as_str();
            if text.is_empty() {
                return Err(refused(token, "it is empty; remove it".into()));
            }
            if !seen.insert(text) {
                return Err(refused(token, "it comes twice; keep one".into()));
            }
            if let Some(id) = tokenizer.token_to_id(text) {
                let reason = format!(
                    "the vocabulary has it already, as token {id}; leave it out, or train its row as it is"
                );
                return Err(refused(token, reason));
            }
        }
        self.put_into(&mut tokenizer, tokens)?;
        let ids: Vec<u32> = tokens
            .iter()
            .filter_map(|token| tokenizer.token_to_id(&token.content))
            .collect();
        let rows = self.config.vocab_size;
        let next = ids.first().map_or(0, |id| *id as usize);
        if ids.len() != tokens.len() || next > rows {
            let reason = format!(
                "the tokenizer has tokens beyond the model's {rows} rows already, so that it would be token {next}; resize \
                 the model to its tokenizer first"
            );
            return Err(refused(first, reason));
        }
        self.added.extend_from_slice(tokens);
        self.config.vocab_size = rows.max(next + ids.len());
        Ok(ids)
    }

    /// Adds the tokens that `adapter` brings rows of and the vocabulary lacks, as the tokenizer.json beside it has them, and
    /// returns their ids. Without such a file none are added.
    ///
    /// # Errors
    /// [`DecoderError::Tokenizer`] for a tokenizer.json that cannot be read or has these tokens under other ids; those of
    /// [`add_tokens`](Self::add_tokens).
    #[cfg(feature = "qlora")]
    pub fn add_tokens_of(
        &mut self,
        adapter: &burn_qlora::peft::Adapter,
    ) -> Result<Vec<u32>, DecoderError> {
        let indices = adapter.trainable_token_indices();
        let ids: HashSet<u32> = indices.iter().flat_map(|(_, ids)| ids).copied().collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let own = self.tokenizer()?;
        let path = adapter.weights_path().with_file_name("tokenizer.json");
        if ids.iter().all(|id| own.id_to_token(*id).is_some()) || !super::files::is_there(&path)? {
            return Ok(Vec::new());
        }
        let refused = |reason: String| DecoderError::Tokenizer {
            path: path.clone(),
            reason,
        };
        let text = super::files::read(&path)?;
        super::hf::check_normalizer(&text).map_err(refused)?;
        let other = tokenizers_result(|| Tokenizer::from_bytes(text)).map_err(refused)?;
        let decoder = other.get_added_tokens_decoder();
        let new = decoder
            .into_iter()
            .filter(|(id, token)| own.id_to_token(*id).as_ref() != Some(&token.content));
        let mut new: Vec<(u32, AddedToken)> = new.collect();
        new.sort_by_key(|(id, _)| *id);
        let (known, new): (Vec<u32>, Vec<AddedToken>) = new.into_iter().unzip();
        let before = (self.added.len(), self.config.vocab_size);
        let added = self.add_tokens(&new)?;
        if added != known {
            self.added.truncate(before.0);
            self.config.vocab_size = before.1;
            return Err(refused(format!(
                "its added tokens have the ids {known:?}, but in this model's vocabulary they would have {added:?}; it is \
                 the tokenizer of another model"
            )));
        }
        Ok(added)
    }

    /// Returns whether tokens were added to the vocabulary.
    pub(crate) fn is_extended(&self) -> bool {
        !self.added.is_empty()
    }

    /// Returns the tokens that were added.
    #[cfg(all(feature = "gguf", feature = "qlora"))]
    pub(crate) fn added_tokens(&self) -> &[AddedToken] {
        &self.added
    }

    /// Returns the tokenizer with the tokens that were added.
    pub(super) fn extended(&self, mut tokenizer: Tokenizer) -> Result<Tokenizer, DecoderError> {
        if !self.is_extended() {
            return Ok(tokenizer);
        }
        self.put_into(&mut tokenizer, &self.added)?;
        Ok(tokenizer)
    }

    /// Returns the number of rows that are stored of the tensor `name` of `shape`, if it has more.
    pub(crate) fn stored_rows(&self, name: &str, shape: &[usize]) -> Option<usize> {
        let is_table = [EMBEDDING, HEAD].contains(&name);
        let extended = is_table && self.stored_vocab < self.config.vocab_size;
        (extended && shape.first() == Some(&self.config.vocab_size)).then_some(self.stored_vocab)
    }

    fn put_into(
        &self,
        tokenizer: &mut Tokenizer,
        tokens: &[AddedToken],
    ) -> Result<(), DecoderError> {
        let tokens = tokens.to_vec();
        let added = tokenizers_result(|| tokenizer.add_tokens(tokens));
        added.map(drop).map_err(|reason| DecoderError::Tokenizer {
            path: self.path.clone(),
            reason,
        })
    }
}

/// The mean of rows whose values come in their order.
pub(super) struct MeanRow {
    sums: Vec<f64>,
    values: usize,
}

impl MeanRow {
    pub fn new(width: usize) -> Self {
        Self {
            sums: vec![0.0; width],
            values: 0,
        }
    }

    /// Takes the next values, which need not be whole rows.
    pub fn add(&mut self, values: &[f32]) {
        let width = self.sums.len();
        for value in values {
            self.sums[self.values % width] += f64::from(*value);
            self.values += 1;
        }
    }

    /// Returns the mean, `rows` times.
    pub fn repeated(&self, rows: usize) -> Vec<f32> {
        let count = (self.values / self.sums.len()).max(1) as f64;
        let mean = self.sums.iter().map(|sum| (sum / count) as f32);
        let mean: Vec<f32> = mean.collect();
        mean.repeat(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_rows_does_not_depend_on_their_pieces() {
        let values = [1.0, 2.0, 3.0, 5.0, 6.0, -9.0, 2.0, 1.0, 0.0];
        for pieces in [1, 2, 4, 9] {
            let mut mean = MeanRow::new(3);
            values.chunks(pieces).for_each(|piece| mean.add(piece));
            let expected = [8.0f32 / 3.0, 3.0, -2.0];
            assert_eq!(mean.repeated(2), [expected, expected].concat());
        }
    }
}
