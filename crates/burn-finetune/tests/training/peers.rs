//! Conversations have transformers' tokens, and the answers are those that its own marks enclose.

use burn_finetune::{ChatTemplate, Encoded, Learn, RowEncoder};
use qlora_test_support::{fixture, json};
use serde_json::Value;
use std::collections::BTreeMap;
use tokenizers::Tokenizer;

/// Asserts that a row of each recorded conversation is encoded as recorded, by the template under `key`.
fn compare(key: &str, recorded_as: &str) {
    let recorded = json("chat_masks/chats.json");
    let tokenizer =
        Tokenizer::from_file(fixture("chat_masks/tokenizer.json")).expect("a tokenizer");
    let shapes = recorded["shapes"].as_array().expect("shapes");
    assert_eq!(shapes.len(), 14);
    for shape in shapes {
        let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")];
        let tokens = tokens.map(|(name, token)| (name.to_owned(), token.to_owned()));
        let source = shape[key].as_str().expect("a template");
        let template = ChatTemplate::new(source, BTreeMap::from(tokens)).expect("compiles");
        let encoder = RowEncoder {
            tokenizer: &tokenizer,
            template: Some(&template),
            eos: None,
            vocab_size: None,
            learn: Learn::AllAnswers,
            max_len: 1000,
            truncate: false,
        };
        let rows = shape["rows"].as_array().expect("rows");
        // Four odd ones, and of one, two and four turns: plain, with a system prompt, and with what the template shows else.
        let shown = ["tools", "reasoning_content", "thinking"];
        let shown = shown.iter().filter(|name| source.contains(*name)).count();
        let kinds = [2, 3, 5][shown.min(2)];
        assert_eq!(rows.len(), 4 + 3 * kinds, "{}", shape["name"]);
        for row in rows {
            let chat = &recorded["chats"][row["chat"].as_u64().expect("a place") as usize];
            let name = format!("{} {}", shape["name"], row["chat"]);
            let encoded = encoder.json_line(chat.as_str().expect("a line"));
            let encoded = encoded.unwrap_or_else(|error| panic!("{name}: {error}"));
            let recorded = row.get(recorded_as).unwrap_or(&row["rows"]);
            assert_eq!(found(&encoded), expected(recorded), "{name}");
        }
    }
}

/// Returns ids and mask of every row.
fn found(encoded: &Encoded) -> Vec<(Vec<u64>, String)> {
    let rows = encoded.rows.iter().map(|row| {
        let learn = row.learn.iter().map(|learn| if *learn { '1' } else { '0' });
        let ids = row.ids.iter().map(|id| u64::from(*id));
        (ids.collect(), learn.collect())
    });
    rows.collect()
}

fn expected(rows: &Value) -> Vec<(Vec<u64>, String)> {
    let row = |row: &Value| {
        let ids = serde_json::from_value(row["ids"].clone()).expect("ids");
        (ids, row["mask"].as_str().expect("a mask").to_owned())
    };
    rows.as_array().expect("rows").iter().map(row).collect()
}

#[test]
fn answers_are_found_without_marks() {
    compare("template", "rows");
}

#[test]
fn the_marks_of_a_template_are_honoured() {
    compare("marked", "marked");
}
