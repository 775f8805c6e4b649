//! A vocabulary that is extended.

use std::fs;
use std::path::Path;

use burn_qlora_llama::{Checkpoint, DecoderError};
use qlora_test_support::read_fixture;
use serde_json::json;
use tempfile::TempDir;
use tokenizers::AddedToken;

const ROWS: usize = 512;
const WIDTH: usize = 64;

/// The recorded model `name` with a tokenizer of `words` words.
fn model(name: &str, words: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        let bytes = read_fixture(Path::new(name).join(file));
        fs::write(folder.path().join(file), bytes).unwrap();
    }
    let vocab: serde_json::Map<_, _> = (0..words).map(|id| (format!("w{id}"), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "w0" },
    });
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    folder
}

fn tokens(texts: &[&str]) -> Vec<AddedToken> {
    let tokens = texts.iter();
    tokens.map(|text| AddedToken::from(*text, true)).collect()
}

#[test]
fn rows_beyond_those_stored_are_their_mean() {
    for (name, tables) in [
        ("tiny_llama_tied", &["model.embed_tokens.weight"][..]),
        (
            "tiny_llama",
            &["model.embed_tokens.weight", "lm_head.weight"][..],
        ),
    ] {
        let folder = model(name, ROWS - 1);
        let plain = Checkpoint::open(folder.path()).unwrap();
        let mut extended = Checkpoint::open(folder.path()).unwrap();
        // The first has the row that no token had.
        let ids = extended.add_tokens(&tokens(&["<a>", "<b>", "<c>"]));
        assert_eq!(ids.unwrap(), [511, 512, 513]);
        assert_eq!(extended.config().vocab_size, ROWS + 2);
        for table in tables {
            let stored = plain.read_f32(table, &[ROWS, WIDTH]).unwrap();
            let found = extended.read_f32(table, &[ROWS + 2, WIDTH]).unwrap();
            assert!(found[..stored.len()] == stored, "{name}: {table}");
            for column in 0..WIDTH {
                let values = stored.iter().skip(column).step_by(WIDTH);
                let mean = values.map(|value| f64::from(*value)).sum::<f64>() / ROWS as f64;
                for row in [ROWS, ROWS + 1] {
                    // Both are sums in f64.
                    assert_eq!(found[row * WIDTH + column], mean as f32, "{name}: {table}");
                }
            }
        }
        let ids = extended.tokenizer().unwrap().encode("w7 <b>w8<c>", false);
        assert_eq!(ids.unwrap().get_ids(), [7, 512, 8, 513]);
        assert_eq!(plain.tokenizer().unwrap().token_to_id("<b>"), None);
        let files = extended.tokenizer_files().unwrap();
        let (name, text) = files.first().unwrap();
        let read = tokenizers::Tokenizer::from_bytes(text).unwrap();
        assert_eq!(name, "tokenizer.json");
        assert_eq!(read.token_to_id("<c>"), Some(513));
    }
}

#[test]
fn what_cannot_be_added_changes_nothing() {
    let folder = model("tiny_llama", ROWS);
    let mut checkpoint = Checkpoint::open(folder.path()).unwrap();
    for (texts, needle) in [
        (vec!["<a>", ""], "empty"),
        (vec!["<a>", "<a>"], "twice"),
        (vec!["<a>", "w3"], "token 3"),
    ] {
        let error = checkpoint.add_tokens(&tokens(&texts)).unwrap_err();
        assert!(matches!(error, DecoderError::AddedToken { .. }), "{error}");
        assert!(error.to_string().contains(needle), "{error}");
        assert_eq!(checkpoint.config().vocab_size, ROWS);
    }
    assert!(checkpoint.add_tokens(&[]).unwrap().is_empty());
    let folder = model("tiny_llama", ROWS + 1);
    let mut checkpoint = Checkpoint::open(folder.path()).unwrap();
    let error = checkpoint.add_tokens(&tokens(&["<a>"])).unwrap_err();
    assert!(error.to_string().contains("512 rows"), "{error}");
}
