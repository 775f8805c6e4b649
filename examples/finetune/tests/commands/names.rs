//! Names of files that are not text, and texts of files that are not fit for a terminal.

use crate::finetune;
use crate::support::Place;

/// Only Linux has file systems that take any bytes.
#[cfg(target_os = "linux")]
#[test]
fn files_and_folders_may_have_names_that_are_not_utf_8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama"), place.rows(4));
    let named = |bytes: &[u8]| rows.with_file_name(OsStr::from_bytes(bytes));
    let (data, first, second) = (named(b"d\xff.jsonl"), named(b"o\xff"), named(b"o\xfe"));
    std::fs::rename(&rows, &data).unwrap();
    let train = |output: &std::path::Path, more: Vec<&OsStr>| {
        let mut command = crate::support::train(&model, &data, output);
        command.args(["--steps", "2", "--seq-len", "64"]);
        crate::support::run(command.args(more))
    };
    train(
        &first,
        vec!["--log-json".as_ref(), named(b"l\xff").as_ref()],
    )
    .ok();
    let from = [
        "--init-adapter".as_ref(),
        first.as_os_str(),
        "--eval-data".as_ref(),
        data.as_ref(),
    ];
    train(&second, from.to_vec()).ok();
    train(&second, [&from[..], &["--resume".as_ref()]].concat()).ok();
    let eval = |adapter: &std::path::Path| {
        finetune!(
            "eval",
            "--model",
            &model,
            "--data",
            &data,
            "--adapter",
            adapter
        )
    };
    eval(&second).ok();
    finetune!("quantize", "--model", &model, "--output", named(b"q\xff")).ok();

    // A model's name goes into run.json and the adapter's configuration, which are text.
    let odd = named(b"m\xff");
    std::fs::rename(&model, &odd).unwrap();
    finetune!("plan", "--model", &odd).refused(&["UTF-8", "m\\377"]);
}

#[test]
fn an_error_shows_no_control_characters_and_has_an_end() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let config = std::fs::read_to_string(model.join("config.json")).unwrap();
    let with = |name: &str| {
        let kind = serde_json::Value::from(name).to_string();
        let changed = config
            .replace("\"LlamaForCausalLM\"", &kind)
            .replace("\"llama\"", &kind);
        assert_ne!(changed, config);
        std::fs::write(model.join("config.json"), changed).unwrap();
        finetune!("plan", "--model", &model)
    };
    let run = with("\u{1b}[31mred\u{1b}]0;title\u{7}\u{202e}");
    run.refused(&[r"\x1b[31mred\x1b]0;title\x07\u{202e}"]);
    assert!(!run.stderr.trim_end().contains(char::is_control));
    let run = with(&"long ".repeat(100_000));
    run.refused(&["long", "characters left out"]);
    assert!(run.stderr.len() < 2000, "{}", run.stderr.len());
}

/// A pipe is no model, and nobody writes to it.
#[cfg(unix)]
#[test]
fn a_model_that_is_no_file_is_refused_at_once() {
    let place = Place::new();
    let pipe = place.path("pipe.gguf");
    let made = std::process::Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .unwrap();
    assert!(made.success());
    finetune!("plan", "--model", &pipe).refused(&["pipe.gguf", "a regular file"]);
    finetune!("plan", "--model", "/dev/zero").refused(&["/dev/zero", "a regular file"]);
}

#[cfg(feature = "hub")]
#[test]
fn a_user_without_a_home_is_told_where_downloads_can_go() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let model = model.to_str().expect("a name in UTF-8");
    for (model, data, named) in [
        ("nobody/no-such-model", None, "nobody/no-such-model"),
        (model, Some("hf://datasets/nobody/none"), "nobody/none"),
    ] {
        let mut command = std::process::Command::new(crate::support::FINETUNE);
        command.args(["plan", "--model", model]);
        command.args(data.into_iter().flat_map(|data| ["--data", data]));
        command.env_remove("HF_HOME").env("HOME", "");
        crate::support::run(&mut command).refused(&[named, "HF_HOME"]);
    }
}
