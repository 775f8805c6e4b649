//! The adapter that the page of `examples/web` hands out.

use std::fs;

use qlora_test_support::{block_on, fixture};
use qlora_web::{Processor, Session};

use crate::finetune;
use crate::support::Place;

#[test]
fn an_adapter_from_the_page_answers_here_as_there() {
    const PROMPT: &str = "to be";
    let place = Place::new();
    let model = fixture("families/qwen2/gguf/qwen2-f32.gguf");
    let text = "to be or not to be, that is the question: to be or not to be";
    let gguf = fs::read(&model).unwrap();
    let mut page = Session::open("tiny.gguf", gguf, text, 12, 8, 1e-2, &Processor::cpu()).unwrap();
    for _ in 0..30 * page.rows() {
        block_on(page.step()).unwrap();
    }

    // As a visitor's browser saves them.
    let files = block_on(page.adapter()).unwrap();
    let adapter = place.path("adapter");
    fs::create_dir(&adapter).unwrap();
    fs::write(adapter.join("adapter_config.json"), files.config).unwrap();
    fs::write(adapter.join("adapter_model.safetensors"), files.weights).unwrap();

    let answer = |more: &[&str]| {
        let run = finetune!(
            "generate", "--model", &model, "--quant", "nf4", "--prompt", PROMPT, "--max-tokens", "16"; more
        );
        run.ok().stdout.trim_end().to_owned()
    };
    let there = block_on(page.answer(PROMPT, 16)).unwrap();
    let here = answer(&["--adapter", adapter.to_str().unwrap()]);
    assert_eq!(here, there.trim_end());
    assert_ne!(here, answer(&[]));
}
