//! Rows from files.

use burn_finetune::{
    ChatTemplate, Dataset, FinetuneError, Learn, Row, RowEncoder, RowProblem, Sources,
};
use std::collections::BTreeMap;
use std::fs;
use tokenizers::Tokenizer;

use crate::bytes::{learnt, tokenizer};

const EOS: u32 = 900;

fn template() -> ChatTemplate {
    let source = "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}.{% endfor %}\
                  {% if add_generation_prompt %}<a>{% endif %}";
    ChatTemplate::new(source, BTreeMap::new()).unwrap()
}

fn encoder<'a>(tokenizer: &'a Tokenizer, template: &'a ChatTemplate) -> RowEncoder<'a> {
    RowEncoder {
        tokenizer,
        template: Some(template),
        eos: Some(EOS),
        vocab_size: None,
        learn: Learn::AllAnswers,
        max_len: 40,
        truncate: false,
    }
}

/// The one row of a line.
fn row(encoder: &RowEncoder<'_>, line: &str) -> Row {
    let mut rows = encoder.json_line(line).unwrap().rows;
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

#[test]
fn each_kind_of_row_learns_its_answer() {
    let (tokenizer, template) = (tokenizer(), template());
    let encoder = encoder(&tokenizer, &template);
    for (line, expected) in [
        (r#"{"prompt": "2+2=", "completion": " 4"}"#, " 4$"),
        (r#"{"prompt": "", "completion": "4"}"#, "$"),
        (r#"{"text": "abc", "source": 3}"#, "bc$"),
        (
            r#"{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"},
                {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}"#,
            "ho.y.",
        ),
    ] {
        let row = row(&encoder, line);
        assert_eq!(learnt(&row, &tokenizer), expected, "{line}");
    }
    assert_eq!(row(&encoder, r#"{"text": "abc"}"#).len(), 4);
}

#[test]
fn a_text_is_cut_into_rows_that_predict_themselves() {
    let (tokenizer, template) = (tokenizer(), template());
    let encoder = RowEncoder {
        max_len: 4,
        ..encoder(&tokenizer, &template)
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text.txt");
    fs::write(&path, "abcdefghi").unwrap();
    let data = Dataset::read(&Sources::file(&path), &encoder).unwrap();
    let rows: Vec<_> = data
        .rows()
        .map(|row| learnt(&row.unwrap(), &tokenizer))
        .collect();
    // The ninth letter would be a row with nothing to predict.
    assert_eq!(rows, ["bcd", "fgh"]);
    assert_eq!(data.longest(), 4);
    // A byte-order mark is no text.
    fs::write(&path, "\u{feff}abcdef").unwrap();
    assert_eq!(
        Dataset::read(&Sources::file(&path), &encoder)
            .unwrap()
            .row_len(1)
            .unwrap(),
        2
    );
}

/// The error of a file of these lines.
fn refused(name: &str, text: &str) -> String {
    let (tokenizer, template) = (tokenizer(), template());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    let error = Dataset::read(&Sources::file(&path), &encoder(&tokenizer, &template)).unwrap_err();
    error
        .to_string()
        .replace(&format!("{}", path.display()), name)
}

#[test]
fn a_bad_line_is_named_with_its_number() {
    let good = r#"{"text": "abc"}"#;
    let long = format!(r#"{{"text": "{}"}}"#, "a".repeat(40));
    for (line, expected) in [
        ("{\"text\": ", "not JSON"),
        ("abc", "not JSON"),
        ("[1]", "and this is a number"),
        (r#"{"txt": "a", "prompt": "b"}"#, "(found: prompt, txt)"),
        ("{}", "(found: none)"),
        (r#"{"text": 3}"#, "\"text\" is a number, not a string"),
        (r#"{"messages": "hi"}"#, "\"messages\" cannot be read"),
        (
            r#"{"messages": [{"role": "user", "content": "x"}]}"#,
            "nothing to learn",
        ),
        (&long, "1 of 3 rows is longer than 40 tokens"),
    ] {
        let error = refused("rows.jsonl", &format!("{good}\n\n{line}\n{good}\n"));
        assert!(error.starts_with("rows.jsonl:3"), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn nothing_to_read_is_an_error() {
    for (name, text) in [
        ("rows.jsonl", ""),
        ("rows.jsonl", "\n \n"),
        ("text.txt", "a"),
        ("text.txt", ""),
    ] {
        assert!(refused(name, text).starts_with(&format!("{name} has no data")));
    }
    let (tokenizer, template) = (tokenizer(), template());
    let missing = std::path::Path::new("there/is/none.jsonl");
    let error =
        Dataset::read(&Sources::file(missing), &encoder(&tokenizer, &template)).unwrap_err();
    assert!(matches!(error, FinetuneError::Read { .. }));
    let short = RowEncoder {
        max_len: 1,
        ..encoder(&tokenizer, &template)
    };
    let error = Dataset::read(&Sources::file(missing), &short).unwrap_err();
    assert!(matches!(error, FinetuneError::RowLength { value: 1, .. }));
}

#[test]
fn truncation_cuts_the_end_and_keeps_something_to_learn() {
    let (tokenizer, template) = (tokenizer(), template());
    let encoder = RowEncoder {
        max_len: 5,
        truncate: true,
        ..encoder(&tokenizer, &template)
    };
    let row = row(&encoder, r#"{"prompt": "abc", "completion": "defg"}"#);
    assert_eq!((row.len(), learnt(&row, &tokenizer).as_str()), (5, "de"));
    assert_eq!(row.targets(), 2);
    let encoded = encoder.json_line(r#"{"prompt": "abcdef", "completion": "g"}"#);
    let encoded = encoded.unwrap();
    assert_eq!((encoded.rows.len(), encoded.dropped), (0, 1));
}

/// Reads rows of these lengths, learnt from their sixth letter on, with a limit of 10 tokens.
fn limited(lengths: &[usize], truncate: bool) -> Result<Dataset, String> {
    let (tokenizer, template) = (tokenizer(), template());
    let encoder = RowEncoder {
        max_len: 10,
        truncate,
        ..encoder(&tokenizer, &template)
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    let line = |len: &usize| {
        let text = "x".repeat(len - 1);
        let (prompt, completion) = text.split_at(text.len().saturating_sub(3));
        format!("{{\"prompt\": \"{prompt}\", \"completion\": \"{completion}\"}}\n")
    };
    fs::write(&path, lengths.iter().map(line).collect::<String>()).unwrap();
    let data = Dataset::read(&Sources::file(&path), &encoder);
    data.map_err(|error| {
        error
            .to_string()
            .replace(&dir.path().display().to_string(), "")
    })
}

#[test]
fn rows_that_are_too_long_are_told_together() {
    let error = limited(&[8, 12, 10, 30, 11], false).unwrap_err();
    assert!(
        error.starts_with("/rows.jsonl:2: 3 of 5 rows are longer than 10 tokens"),
        "{error}"
    );
    assert!(error.contains("--seq-len 30") && error.contains("--truncate"));
}

#[test]
fn cutting_leaves_out_what_has_nothing_to_learn() {
    let data = limited(&[8, 12, 10, 30, 20], true).unwrap();
    assert_eq!((data.len(), data.longest()), (3, 10));
    let counts = data.counts();
    assert_eq!((counts.cut, counts.cut_tokens), (1, 2));
    let dropped = counts.dropped.as_ref().unwrap();
    assert_eq!(dropped.count, 2);
    assert!(
        dropped
            .line()
            .ends_with("rows.jsonl:4: nothing to learn within 10 tokens; left out (2 such rows)")
    );
    assert_eq!(
        counts.lengths.keys().copied().collect::<Vec<_>>(),
        [8, 10, 12, 20, 30]
    );
    assert!(
        limited(&[30, 20], true)
            .unwrap_err()
            .contains("has no data")
    );
    assert!(data.places([2, 0])[0].ends_with("rows.jsonl:3"));
}

#[test]
fn a_chat_needs_a_template() {
    let tokenizer = tokenizer();
    let encoder = RowEncoder {
        tokenizer: &tokenizer,
        template: None,
        eos: None,
        vocab_size: None,
        learn: Learn::AllAnswers,
        max_len: 8,
        truncate: false,
    };
    let error = encoder.json_line(r#"{"messages": []}"#).unwrap_err();
    assert!(matches!(error, RowProblem::NoTemplate));
}
