//! Data files in text: JSON of all forms, CSV, plain text.

use crate::target::{Folder, fuzz};
use burn_finetune::{ChatTemplate, Dataset, Learn, RowEncoder, Sources, builtin_template};
use qlora_test_support::byte_tokenizer;
use std::collections::BTreeMap;
use tokenizers::Tokenizer;

const LINES: &str = r#"{"prompt": "2 and 2?", "completion": "4."}
{"text": "A text of \u00e4 few words, \ud83d\ude00."}
{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"},
 {"role": "assistant", "content": "Hello.", "weight": 1}], "tools": [{"type": "function", "function": {"name": "f"}}]}
{"conversations": [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hello."}]}
"#;
const ARRAY: &str = r#"[{"instruction": "Add.", "input": "2, 2", "output": "4"}, {"prompt": [{"role": "user", "content": "a"}],
 "completion": [{"role": "assistant", "content": "b"}]}]"#;
const TABLE: &str = "prompt,completion\n\"2 and\n2?\",4.\n\"a \"\"b\"\"\",c\n";

fn fuzz_files(name: &str, good: &[&str]) {
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
    let good: Vec<_> = good.iter().map(|text| text.as_bytes().to_vec()).collect();
    let folder = Folder::new();
    fuzz(&good, |bytes| {
        let file = folder.write(name, bytes);
        if let Ok(data) = Dataset::read(&Sources::file(file), &encoder) {
            assert!(data.rows().all(|row| row.is_ok_and(|row| row.len() <= 64)));
        }
    });
}

#[test]
fn json_files() {
    fuzz_files("data.jsonl", &[LINES, ARRAY]);
}

#[test]
fn tables() {
    fuzz_files("data.csv", &[TABLE]);
}

#[test]
fn texts() {
    fuzz_files("data.txt", &[LINES]);
}
