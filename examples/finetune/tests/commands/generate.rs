//! `finetune generate`.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::finetune;
use crate::support::{FINETUNE, Place, Run, byte_tokenizer, number};

/// Runs a chat with `lines` on stdin.
pub fn chat(model: &Path, extra: &[&str], lines: &str) -> Run {
    let mut child = Command::new(FINETUNE)
        .args(["generate", "--chat", "--model"])
        .arg(model)
        .args(extra)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(lines.as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap().into()
}

#[test]
fn greedy_text_is_the_same_each_time_and_sampling_follows_its_seed() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let text = |extra: &[&str]| {
        let mut command = Command::new(FINETUNE);
        command.arg("generate").arg("--model").arg(&model);
        command
            .args(["--prompt", "hello", "--max-tokens", "12"])
            .args(extra);
        crate::support::run(&mut command).ok().stdout
    };
    let sampled = [
        "--temperature",
        "1.5",
        "--top-k",
        "50",
        "--top-p",
        "0.95",
        "--seed",
    ];
    let seeded = |seed| text(&[&sampled[..], &[seed]].concat());
    assert_eq!(text(&[]), text(&["--temperature", "0"]));
    assert_eq!(seeded("1"), seeded("1"));
    assert_ne!(seeded("1"), seeded("2"));
    assert_eq!(text(&[]), text(&["--repetition-penalty", "1"]));
    assert_ne!(text(&[]), text(&["--repetition-penalty", "3"]));
    // Only the likeliest token is as likely as the likeliest.
    let only_the_likeliest = ["--temperature", "1.5", "--min-p", "1"];
    assert_eq!(text(&[]), text(&only_the_likeliest));
}

/// Random weights soon go round in circles, so that guesses are kept.
#[test]
fn guesses_change_the_rate_and_not_the_text() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    for sampling in ["0", "0.3"] {
        let run = |lookup: &[&str]| {
            let mut command = Command::new(FINETUNE);
            command.arg("generate").arg("--model").arg(&model);
            command.args(["--prompt", "hello hello hello", "--max-tokens", "60"]);
            command.args(["--temperature", sampling]).args(lookup);
            crate::support::run(&mut command).ok()
        };
        let plain = run(&[]);
        assert!(plain.stderr.contains("; written: 60 tokens, "), "{plain:?}");
        for lookup in [&["--lookup"][..], &["--lookup", "1"]] {
            let guessed = run(lookup);
            assert_eq!(guessed.stdout, plain.stdout);
            assert!(guessed.stderr.contains(" guesses kept"), "{guessed:?}");
        }
    }
    for most in ["0", "8", "x"] {
        finetune!(
            "generate", "--model", &model, "--prompt", "x", "--lookup", most
        )
        .refused(&["--lookup", "1 to 7"]);
    }
}

#[test]
fn a_chat_answers_each_line_until_its_input_ends() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let run = chat(&model, &["--max-tokens", "4"], "hello\n\nand then?\n").ok();
    // An empty line is no turn.
    assert!(run.stdout.lines().count() >= 2, "{run:?}");
}

#[test]
fn a_prompt_or_a_chat_is_needed() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    finetune!("generate", "--model", &model).refused(&["--prompt", "--chat"]);
}

#[test]
fn sampling_flags_out_of_range_are_refused() {
    for (flag, value) in [
        ("--repetition-penalty", "0"),
        ("--repetition-penalty", "nan"),
        ("--min-p", "1.5"),
        ("--min-p", "-1"),
    ] {
        finetune!(
            "generate",
            "--model",
            "m",
            "--prompt",
            "x",
            format!("{flag}={value}")
        )
        .refused(&[flag, value]);
    }
}

#[test]
fn a_line_too_long_ends_its_turn_alone() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let lines = format!("hello\n{}\nand then?\n", "x".repeat(2000));
    let run = chat(&model, &["--max-tokens", "3"], &lines).ok();
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert!(
        matches!(
            lines.as_slice(),
            [one, rates] if one.contains("512") && one.contains("passed over") && rates.starts_with("prompt: ")
        ),
        "{run:#?}"
    );
    assert!(run.stdout.lines().count() >= 2, "{run:#?}");
}

#[test]
fn a_system_prompt_needs_a_template_that_shows_it() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    for (source, expected) in [
        (
            "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no such role') }}{% endif %}\
             {{ m.content }}{% endfor %}",
            "no such role",
        ),
        (
            "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
            "leaves the system prompt out",
        ),
    ] {
        let template = place.file("template.jinja", source);
        let template = template.to_str().unwrap();
        let flags = ["--system", "Be kind.", "--chat-template", template];
        chat(&model, &flags, "").refused(&["--system", expected]);
    }
    chat(&model, &["--system", "Be kind."], "").ok();
}

#[test]
fn templates_and_tokenizers_that_do_harm_are_refused() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    for (source, expected) in [
        (" ".repeat(300_000), "262144"),
        ("{{ 'x' * 10**9 }}".to_owned(), "--chat-template"),
        ("{%}".to_owned(), "syntax error"),
    ] {
        let template = place.file("template.jinja", source);
        let flags = ["--chat-template", template.to_str().unwrap()];
        chat(&model, &flags, "hello\n").refused(&["chat template", expected]);
    }
    let endless = ["--chat-template", "/dev/zero"];
    chat(&model, &endless, "hello\n").refused(&["/dev/zero", "262144"]);
    let mut damaged = byte_tokenizer();
    damaged["decoder"] = json!([1]);
    fs::write(model.join("tokenizer.json"), damaged.to_string()).unwrap();
    finetune!("generate", "--model", &model, "--prompt", "x").refused(&["tokenizer.json"]);
}

#[test]
fn the_context_takes_no_memory_before_it_is_used() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let path = model.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["max_position_embeddings"] = json!(i32::MAX);
    fs::write(&path, config.to_string()).unwrap();
    let mut child = Command::new(FINETUNE)
        .args([
            "generate",
            "--prompt",
            "hello",
            "--max-tokens",
            "2000000000",
            "--model",
        ])
        .arg(&model)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0];
    let written = child.stdout.take().unwrap().read(&mut first);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(written.unwrap(), 1);
}

/// The end of a completion is the tokenizer's end token, which is not that of config.json; the end of a turn is a text
/// of the template that no token stands for.
#[test]
fn answers_end_where_the_model_was_taught_to_end_them() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let settings = json!({ "bos_token": "<s>", "eos_token": "<pad>" });
    fs::write(model.join("tokenizer_config.json"), settings.to_string()).unwrap();
    let template = place.file(
        "template.jinja",
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n[END]\n{% endfor %}\
         {% if add_generation_prompt %}assistant: {% endif %}",
    );
    let chat_row =
        r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"yes"}]}"#;
    let rows = place.file(
        "rows.jsonl",
        format!("{{\"prompt\":\"q: \",\"completion\":\"no\"}}\n{chat_row}\n"),
    );
    let output = place.path("run");
    finetune!(
        "train",
        "--model",
        &model,
        "--data",
        &rows,
        "--output",
        &output,
        "--chat-template",
        &template,
        "--seq-len",
        "64",
        "--steps",
        "150",
        "--batch-size",
        "2",
        "--lr",
        "1e-2",
        "--max-grad-norm",
        "1"
    )
    .ok();
    let adapter = output.to_str().unwrap();
    let flags = [
        "--adapter",
        adapter,
        "--chat-template",
        template.to_str().unwrap(),
        "--max-tokens",
        "30",
    ];
    assert_eq!(chat(&model, &flags, "a\n").ok().stdout, "yes\n");
    let mut command = Command::new(FINETUNE);
    command
        .args(["generate", "--prompt", "q: ", "--model"])
        .arg(&model)
        .args(flags);
    assert_eq!(crate::support::run(&mut command).ok().stdout, "no\n");
    let report = finetune!(
        "eval",
        "--model",
        &model,
        "--adapter",
        &output,
        "--chat-template",
        &template,
        "--data",
        &rows,
        "--seq-len",
        "64",
        "--exact-match",
        "--json"
    )
    .ok()
    .last_json();
    assert_eq!(number(&report, "exact_match"), 1.0, "{report}");
}
