use super::*;
use crate::data::answers::Learn;
use crate::data::encode::Encoded;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

/// What the tokenizers are trained on.
const TEXT: &str = "The cat sat on the mat, and the mat was flat.\n\nIt's 1234 or 12,345; they'll say 'so' and don't.\n  \
    if a == b:\n        return a + b\n\nÜber den Wolken, muß die Freiheit wohl grenzenlos sein. 猫は畳の上に座った。\n\
    aaaa aaaaaaaa abababab the the the      the\tcat\t\tcat   aaaaaaaaaaaaaaaa        bbbb\n";

fn pieces() -> impl Iterator<Item = String> {
    (0..6).map(|_| TEXT.to_owned())
}

/// A byte-pair encoding over bytes, cut as GPT-2's is.
fn byte_level(prefix_space: bool) -> Tokenizer {
    let level = ByteLevel::new(prefix_space, true, true);
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(400)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(level));
    tokenizer.with_post_processor(Some(level));
    tokenizer.train(&mut trainer, pieces()).unwrap();
    tokenizer
}

/// A byte-pair encoding that nothing cuts, as LLaMA 2's.
fn uncut() -> Tokenizer {
    let normalizer: NormalizerWrapper = serde_json::from_str(
        r#"{"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}"#,
    )
    .unwrap();
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(300)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from("<unk>", true)])
        .build()
        .into();
    let mut tokenizer = Tokenizer::new(BPE::builder().unk_token("<unk>".into()).build().unwrap());
    // Words for the training alone, or the whole text would be one token.
    let space = Metaspace::new('▁', PrependScheme::Always, true);
    tokenizer.with_pre_tokenizer(Some(space));
    tokenizer.train(&mut trainer, pieces()).unwrap();
    tokenizer.with_pre_tokenizer(None::<PreTokenizerWrapper>);
    tokenizer.with_normalizer(Some(normalizer)).unwrap();
    tokenizer
}

fn unigram() -> Tokenizer {
    let mut trainer: TrainerWrapper = UnigramTrainer::builder()
        .vocab_size(120)
        .show_progress(false)
        .unk_token(Some("<unk>".into()))
        .special_tokens(vec![AddedToken::from("<unk>", true)])
        .build()
        .unwrap()
        .into();
    let mut tokenizer = Tokenizer::new(Unigram::default());
    let space = Metaspace::new('▁', PrependScheme::First, true);
    tokenizer.with_pre_tokenizer(Some(space));
    tokenizer.train(&mut trainer, pieces()).unwrap();
    tokenizer
}

fn word_piece() -> Tokenizer {
    let normalizer: NormalizerWrapper = serde_json::from_str(
        r#"{"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true}"#,
    )
    .unwrap();
    let mut trainer: TrainerWrapper = WordPieceTrainer::builder()
        .vocab_size(150)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from("[UNK]", true)])
        .build()
        .into();
    let mut tokenizer = Tokenizer::new(WordPiece::default());
    tokenizer.with_normalizer(Some(normalizer)).unwrap();
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.train(&mut trainer, pieces()).unwrap();
    tokenizer
}

/// Lets a tokenizer begin and end texts, and know tokens that may be typed.
fn framed(mut tokenizer: Tokenizer) -> Tokenizer {
    let special = ["<s>", "</s>", "<|x|>"].map(|text| AddedToken::from(text, true));
    tokenizer.add_special_tokens(special).unwrap();
    let id = |text: &str| tokenizer.token_to_id(text).unwrap();
    let processor = TemplateProcessing::builder()
        .try_single("<s> $A </s>")
        .unwrap()
        .special_tokens(vec![("<s>", id("<s>")), ("</s>", id("</s>"))])
        .build()
        .unwrap();
    tokenizer.with_post_processor(Some(processor));
    tokenizer
}

fn tokenizers() -> Vec<(&'static str, Tokenizer)> {
    vec![
        ("byte level", byte_level(false)),
        ("byte level with a space before", byte_level(true)),
        ("framed byte level", framed(byte_level(false))),
        ("uncut", uncut()),
        ("framed uncut", framed(uncut())),
        ("unigram", unigram()),
        ("word pieces", word_piece()),
    ]
}

/// The tokens that windows give.
fn in_windows(tokenizer: &Tokenizer, text: &str, windows: Windows) -> Vec<u32> {
    let encoder = RowEncoder {
        tokenizer,
        template: None,
        eos: None,
        vocab_size: None,
        learn: Learn::AllAnswers,
        max_len: 7,
        truncate: false,
    };
    let mut ids = Vec::new();
    let mut push = |_: Place, encoded: Result<Encoded, RowProblem>| {
        for row in encoded.unwrap().rows {
            assert!(row.learn[1..].iter().all(|learn| *learn));
            ids.extend(row.ids);
        }
        Ok(())
    };
    let read_error = |error: io::Error| panic!("{error}");
    read(
        &mut text.as_bytes(),
        &encoder,
        windows,
        &read_error,
        &mut push,
    )
    .unwrap();
    ids
}

/// The tokens of the whole text, without a last one that is a row of its own.
fn whole(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let texts = crate::data::tokens::TextEncoder {
        tokenizer,
        eos: None,
    };
    let mut ids = texts.text(text).unwrap();
    if ids.len() % 7 == 1 {
        ids.pop();
    }
    ids
}

/// Texts at which tokenizers stumble: words, numbers and signs at random, stretches of one letter and of blanks, no
/// blank at all, letters of several bytes, special tokens.
fn texts(rng: &mut ChaCha8Rng) -> Vec<String> {
    let mut some = |parts: &[&str], count: usize| -> String {
        let part = |_| parts[rng.next_u32() as usize % parts.len()];
        (0..count).map(part).collect()
    };
    vec![
        some(
            &[
                "the ", "cat", " sat", ",", "\n", "12", "345", "'ll", "don't", "  ", "Ü",
            ],
            500,
        ),
        some(&["a"], 1500),
        some(&[" "], 1500),
        some(&["ab", "a", "aa"], 700),
        some(&["猫", "は", "é", "e\u{301}", "𝄞", "ß"], 400),
        some(&["\n", " ", "\t", "\u{a0}", "\r\n"], 700),
        some(&["<|x|>", "<s>", "</s>", "<", "|x|>", " the", "s>"], 300),
        some(&["the cat sat on the mat and "], 80),
        some(&["abababab", "aaaaaaaaaaaaaaaa", " ", "x"], 200),
        some(&["0123456789", ".", ",", "1e-7"], 200),
        format!("{}{TEXT}{}", "</s>".repeat(40), "<s></s>".repeat(40)),
        TEXT.repeat(4),
    ]
}

#[test]
fn windows_give_the_tokens_of_the_whole_text() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (name, tokenizer) in tokenizers() {
        for _ in 0..2 {
            for text in texts(&mut rng) {
                let expected = whole(&tokenizer, &text);
                for (window, overlap) in [(128, 48), (400, 64), (1000, 100)] {
                    let found = in_windows(&tokenizer, &text, Windows { window, overlap });
                    let differs = found
                        .iter()
                        .zip(&expected)
                        .position(|(one, other)| one != other);
                    assert_eq!(
                        found.len(),
                        expected.len(),
                        "{name}, {window}, {differs:?}: {text:?}"
                    );
                    assert_eq!(differs, None, "{name}, {window}: {text:?}");
                }
            }
        }
    }
}

#[test]
fn short_texts_are_tokenised_as_others_are() {
    for (name, tokenizer) in tokenizers() {
        for text in ["", "a", " ", "the cat", "<s>", "</s>", "\n"] {
            let found = in_windows(&tokenizer, text, Windows::default());
            assert_eq!(found, whole(&tokenizer, text), "{name} {text:?}");
        }
    }
}
