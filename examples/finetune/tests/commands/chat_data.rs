//! Conversations as data: whose template, which part is learnt, and what is told or refused.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::finetune;
use crate::support::{FINETUNE, Place, Run};

const CHAT: &str = r#"{"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"}, {"role": "assistant", "content": "four", "weight": 1}]}"#;

/// Changes a JSON file of a model.
fn edit(model: &Path, name: &str, edit: impl FnOnce(&mut Value)) {
    let path = model.join(name);
    let mut file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut file);
    fs::write(&path, file.to_string()).unwrap();
}

/// A row on one line.
fn chat(place: &Place) -> std::path::PathBuf {
    place.file("chat.jsonl", CHAT.replace('\n', " "))
}

#[test]
fn a_model_without_a_template_is_given_one() {
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama"), chat(&place));
    edit(&model, "tokenizer_config.json", |config| {
        config["chat_template"] = Value::Null;
    });
    let eval = |extra: &[&str]| {
        let mut command = Command::new(FINETUNE);
        command
            .arg("eval")
            .arg("--model")
            .arg(&model)
            .arg("--data")
            .arg(&rows);
        crate::support::run(command.arg("--json").args(extra))
    };
    eval(&[]).refused(&["chat.jsonl:1", "--chat-template", "chat_template.jinja"]);
    eval(&["--chat-template", "chatlm"]).refused(&["--chat-template chatlm", "chatml", "alpaca"]);
    let tokens = |extra: &[&str]| eval(extra).ok().last_json()["tokens"].as_u64().unwrap();
    // A byte a token: the answers and the marks that end them.
    let answers = "two<|im_end|>\nfour<|im_end|>\n".len() as u64;
    assert_eq!(tokens(&["--chat-template", "chatml"]), answers);
    let file = place.file(
        "own.jinja",
        "{% for m in messages %}{{ m.content }};{% endfor %}",
    );
    let file = file.to_str().unwrap();
    assert_eq!(tokens(&["--chat-template", file]), "two;four;".len() as u64);
    let last = ["--chat-template", file, "--learn", "last-answer"];
    assert_eq!(tokens(&last), "four;".len() as u64);
    let all = ["--chat-template", file, "--learn", "everything"];
    assert_eq!(tokens(&all), "ne;two;three;four;".len() as u64);
}

#[test]
fn a_chat_begins_with_its_system_prompt() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    // It says what it is shown.
    let says = place.file(
        "says.jinja",
        "{{ raise_exception(messages | map(attribute='content') | join('|')) }}",
    );
    let mut child = Command::new(FINETUNE)
        .arg("generate")
        .arg("--model")
        .arg(&model)
        .args(["--chat", "--system", "Be kind.", "--chat-template"])
        .arg(&says)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    Run::from(child.wait_with_output().unwrap()).refused(&["Be kind.|hello"]);
}

#[test]
fn a_token_beyond_the_embedding_is_refused_before_anything_is_written() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let config: Value =
        serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
    let size = config["vocab_size"].as_u64().unwrap();
    edit(&model, "tokenizer.json", |tokenizer| {
        let token = json!({"id": size, "content": "<extra>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true});
        tokenizer["added_tokens"]
            .as_array_mut()
            .unwrap()
            .push(token);
        let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        vocab.insert("<extra>".into(), json!(size));
    });
    let rows = place.file(
        "rows.jsonl",
        "{\"text\": \"fine\"}\n{\"text\": \"not <extra>\"}\n",
    );
    let output = place.path("out");
    finetune!(
        "train", "--model", &model, "--data", &rows, "--output", &output
    )
    .refused(&["rows.jsonl:2", &format!("token {size}"), "<extra>"]);
    assert!(!output.exists());
}

#[test]
fn what_is_not_learnt_as_it_is_written_is_told() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    edit(&model, "tokenizer_config.json", |config| {
        config["chat_template"] =
            json!("{% for m in messages %}{{ m.content.split('|')[-1] }};{% endfor %}");
    });
    let row = r#"{"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "so|two"}]}"#;
    let rows = place.file("rows.jsonl", format!("{row}\n{row}\n"));
    let told = finetune!("eval", "--model", &model, "--data", &rows)
        .ok()
        .stderr;
    assert!(told.starts_with("warning: "), "{told}");
    assert!(
        told.contains("rows.jsonl:1") && told.contains("message 2") && told.contains("2 such rows"),
        "{told}"
    );
}

#[test]
fn a_template_that_is_too_long_is_not_read() {
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama"), chat(&place));
    let file = fs::File::create(model.join("chat_template.jinja")).unwrap();
    // It takes no room, and to read it would take all memory.
    file.set_len(1 << 40).unwrap();
    let run = crate::finetune!("eval", "--model", &model, "--data", &rows);
    run.refused(&["chat_template.jinja", "1048576"]);
}
