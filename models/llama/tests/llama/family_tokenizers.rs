//! Tokenizers of published models, from tokenizer.json and from GGUF metadata: the ids that transformers gives.

use std::path::Path;

use burn_qlora_llama::Checkpoint;
use qlora_test_support::{directory_with_tokenizer, json, tokenizers};
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::gguf_file::{GgufBuilder, string};
use crate::gguf_vocabulary::{
    FLOAT, INT, STRING, array, of_sentencepiece_model, of_tekken, of_tokenizer_json,
    tokenizer_entries,
};

/// The recorded texts.
fn strings(recorded: &Value) -> Vec<&str> {
    let strings = recorded["strings"].as_array().expect("strings");
    assert!(strings.len() >= 40);
    strings
        .iter()
        .map(|text| text.as_str().expect("a text"))
        .collect()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("ids")
}

/// Compares the ids of all texts and chats, and what they are decoded to, with those of the recorded model `name`.
pub fn assert_as_recorded(tokenizer: &Tokenizer, name: &str) {
    let recorded = json("family_tokens.json");
    let model = &recorded["models"][name];
    let strings = strings(&recorded);
    for (place, text) in strings.iter().enumerate() {
        let expected = ids(&model["ids"][place]);
        let found = tokenizer.encode(*text, true).expect("encodes");
        assert_eq!(found.get_ids(), expected, "{name}: {text:?}");
        let decoded = tokenizer.decode(&expected, false).expect("decodes");
        assert_eq!(
            decoded,
            model["decoded"][place].as_str().expect("decoded"),
            "{name}: {text:?}"
        );
    }
    for chat in model["chats"].as_array().expect("chats") {
        let text = chat["text"].as_str().expect("a text");
        let found = tokenizer.encode(text, false).expect("encodes");
        assert_eq!(found.get_ids(), ids(&chat["ids"]), "{name}: {text:?}");
    }
}

/// At least as many as any of the vocabularies has.
const VOCABULARY: usize = 300_000;

/// The file with a model, written and opened.
pub fn opened(file: &GgufBuilder) -> Checkpoint {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("model.gguf");
    file.with_tensors_of_a_tiny_llama(VOCABULARY).write(&path);
    Checkpoint::open(&path).expect("opens")
}

/// The vocabulary of a published tokenizer.json as llama.cpp's converter writes it.
fn in_gguf(name: &str, pre: &str) -> Checkpoint {
    opened(&of_tokenizer_json(&tokenizers().join(name), pre))
}

#[test]
#[ignore = "needs scripts/fetch-tokenizers.sh"]
fn a_tokenizer_json_gives_the_ids_of_transformers() {
    for name in ["qwen3", "llama3_1", "mistral", "gemma3", "gpt4o"] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        directory_with_tokenizer(directory.path(), name);
        let checkpoint = Checkpoint::open(directory.path()).expect("opens");
        assert_as_recorded(&checkpoint.tokenizer().expect("reads"), name);
    }
}

#[test]
#[ignore = "needs scripts/fetch-tokenizers.sh"]
fn the_vocabularies_of_qwen_3_and_llama_3_in_gguf_give_the_ids_of_transformers() {
    for (name, pre, adds_bos, turn_end) in [
        ("qwen3", "qwen2", false, Some(151_645)),
        ("llama3_1", "llama-bpe", true, Some(128_009)),
        ("gpt4o", "gpt-4o", false, None),
    ] {
        let checkpoint = in_gguf(name, pre);
        assert_as_recorded(&checkpoint.tokenizer().expect("builds"), name);
        let special = checkpoint.special_tokens().expect("special tokens");
        assert_eq!(special.add_bos, adds_bos, "{name}");
        let ends = &checkpoint.config().eos_token_ids;
        assert!(turn_end.is_none_or(|end| ends.contains(&end)), "{ends:?}");
    }
}

#[test]
#[ignore = "needs scripts/fetch-tokenizers.sh"]
fn mistrals_pieces_in_gguf_give_the_ids_of_transformers() {
    let checkpoint = in_gguf("mistral", "default");
    assert_as_recorded(&checkpoint.tokenizer().expect("builds"), "mistral");
    let special = checkpoint.special_tokens().expect("special tokens");
    let id = |token: Option<burn_qlora_llama::SpecialToken>| token.map(|token| token.id);
    // The file names none of them: these are llama.cpp's for SentencePiece.
    assert_eq!(
        [id(special.bos), id(special.eos), id(special.unk)],
        [Some(1), Some(2), Some(0)]
    );
    assert!(special.add_bos && !special.add_eos);
}

#[test]
#[ignore = "needs scripts/fetch-tokenizers.sh"]
fn a_conversation_with_mistral_v3_has_the_ids_of_mistrals_own_library() {
    let file = of_sentencepiece_model(&tokenizers().join("mistral_v3/tokenizer.model"));
    let tokenizer = opened(&file).tokenizer().expect("builds");
    let recorded = &json("family_tokens.json")["mistral_v3"];
    let text = recorded["text"].as_str().expect("a text");
    let found = tokenizer.encode(text, false).expect("encodes");
    assert_eq!(found.get_ids(), ids(&recorded["ids"]));
}

#[test]
#[ignore = "needs scripts/fetch-tokenizers.sh"]
fn tekken_in_gguf_gives_the_ids_of_mistrals_own_library() {
    let file = of_tekken(&tokenizers().join("tekken/tekken.json"));
    let tokenizer = opened(&file).tokenizer().expect("builds");
    let recorded = json("family_tokens.json");
    let expected = recorded["tekken"]["ids"].as_array().expect("ids");
    let texts = strings(&recorded);
    let cases = texts.iter().zip(expected).filter(|(_, ids)| !ids.is_null());
    let mut compared = 0;
    for (text, expected) in cases {
        let found = tokenizer.encode(*text, true).expect("encodes");
        assert_eq!(found.get_ids(), ids(expected), "{text:?}");
        compared += 1;
    }
    assert!(compared >= 40);
}

/// A GGUF file with these entries and no model.
pub fn with_entries(entries: &[(String, u32, Vec<u8>)]) -> GgufBuilder {
    let mut file = GgufBuilder::metadata_of_a_tiny_llama();
    for (key, kind, bytes) in entries {
        file.entry(key, *kind, bytes.clone());
    }
    file
}

/// The vocabularies that llama.cpp is tested with, and the ids of transformers beside them (convert_hf_to_gguf_update.py
/// writes them, without special tokens).
#[test]
#[ignore = "needs scripts/fetch-tokenizers.sh"]
fn llama_cpps_own_vocabularies_give_the_ids_of_transformers() {
    const END: &str = "\n__ggml_vocab_test__\n";
    for name in [
        "command-r",
        "deepseek-coder",
        "deepseek-llm",
        "gpt-2",
        "llama-bpe",
        "llama-spm",
        "mpt",
        "phi-3",
        "qwen2",
        "refact",
        "starcoder",
    ] {
        let path = tokenizers().join(format!("llama.cpp/ggml-vocab-{name}.gguf"));
        let beside = |extension: &str| {
            let path = path.with_extension(format!("gguf.{extension}"));
            std::fs::read_to_string(path).expect("reads")
        };
        let (texts, expected) = (beside("inp"), beside("out"));
        let texts: Vec<&str> = texts.split_terminator(END).collect();
        let expected: Vec<&str> = expected.lines().collect();
        assert!(texts.len() >= 40 && texts.len() == expected.len(), "{name}");
        let tokenizer = opened(&with_entries(&tokenizer_entries(&path)))
            .tokenizer()
            .expect("builds");
        for (text, expected) in texts.into_iter().zip(expected) {
            let expected: Vec<u32> = expected
                .split_whitespace()
                .map(|id| id.parse().expect("an id"))
                .collect();
            let found = tokenizer.encode(text, false).expect("encodes");
            assert_eq!(found.get_ids(), expected, "{name}: {text:?}");
        }
    }
}

#[test]
fn a_vocabulary_that_contradicts_itself_is_refused() {
    let file = || {
        let mut file = GgufBuilder::metadata_of_a_tiny_llama();
        file.text("tokenizer.ggml.model", "llama");
        array(
            &mut file,
            "tokens",
            STRING,
            ["<unk>", "a"].map(string).into(),
        );
        let scores = [0f32, -1.0].map(|score| score.to_le_bytes().to_vec());
        array(&mut file, "scores", FLOAT, scores.into());
        file
    };
    let refusal = |file: &GgufBuilder| {
        let tokenizer = opened(file).tokenizer();
        tokenizer.expect_err("it is wrong").to_string()
    };
    let mut kinds = file();
    let numbers = [1i32, 9].map(|kind| kind.to_le_bytes().to_vec());
    array(&mut kinds, "token_type", INT, numbers.into());
    assert!(refusal(&kinds).contains("token_type"));
    let mut outside = file();
    outside.number("tokenizer.ggml.bos_token_id", 2);
    let refused = refusal(&outside);
    assert!(
        refused.contains("bos_token_id") && refused.contains("vocabulary of 2"),
        "{refused}"
    );
    assert!(opened(&file()).tokenizer().is_ok());
}

#[test]
fn truncation_and_padding_saved_in_tokenizer_json_are_off() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for name in ["config.json", "model.safetensors"] {
        let from = qlora_test_support::fixture("tiny_llama").join(name);
        std::fs::copy(from, directory.path().join(name)).expect("copies");
    }
    let json = r#"{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null,
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Left", "pad_to_multiple_of": null,
            "pad_id": 1, "pad_type_id": 0, "pad_token": "b"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}"#;
    std::fs::write(directory.path().join("tokenizer.json"), json).expect("writes");
    let ids = |tokenizer: &Tokenizer| {
        let encoding = tokenizer.encode("aaa", true).expect("encodes");
        encoding.get_ids().to_vec()
    };
    let as_saved: Tokenizer = json.parse().expect("a tokenizer");
    assert_eq!(ids(&as_saved), [1, 1, 1, 1, 1, 1, 0, 0]);
    let checkpoint = Checkpoint::open(directory.path()).expect("opens");
    assert_eq!(ids(&checkpoint.tokenizer().expect("reads")), [0, 0, 0]);
}

#[test]
fn a_folder_without_tokenizer_json_is_refused_with_a_way_out() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for name in ["config.json", "model.safetensors"] {
        let from = qlora_test_support::fixture("tiny_llama").join(name);
        std::fs::copy(from, directory.path().join(name)).expect("copies");
    }
    let refusal = |path: &Path| {
        let checkpoint = Checkpoint::open(path).expect("opens");
        checkpoint
            .tokenizer()
            .expect_err("there is none")
            .to_string()
    };
    assert!(refusal(directory.path()).contains("fast tokenizer"));
    std::fs::write(directory.path().join("tokenizer.model"), "pieces").expect("writes");
    let refused = refusal(directory.path());
    assert!(
        refused.contains("tokenizer.model beside it is not read"),
        "{refused}"
    );
    assert!(refused.contains("save_pretrained"), "{refused}");
}
