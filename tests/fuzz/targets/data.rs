//! Data files: JSON of all forms, CSV, plain text, what is packed by gzip and zstd, Parquet.

use crate::target::{FIXED_BYTES, Folder, fuzz_within};
use burn_finetune::{
    ChatTemplate, Columns, Dataset, ExampleKind, Learn, RowEncoder, Shots, Sources,
    builtin_template,
};
use flate2::Compression;
use flate2::write::GzEncoder;
use qlora_test_support::{byte_tokenizer, read_fixture};
use std::collections::BTreeMap;
use std::io::Write;
use tokenizers::Tokenizer;

/// The largest window that a frame of zstd may name, in bytes: what `zstd --long` writes.
const LARGEST_WINDOW: usize = 128 << 20;
/// Memory that unpacking may take: that window, for few bytes stand for many.
const UNPACKED: usize = LARGEST_WINDOW + FIXED_BYTES;

const LINES: &str = r#"{"prompt": "2 and 2?", "completion": "4."}
{"text": "A text of \u00e4 few words, \ud83d\ude00."}
{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"},
 {"role": "assistant", "content": "Hello.", "weight": 1}], "tools": [{"type": "function", "function": {"name": "f"}}]}
{"conversations": [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hello."}]}
"#;
const ARRAY: &str = r#"[{"instruction": "Add.", "input": "2, 2", "output": "4"}, {"prompt": [{"role": "user", "content": "a"}],
 "completion": [{"role": "assistant", "content": "b"}]}]"#;
const TABLE: &str = "prompt,completion\n\"2 and\n2?\",4.\n\"a \"\"b\"\"\",c\n";

const PAIRS: &str = r#"{"prompt": "2 and 2?", "chosen": "4.", "rejected": "\u00e4"}
{"chosen": "A: a B: b", "rejected": "A: a B: c"}
{"system": "Be brief.", "prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": "assistant", "content": "b"}],
 "rejected": {"from": "gpt", "value": "c"}}
{"prompt": "a", "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
 "rejected": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}]}
"#;
const LABELLED: &str = r#"{"prompt": "2 and 2?", "completion": "4.", "label": true}
{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}], "label": 0}
"#;

const CHOICES: [&str; 4] = [
    r#"{"question": " Why?", "subject": "us_law", "choices": ["a", "b", "\u00e4"], "answer": "B"}
{"question": "How?", "subject": "us_law", "choices": ["a", "b"], "answer": 1}
"#,
    r#"{"question": {"stem": "a", "choices": [{"text": "b", "label": "1"}, {"text": "c", "label": 2}]}, "answerKey": 2}
{"question": "a", "choices": {"text": ["b", "c"], "label": ["A", "B"]}, "answerKey": "B"}
"#,
    r#"{"activity_label": "A", "ctx_a": "b [x] c", "ctx_b": "\u00dfD", "endings": ["e [title] f", "g"], "label": "1"}
{"activity_label": "A", "ctx": "b", "endings": ["e", "f"], "label": 0}
"#,
    r#"{"prompt": "a ", "choices": ["b", " c", "d"], "answer": "C"}
{"prompt": "a", "choices": ["b", "c"], "answer": 0}
"#,
];

fn fuzz_texts(name: &str, good: &[&str]) {
    let good: Vec<_> = good.iter().map(|text| text.as_bytes().to_vec()).collect();
    fuzz_files(name, FIXED_BYTES, &good);
}

/// Returns small data files of the fixtures.
fn fixtures(names: &[&str]) -> Vec<Vec<u8>> {
    let read = |name: &&str| read_fixture(format!("data/{name}"));
    names.iter().map(read).collect()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(text.as_bytes()).expect("packs");
    packed.finish().expect("packs")
}

/// Returns a frame of zstd with a window of `1 << window_log` bytes around a block of text as it is (RFC 8878, section 3.1.1).
fn zstd_frame(window_log: u8, text: &str) -> Vec<u8> {
    let magic = [0x28, 0xb5, 0x2f, 0xfd];
    let descriptors = [0, (window_log - 10) << 3];
    let length = u32::try_from(text.len()).expect("a short text");
    let last_raw_block = &(length << 3 | 1).to_le_bytes()[..3];
    [
        &magic[..],
        &descriptors[..],
        last_raw_block,
        text.as_bytes(),
    ]
    .concat()
}

fn fuzz_files(name: &str, fixed: usize, good: &[Vec<u8>]) {
    fuzz_examples(ExampleKind::Texts, name, fixed, good);
}

fn fuzz_examples(kind: ExampleKind, name: &str, fixed: usize, good: &[Vec<u8>]) {
    let columns = Columns::of(kind, []).expect("columns");
    fuzz_encoded(name, fixed, good, |sources, encoder| {
        let sources = sources.clone().with_columns(columns.clone());
        if let Ok(data) = Dataset::read(&sources, encoder) {
            assert!(data.longest_sequence() <= encoder.max_len);
            assert!(
                data.rows()
                    .all(|row| row.is_ok_and(|row| row.targets() > 0))
            );
        }
    });
}

/// Runs `check` on files like `good`, with what turns them into rows of up to 64 tokens.
fn fuzz_encoded(
    name: &str,
    fixed: usize,
    good: &[Vec<u8>],
    check: impl Fn(&Sources, &RowEncoder<'_>),
) {
    let tokenizer = byte_tokenizer().to_string();
    let tokenizer = Tokenizer::from_bytes(tokenizer.as_bytes()).expect("a tokenizer");
    let source = builtin_template("chatml").expect("a template");
    let template = ChatTemplate::new(source, BTreeMap::new()).expect("a template");
    let encoder = RowEncoder {
        tokenizer: &tokenizer,
        template: Some(&template),
        eos: Some(2),
        vocab_size: Some(300),
        learn: Learn::AllAnswers,
        max_len: 64,
        truncate: true,
    };
    let folder = Folder::new();
    fuzz_within(fixed, good, |bytes| {
        let file = folder.write(name, bytes);
        check(&Sources::file(file), &encoder);
    });
}

#[test]
fn questions_with_choices() {
    let good = CHOICES.map(|rows| rows.as_bytes().to_vec());
    fuzz_encoded("data.jsonl", FIXED_BYTES, &good, |sources, encoder| {
        let shots = Shots { sources, count: 1 };
        for shots in [None, Some(shots)] {
            let Ok(data) = encoder.choice_data(sources, shots, usize::MAX) else {
                continue;
            };
            for asked in data.tokens().flatten() {
                assert!(asked.longest() <= encoder.max_len + 1 && !asked.context.is_empty());
                assert!(asked.continuations.iter().all(|choice| !choice.is_empty()));
            }
        }
    });
}

#[test]
fn preferences() {
    let (pairs, labelled) = (PAIRS.as_bytes(), LABELLED.as_bytes());
    let good = [pairs.to_vec()];
    fuzz_examples(ExampleKind::Pairs, "data.jsonl", FIXED_BYTES, &good);
    let good = [pairs, labelled].map(<[u8]>::to_vec);
    fuzz_examples(ExampleKind::Labelled, "data.jsonl", FIXED_BYTES, &good);
}

#[test]
fn json_files() {
    fuzz_texts("data.jsonl", &[LINES, ARRAY]);
}

#[test]
fn tables() {
    fuzz_texts("data.csv", &[TABLE]);
}

#[test]
fn texts() {
    fuzz_texts("data.txt", &[LINES]);
}

#[test]
fn files_in_gzip() {
    fuzz_files("data.jsonl.gz", UNPACKED, &[gzip(LINES)]);
    fuzz_files("data.csv.gz", UNPACKED, &[gzip(TABLE)]);
}

#[test]
fn files_in_zstd() {
    let largest = LARGEST_WINDOW.ilog2() as u8;
    let windows = [zstd_frame(largest - 1, LINES), zstd_frame(largest, LINES)].concat();
    let good = [fixtures(&["chats.jsonl.zst"]), vec![windows]].concat();
    fuzz_files("data.jsonl.zst", UNPACKED, &good);
}

#[test]
fn tables_of_parquet() {
    let names = [
        "none.parquet",
        "snappy.parquet",
        "gzip.parquet",
        "lz4.parquet",
        "zstd.parquet",
        "zstd-pages-v2.parquet",
        "dictionary-off.parquet",
    ];
    fuzz_files("data.parquet", FIXED_BYTES, &fixtures(&names));
}
