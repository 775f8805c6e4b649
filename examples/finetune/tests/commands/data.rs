//! What a data set becomes, rows held out, and rows that are too much for memory.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::finetune;
use crate::support::Place;

/// Rows of which some cannot be used.
fn mixed(place: &Place) -> std::path::PathBuf {
    let lines = [
        json!({"prompt": "2+2=", "completion": " 4"}).to_string(),
        json!({"text": "a\u{1b}[2Jb"}).to_string(),
        "not json".into(),
        json!({"question": "a"}).to_string(),
        json!({"text": "x".repeat(600)}).to_string(),
        "[1]".into(),
        json!({"text": "x".repeat(700)}).to_string(),
    ];
    place.file("mixed.jsonl", lines.join("\n"))
}

#[test]
fn what_is_learnt_is_seen_and_what_cannot_be_is_counted() {
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama"), mixed(&place));
    let run = finetune!("data", "--model", &model, "--data", &rows, "--json").ok();
    assert_eq!(run.stderr, "");
    for expected in [
        "mixed.jsonl:1: 7 tokens, 3 learnt\n2+2=⟦ 4</s>⟧\n",
        "mixed.jsonl:2: 7 tokens, 6 learnt\na⟦\\u{1b}[2Jb</s>⟧\n",
        "rows        2 of 7 examples\n",
        "tokens      14, of which 9 are learnt (64.3 %)\n",
        "refused     5 examples\n",
        "lengths     7 to 701 tokens, half up to 7, 95 % up to 701\n",
        "warning: train refuses the file for the 5 examples",
        "--seq-len 701",
    ] {
        assert!(
            run.stdout.contains(expected),
            "{expected:?} in {}",
            run.stdout
        );
    }
    assert!(!run.stdout.contains('\u{1b}'));
    let report = run.last_json();
    let refused: Vec<_> = report["refused"].as_array().unwrap().iter().collect();
    let told = |kind: &str| refused.iter().find(|told| told["kind"] == kind).unwrap();
    assert_eq!(told("too_long")["count"], 2);
    assert_eq!(told("unknown_keys")["count"], 1);
    assert_eq!(told("not_object")["count"], 1);
    assert_eq!(told("not_json")["count"], 1);
    assert!(
        told("too_long")["first"]
            .as_str()
            .unwrap()
            .ends_with("mixed.jsonl:5")
    );
    assert_eq!(report["steps"]["apart"]["rows"], 2);
    assert_eq!(report["steps"]["packed"]["rows"], 1);
    assert_eq!(
        report["shown"][0]["examples"][0][1],
        json!({"text": " 4</s>", "learnt": true})
    );
}

#[test]
fn what_is_cut_and_left_out_is_counted() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let row =
        |prompt: usize| json!({"prompt": "p".repeat(prompt), "completion": "yes"}).to_string();
    let rows = place.file("rows.jsonl", [row(4), row(6), row(20), row(30)].join("\n"));
    let flags = ["--seq-len", "8", "--truncate"];
    let run = finetune!(
        "data",
        "--model",
        &model,
        "--data",
        &rows,
        "--packing",
        "--eval-split",
        "0.5",
        flags[0],
        flags[1],
        flags[2]
    )
    .ok();
    for expected in [
        "rows        2 of 4 examples",
        "cut         1 rows to 8 tokens, 2 tokens are gone",
        "dropped     2 rows: ",
        "rows.jsonl:3: nothing to learn within 8 tokens",
        "held out    1 rows",
        "packed      1 rows in 1 steps",
    ] {
        assert!(
            run.stdout.contains(expected),
            "{expected:?} in {}",
            run.stdout
        );
    }
    let run = finetune!(
        "eval", "--model", &model, "--data", &rows, flags[0], flags[1], flags[2]
    )
    .ok();
    assert!(run.stdout.contains("rows        2\n"), "{}", run.stdout);
    assert!(
        run.stderr.starts_with("warning: ")
            && run.stderr.contains("rows.jsonl:3")
            && run.stderr.contains("(2 such rows)"),
        "{}",
        run.stderr
    );
    let long = place.file("long.jsonl", row(20));
    finetune!(
        "eval", "--model", &model, "--data", &long, flags[0], flags[1], flags[2]
    )
    .refused(&["long.jsonl", "no data", "--seq-len"]);
    finetune!(
        "eval", "--model", &model, "--data", &rows, flags[0], flags[1]
    )
    .refused(&["rows.jsonl:2", "3 of 4 rows", "--seq-len 34", "--truncate"]);
}

#[test]
fn a_share_of_the_rows_is_held_out() {
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama_nf4"), place.rows(40));
    let output = place.path("run");
    let train = |share: &str, resume: &[&str]| {
        let mut command = crate::support::train(&model, &rows, &output);
        command.args(["--steps", "2", "--eval-every", "1", "--eval-split", share]);
        crate::support::run(command.args(resume))
    };
    let run = train("0.1", &[]).ok();
    assert!(run.stdout.contains("36 rows"), "{}", run.stdout);
    let losses = run
        .stderr
        .lines()
        .filter(|line| line.contains("held-out loss"));
    assert_eq!(losses.count(), 2, "{}", run.stderr);
    train("0.2", &["--resume"]).refused(&["run was started with"]);
    train("0.1", &["--resume"]).ok();
}

#[test]
fn rows_of_like_lengths_come_together() {
    let place = Place::new();
    let line = |row: usize| json!({"text": "x".repeat(row * 37 % 29 * 4 + 5)}).to_string() + "\n";
    let rows = place.file("rows.jsonl", (0..40).map(line).collect::<String>());
    let model = place.model("tiny_llama_nf4");
    let padding = |more: &[&str]| {
        let flags = ["--batch-size", "2", "--show", "0", "--json"];
        let run = finetune!("data", "--model", &model, "--data", &rows; flags.iter().chain(more));
        run.ok().last_json()["steps"]["apart"]["padding"].as_f64()
    };
    let [apart, together] = [&[][..], &["--group-by-length"]].map(|more| padding(more).unwrap());
    assert!(together < apart / 2.0, "{together} of {apart}");

    let (output, log) = (place.path("run"), place.path("log.jsonl"));
    let mut train = crate::support::train(&model, &rows, &output);
    train.args([
        "--steps",
        "3",
        "--batch-size",
        "2",
        "--group-by-length",
        "--log-json",
    ]);
    crate::support::run(train.arg(&log)).ok();
    let log = fs::read_to_string(log).unwrap();
    let tokens: Vec<u64> = log
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["tokens"]
                .as_u64()
                .unwrap()
        })
        .collect();
    // The longest row is among the first.
    assert!(
        tokens[0] > tokens[1] && tokens[1] >= tokens[2],
        "{tokens:?}"
    );

    let mut train = crate::support::train(&model, &rows, &place.path("other"));
    crate::support::run(train.args(["--group-by-length", "--no-shuffle"]))
        .refused(&["--group-by-length", "--no-shuffle"]);
}

/// Texts of more tokens than are kept in memory.
fn many(place: &Place) -> std::path::PathBuf {
    let line =
        |number: usize| json!({"text": format!("{number} ").repeat(500)[..500]}).to_string() + "\n";
    place.file("many.jsonl", (0..2200).map(line).collect::<String>())
}

#[cfg(unix)]
#[test]
fn rows_that_are_too_much_for_memory_are_kept_while_the_run_goes_on() {
    use crate::interrupt::{losses, stop_after};
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama_nf4"), many(&place));
    let train = |name: &str| {
        let mut command = crate::support::train(&model, &rows, &place.path(name));
        command
            .arg("--log-json")
            .arg(place.path(&format!("{name}.json")));
        command.args([
            "--steps",
            "40",
            "--batch-size",
            "1",
            "--save-every",
            "1",
            "--rank",
            "2",
        ]);
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        command
    };
    crate::support::run(&mut train("whole")).ok();
    assert!(!place.listing("whole").contains(&"rows.cache".to_owned()));

    let log = place.path("cut.json");
    stop_after(&mut train("cut"), &log, 2, "-KILL");
    let cache = place.path("cut/rows.cache");
    let damage = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let kept = fs::read(&cache).unwrap();
    // Other data is not taken for it, and is refused as it would be without.
    let text = fs::read_to_string(&rows).unwrap();
    fs::write(&rows, text.replacen("17 17", "18 18", 1)).unwrap();
    crate::support::run(train("cut").arg("--resume")).refused(&["data"]);
    fs::write(&rows, &text).unwrap();
    // What is damaged is made anew.
    fs::write(&cache, &kept).unwrap();
    damage(&cache);
    crate::support::run(train("cut").arg("--resume")).ok();
    assert_eq!(losses(&log), losses(&place.path("whole.json")));
    assert!(!cache.exists());
}
