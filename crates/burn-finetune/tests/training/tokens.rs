//! Texts as tokens: their beginning and end, the boundary of prompt and completion, blanks, and what a model does not have.

use burn_finetune::{Learn, RowEncoder, RowWarning, TextEncoder};
use tokenizers::AddedToken;
use tokenizers::Tokenizer;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;

use crate::bytes::tokenizer as byte_tokenizer;

/// Returns a tokenizer as LLaMA 2's: a space goes before a text, and blanks are letters of it. It has a token a letter,
/// and one for `▁n` and `o`.
fn sentencepiece() -> Tokenizer {
    let letters = [
        "<unk>", "<s>", "</s>", "▁", "\n", "a", "c", "n", "o", "t", "▁n", "▁c",
    ];
    let vocab: Vec<_> = letters
        .iter()
        .zip(0..)
        .map(|(text, id)| (text.to_string(), id))
        .collect();
    let vocab: [(String, u32); 12] = vocab.try_into().unwrap();
    let merges = [("▁", "n"), ("▁", "c")];
    let merges = merges.map(|(one, other)| (one.to_owned(), other.to_owned()));
    let model = BPE::builder()
        .vocab_and_merges(vocab, merges.to_vec())
        .unk_token("<unk>".into())
        .build()
        .unwrap();
    let mut tokenizer = Tokenizer::new(model);
    let normalizer = r#"{"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}"#;
    let normalizer: tokenizers::NormalizerWrapper = serde_json::from_str(normalizer).unwrap();
    tokenizer.with_normalizer(Some(normalizer)).unwrap();
    let special = ["<s>", "</s>"].map(|text| AddedToken::from(text, true));
    tokenizer.add_special_tokens(special).unwrap();
    tokenizer
}

/// Lets a tokenizer add these tokens itself.
fn framed(mut tokenizer: Tokenizer, single: &str) -> Tokenizer {
    let processor = TemplateProcessing::builder()
        .try_single(single)
        .unwrap()
        .special_tokens(vec![("<s>", 1), ("</s>", 2)])
        .build()
        .unwrap();
    tokenizer.with_post_processor(Some(processor));
    tokenizer
}

fn encoder(tokenizer: &Tokenizer) -> RowEncoder<'_> {
    RowEncoder {
        tokenizer,
        template: None,
        eos: Some(2),
        vocab_size: None,
        learn: Learn::AllAnswers,
        max_len: 100,
        truncate: false,
    }
}

/// Returns the tokens of a line and how many of them come before the learnt ones.
fn ids(tokenizer: &Tokenizer, line: &str) -> (Vec<String>, usize) {
    let mut rows = encoder(tokenizer).json_line(line).unwrap().rows;
    assert_eq!(rows.len(), 1);
    let row = rows.remove(0);
    let prompt = row.learn.iter().take_while(|learn| !**learn).count();
    assert!(row.learn[prompt..].iter().all(|learn| *learn));
    let texts = row.ids.iter().map(|id| tokenizer.id_to_token(*id).unwrap());
    (texts.collect(), prompt)
}

#[test]
fn a_completion_goes_on_from_its_prompt() {
    let tokenizer = sentencepiece();
    for (line, tokens, prompt) in [
        (
            r#"{"prompt": "cat", "completion": " no"}"#,
            &["▁c", "a", "t", "▁n", "o", "</s>"][..],
            3,
        ),
        (
            r#"{"prompt": "cat", "completion": "no"}"#,
            &["▁c", "a", "t", "n", "o", "</s>"],
            3,
        ),
        (
            r#"{"prompt": "cat\n", "completion": "no"}"#,
            &["▁c", "a", "t", "\n", "n", "o", "</s>"],
            4,
        ),
        // The joined text has the token `▁n` across the boundary, which a model given the prompt cannot write.
        (
            r#"{"prompt": "cat ", "completion": "no"}"#,
            &["▁c", "a", "t", "▁", "n", "o", "</s>"],
            4,
        ),
    ] {
        let (found, before) = ids(&tokenizer, line);
        assert_eq!(
            (found, before),
            (tokens.iter().map(|t| t.to_string()).collect(), prompt),
            "{line}"
        );
    }
}

#[test]
fn a_text_has_one_beginning_and_one_end_whoever_wrote_them() {
    let adds_bos = framed(sentencepiece(), "<s> $A");
    let adds_both = framed(sentencepiece(), "<s> $A </s>");
    for tokenizer in [&adds_bos, &adds_both] {
        for text in ["cat", "<s>cat", "cat</s>", "<s>cat</s>"] {
            let (tokens, _) = ids(tokenizer, &format!(r#"{{"text": {text:?}}}"#));
            let inner: Vec<_> = tokens
                .iter()
                .filter(|token| token.starts_with('<'))
                .collect();
            assert_eq!(inner, ["<s>", "</s>"], "{text}: {tokens:?}");
            assert_eq!(tokens.last().unwrap(), "</s>");
        }
        for (prompt, completion) in [("cat", " no"), ("<s>cat", " no</s>"), ("cat ", "no</s>")] {
            let line = format!(r#"{{"prompt": {prompt:?}, "completion": {completion:?}}}"#);
            let (tokens, _) = ids(tokenizer, &line);
            let inner: Vec<_> = tokens
                .iter()
                .filter(|token| token.starts_with('<'))
                .collect();
            assert_eq!(inner, ["<s>", "</s>"], "{line}: {tokens:?}");
        }
        let texts = TextEncoder {
            tokenizer,
            eos: Some(2),
        };
        // An end behind a prompt would have the model begin another text.
        assert_eq!(texts.prompt("cat").unwrap(), [1, 11, 5, 9]);
        assert_eq!(texts.prompt("<s>cat").unwrap().first(), Some(&1));
    }
}

#[test]
fn blanks_within_an_answer_are_learnt_whatever_their_offsets() {
    let source = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}\
                  {% if add_generation_prompt %}[assistant]{% endif %}";
    let template = burn_finetune::ChatTemplate::new(source, Default::default()).unwrap();
    let line = r#"{"messages": [{"role": "user", "content": "x  "},
        {"role": "assistant", "content": "  if a:\n    b\n\n  "}]}"#;
    let learnt = |trims: bool| {
        let mut tokenizer = byte_tokenizer();
        tokenizer.with_post_processor(Some(ByteLevel::new(false, trims, false)));
        let encoder = RowEncoder {
            template: Some(&template),
            ..encoder(&tokenizer)
        };
        let row = encoder.json_line(line).unwrap().rows.remove(0);
        crate::bytes::learnt(&row, &tokenizer)
    };
    assert_eq!(learnt(true), "  if a:Ċ    bĊĊ  [end]");
    assert_eq!(learnt(true), learnt(false));
}

#[test]
fn a_token_that_the_model_does_not_have_is_named() {
    let mut tokenizer = sentencepiece();
    tokenizer
        .add_special_tokens([AddedToken::from("<extra>", true)])
        .unwrap();
    let encoder = RowEncoder {
        vocab_size: Some(12),
        ..encoder(&tokenizer)
    };
    assert!(encoder.json_line(r#"{"text": "cat"}"#).is_ok());
    for line in [
        r#"{"text": "cat<extra>"}"#,
        r#"{"prompt": "<extra>cat", "completion": "no"}"#,
    ] {
        let error = encoder.json_line(line).unwrap_err().to_string();
        assert!(
            error.contains("token 12 (\"<extra>\")") && error.contains("vocabulary of 12"),
            "{error}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text.txt");
    std::fs::write(&path, "cat\ncat<extra>").unwrap();
    let error =
        burn_finetune::Dataset::read(&burn_finetune::Sources::file(&path), &encoder).unwrap_err();
    assert!(
        error.to_string().contains("text.txt:2: token 12"),
        "{error}"
    );
    let beyond = RowEncoder {
        eos: Some(12),
        ..encoder
    };
    assert!(beyond.json_line(r#"{"text": "cat"}"#).is_err());
}

#[test]
fn a_text_without_an_end_is_told_once_a_file() {
    let tokenizer = sentencepiece();
    let encoder = RowEncoder {
        eos: None,
        ..encoder(&tokenizer)
    };
    let encoded = encoder.json_line(r#"{"text": "cat"}"#).unwrap();
    assert_eq!(encoded.warnings, [RowWarning::NoEnd]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    std::fs::write(
        &path,
        "\n{\"text\": \"cat\"}\n{\"prompt\": \"c\", \"completion\": \"at\"}\n",
    )
    .unwrap();
    let data =
        burn_finetune::Dataset::read(&burn_finetune::Sources::file(&path), &encoder).unwrap();
    let [warning] = data.counts().warnings.as_slice() else {
        panic!("{:?}", data.counts())
    };
    let warning = warning.line();
    assert!(
        warning.contains("rows.jsonl:2: no file names an end token"),
        "{warning}"
    );
    assert!(warning.ends_with("(2 such rows)"), "{warning}");
}

#[test]
fn half_a_letter_is_told_of_at_the_end() {
    let mut tokenizer = byte_tokenizer();
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let texts = TextEncoder {
        tokenizer: &tokenizer,
        eos: None,
    };
    let encoded = tokenizer.encode("a é", false).unwrap();
    let [first @ .., last] = encoded.get_ids() else {
        panic!("no tokens");
    };
    let mut stream = texts.stream();
    let mut text = String::new();
    for token in first {
        text += &stream.step(*token).unwrap().unwrap_or_default();
    }
    assert_eq!(
        (text.as_str(), stream.rest().unwrap().as_str()),
        ("a ", "\u{fffd}")
    );
    assert_eq!(stream.step(*last).unwrap().as_deref(), Some("é"));
    assert_eq!(stream.rest().unwrap(), "");
}
