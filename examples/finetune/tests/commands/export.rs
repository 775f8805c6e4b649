//! `finetune export`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use qlora_test_support::fixture;
use serde_json::Value;

use crate::finetune;
use crate::support::{FINETUNE, Place, number};

/// An adapter after a few steps on `model`.
fn trained(place: &Place, model: &Path) -> PathBuf {
    let (rows, output) = (place.rows(8), place.path("run"));
    finetune!(
        "train",
        "--model",
        model,
        "--data",
        &rows,
        "--output",
        &output,
        "--steps",
        "4",
        "--seq-len",
        "64",
        "--lr",
        "1e-2",
        "--rank",
        "4"
    )
    .ok();
    output
}

#[test]
fn what_is_written_computes_what_the_adapter_computes_on_its_base() {
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama"), place.rows(8));
    let adapter = trained(&place, &model);
    for base in ["original", "quantized"] {
        let output = place.path(base);
        let run = finetune!(
            "export",
            "--model",
            &model,
            "--adapter",
            &adapter,
            "--to",
            "hf",
            "--output",
            &output,
            "--base",
            base,
            "--dtype",
            "f32",
            "--check",
            &rows,
            "--seq-len",
            "64",
            "--json"
        )
        .ok();
        let json = run.last_json();
        let losses = ["adapter_nll", "merged_nll"].map(|key| number(&json["check"], key));
        // One f32 weight in place of two products.
        assert!((losses[0] - losses[1]).abs() < 1e-5, "{base}: {json}");
        let changed = number(&json, "relative_norm");
        assert!(changed > 0.0 && changed < 1.0, "{json}");
        assert_eq!(json["layers"].as_array().map(Vec::len), Some(3), "{json}");

        // What training saw is the base in NF4.
        let of = |model: &Path, more: &[&std::ffi::OsStr]| {
            let run = finetune!(
                "eval", "--model", model, "--data", &rows, "--seq-len", "64", "--json"; more
            );
            number(&run.ok().last_json(), "nll")
        };
        let written = of(&output, &["--quant", "none"].map(AsRef::as_ref));
        assert!((written - losses[1]).abs() < 1e-6, "{base}");
        let on_nf4 = of(&model, &["--adapter".as_ref(), adapter.as_os_str()]);
        assert_eq!(
            (written - on_nf4).abs() < 1e-5,
            base == "quantized",
            "{base}"
        );
    }
}

#[test]
fn what_cannot_be_exported_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let (model, output) = (place.model("tiny_llama"), place.path("out"));
    let other = place.model("families/phi3");
    let adapter = trained(&place, &model);
    let text = place.file("none.jsonl", "{}\n");
    let refused = |model: &Path, flags: &[&std::ffi::OsStr], needles: &[&str]| {
        let mut command = Command::new(FINETUNE);
        command.arg("export").arg("--model").arg(model).args(flags);
        command.arg("--output").arg(&output);
        crate::support::run(&mut command).refused(needles);
    };
    let hf = ["--to", "hf"].map(AsRef::<std::ffi::OsStr>::as_ref);
    let with = |more: &'static [&'static str]| -> Vec<&std::ffi::OsStr> {
        let more = more.iter().map(AsRef::as_ref);
        hf.into_iter().chain(more).collect()
    };
    refused(&model, &with(&["--dtype", "q8_0"]), &["q8_0", "bf16"]);
    refused(&model, &with(&["--quant", "nf4"]), &["--quant", "--base"]);
    refused(
        &model,
        &with(&["--base", "quantized", "--quant", "none"]),
        &["--base"],
    );
    let of_another = [hf[0], hf[1], "--adapter".as_ref(), adapter.as_os_str()];
    refused(&other, &of_another, &["another model"]);
    let unreadable = [hf[0], hf[1], "--check".as_ref(), text.as_os_str()];
    refused(&model, &unreadable, &["none.jsonl"]);
    assert!(!place.listing("").iter().any(|name| name.contains("out")));

    finetune!(
        "export", "--model", &model, "--to", "hf", "--output", &output
    )
    .ok();
    let before = place.listing("out");
    refused(&model, &hf, &["out", "already"]);
    assert_eq!(place.listing("out"), before);
}

#[test]
fn a_template_that_is_given_goes_along() {
    let place = Place::new();
    let (model, output) = (place.model("tiny_llama"), place.path("out"));
    finetune!(
        "merge",
        "--model",
        &model,
        "--output",
        &output,
        "--chat-template",
        "chatml"
    )
    .ok();
    let template = std::fs::read_to_string(output.join("chat_template.jinja")).unwrap();
    assert!(template.contains("<|im_start|>"), "{template}");
}

fn in_small_files(place: &Place, name: &str) -> Command {
    let mut command = Command::new(FINETUNE);
    command
        .arg("export")
        .arg("--model")
        .arg(place.path("tiny_llama"));
    command.arg("--output").arg(place.path(name));
    command.args(["--to", "hf", "--dtype", "f32", "--shard-size", "100kB"]);
    command.env("HF_ENDPOINT", "http://127.0.0.1:9");
    command
}

fn hidden(place: &Place) -> Vec<String> {
    let mut names = place.listing("");
    names.retain(|name| name.ends_with(".partial"));
    names
}

fn weights(place: &Place, name: &str) -> Vec<(String, Vec<u8>)> {
    let names = place.listing(name).into_iter();
    let read = |file: String| {
        let bytes = std::fs::read(place.path(name).join(&file)).expect("reads");
        (file, bytes)
    };
    names.map(read).collect()
}

/// At moments spread over the time that it takes; what then lies under the name is whole.
#[cfg(unix)]
#[test]
fn a_killed_export_leaves_nothing_that_looks_whole_and_goes_on() {
    let place = Place::new();
    place.model("tiny_llama");
    let started = Instant::now();
    crate::support::run(&mut in_small_files(&place, "expected")).ok();
    let time = started.elapsed();
    let expected = weights(&place, "expected");
    for share in 1..8 {
        let mut child = in_small_files(&place, "killed")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        std::thread::sleep(Duration::from_secs_f64(
            time.as_secs_f64() * f64::from(share) / 8.0,
        ));
        // It may be over already.
        let _ = child.kill();
        child.wait().expect("it ends");
        if place.path("killed").exists() {
            assert!(weights(&place, "killed") == expected, "at {share} of 8");
            std::fs::remove_dir_all(place.path("killed")).expect("removed");
        }
    }
    crate::support::run(&mut in_small_files(&place, "killed")).ok();
    assert!(weights(&place, "killed") == expected);
    assert_eq!(hidden(&place), Vec::<String>::new());
}

fn to_gguf(place: &Place, name: &str) -> Command {
    let mut command = Command::new(FINETUNE);
    let source = fixture("families/smollm3/gguf/smollm3-f32.gguf");
    command.arg("export").arg("--model").arg(source);
    command.arg("--output").arg(place.path(name));
    command.args(["--to", "gguf", "--dtype", "q8_0"]);
    command.env("HF_ENDPOINT", "http://127.0.0.1:9");
    command
}

/// At twenty moments spread over the time that it takes.
#[cfg(unix)]
#[test]
fn a_killed_export_to_gguf_leaves_nothing_that_looks_whole() {
    let place = Place::new();
    let started = Instant::now();
    crate::support::run(&mut to_gguf(&place, "expected.gguf")).ok();
    let time = started.elapsed();
    let expected = std::fs::read(place.path("expected.gguf")).expect("reads");
    let killed = place.path("killed.gguf");
    for share in 1..=20 {
        let mut child = to_gguf(&place, "killed.gguf")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        std::thread::sleep(time.mul_f64(f64::from(share) / 20.0));
        // It may be over already.
        let _ = child.kill();
        child.wait().expect("it ends");
        if killed.exists() {
            assert!(
                std::fs::read(&killed).expect("reads") == expected,
                "{share} of 20"
            );
            std::fs::remove_file(&killed).expect("removed");
        }
    }
    let files = place.listing("").into_iter();
    let models = files.filter(|name| name.ends_with(".gguf"));
    assert_eq!(models.collect::<Vec<_>>(), ["expected.gguf"]);
    crate::support::run(&mut to_gguf(&place, "killed.gguf")).ok();
    assert!(std::fs::read(&killed).expect("reads") == expected);
}

/// By the name that was given, once, and not by that of the file while it is written.
#[cfg(unix)]
#[test]
fn a_disk_that_is_full_of_a_gguf_file_is_named_once() {
    let place = Place::new();
    let mut shell = Command::new("bash");
    shell.args([
        "-c",
        "trap '' XFSZ; ulimit -f 32; exec \"$@\"",
        "bash",
        FINETUNE,
    ]);
    shell.args(to_gguf(&place, "out.gguf").get_args());
    let run = crate::support::run(&mut shell);
    run.refused(&["out.gguf", "too large"]);
    assert_eq!(run.stderr.matches("out.gguf").count(), 1, "{}", run.stderr);
    assert_eq!(place.listing(""), Vec::<String>::new());
}

/// Where the disk is full behind the first files, they stay; with room again the same command goes on.
#[cfg(unix)]
#[test]
fn a_full_disk_is_named_and_what_is_complete_is_kept() {
    let place = Place::new();
    place.model("tiny_llama");
    // The embedding is a file of 131 kB, what follows is less than 100 kB a file.
    let limited = |kib: usize| {
        let command = in_small_files(&place, "out");
        let mut shell = Command::new("bash");
        let script = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$@\"");
        shell
            .args(["-c", &script, "bash", FINETUNE])
            .args(command.get_args());
        crate::support::run(&mut shell)
    };
    limited(90).refused(&["model-00001-of", "too large"]);
    assert!(!place.path("out").exists());
    assert_eq!(hidden(&place), Vec::<String>::new());

    // A tokenizer that is larger than the files of weights: they are complete by then.
    let tokenizer = place.path("tiny_llama/tokenizer.json");
    let text = std::fs::read_to_string(&tokenizer).expect("reads");
    std::fs::write(&tokenizer, text + &" ".repeat(200_000)).expect("writes");
    limited(150).refused(&["tokenizer.json", "too large", "kept in", ".partial"]);
    assert!(!place.path("out").exists());
    assert_eq!(hidden(&place).len(), 1);
    crate::support::run(&mut in_small_files(&place, "out")).ok();
    assert_eq!(hidden(&place), Vec::<String>::new());
    let index = std::fs::read(place.path("out/model.safetensors.index.json")).expect("is there");
    let index: Value = serde_json::from_slice(&index).expect("is JSON");
    let file = &index["weight_map"]["model.embed_tokens.weight"];
    assert!(
        file.as_str()
            .is_some_and(|file| file.starts_with("model-00001-of-")),
        "{file}"
    );
}
