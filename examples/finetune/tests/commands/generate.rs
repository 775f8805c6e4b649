//! `finetune generate`.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::finetune;
use crate::support::{FINETUNE, Place, Run};

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
}

#[test]
fn a_chat_answers_each_line_until_its_input_ends() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let mut child = Command::new(FINETUNE)
        .arg("generate")
        .arg("--model")
        .arg(&model)
        .args(["--chat", "--max-tokens", "4"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"hello\n\nand then?\n")
        .unwrap();
    let run = Run::from(child.wait_with_output().unwrap()).ok();
    // An empty line is no turn.
    assert!(run.stdout.lines().count() >= 2, "{run:?}");
}

#[test]
fn a_prompt_or_a_chat_is_needed() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    finetune!("generate", "--model", &model).refused(&["--prompt", "--chat"]);
}
