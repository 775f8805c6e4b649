//! A tokenizer with one token a byte, so that lengths and masks can be read off.

use burn_finetune::Row;
use tokenizers::Tokenizer;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// Returns the tokenizer.
pub fn tokenizer() -> Tokenizer {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let vocab: Vec<(String, u32)> = alphabet
        .into_iter()
        .enumerate()
        .map(|(id, letter)| (letter.to_string(), id as u32))
        .collect();
    let vocab: [(String, u32); 256] = vocab.try_into().unwrap();
    let model = BPE::builder()
        .vocab_and_merges(vocab, vec![])
        .build()
        .unwrap();
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, false, false)));
    tokenizer
}

/// Returns the part of a row that is learnt, as text; the end token is `$`.
pub fn learnt(row: &Row, tokenizer: &Tokenizer) -> String {
    let tokens = row.ids.iter().zip(&row.learn).filter(|(_, learn)| **learn);
    tokens
        .map(|(id, _)| match tokenizer.id_to_token(*id) {
            Some(token) => token.replace('Ġ', " "),
            None => "$".to_owned(),
        })
        .collect()
}
