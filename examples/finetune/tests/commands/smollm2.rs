//! The memory plan of SmolLM2-135M-Instruct against what training it takes.

use std::process::Command;

use qlora_test_support::smollm2;
use serde_json::json;

use crate::support::{FINETUNE, Place, log_lines, number, printed_bytes};

/// In four settings that make the terms weigh differently, two of them with everything kept.
#[test]
#[ignore = "needs scripts/fetch-smollm2.sh"]
fn the_measured_peak_is_within_a_tenth_of_the_plan() {
    let model = smollm2();
    let place = Place::new();
    let text = place.long_text();
    for (name, flags) in [
        ("whole", "--batch-size 2 --seq-len 256"),
        (
            "layer",
            "--batch-size 1 --seq-len 1024 --checkpointing layer",
        ),
        (
            "half",
            "--batch-size 2 --seq-len 256 --rank 8 --compute-dtype bf16 --grad-accum 2",
        ),
        (
            "all",
            "--batch-size 3 --seq-len 256 --rank 64 --compute-dtype bf16 --checkpointing layer",
        ),
    ] {
        let log = place.path("log.jsonl");
        let run = |command: &str, extra: &[&str]| {
            let mut process = Command::new(FINETUNE);
            process
                .arg(command)
                .arg("--model")
                .arg(&model)
                .arg("--data")
                .arg(&text);
            process
                .arg("--output")
                .arg(place.path(name))
                .arg("--log-json")
                .arg(&log);
            process.args(flags.split(' ')).args(extra);
            crate::support::run(&mut process).ok()
        };
        let plan = run("plan", &[]);
        let planned = printed_bytes(&plan.stdout, "peak ");
        let trained = run("train", &["--steps", "2"]);
        assert!(
            trained.stdout.contains("Peak memory: planned "),
            "{}",
            trained.stdout
        );
        let measured = number(log_lines(&log).last().unwrap(), "peak_rss_bytes");
        let error = measured / planned - 1.0;
        println!("{name}: planned {planned}, measured {measured}: {error:+.3}");
        assert!(error.abs() < 0.1, "{name}: off by {error}");
        std::fs::remove_file(&log).unwrap();
    }
}

/// A step on pairs takes what a step on texts of as many tokens takes.
#[test]
#[ignore = "needs scripts/fetch-smollm2.sh"]
fn preferences_take_no_more_than_texts() {
    let model = smollm2();
    let place = Place::new();
    let words = |times| "All the words of a long answer are here. ".repeat(times);
    let (prompt, answer) = (words(5), words(40));
    let pair = json!({ "prompt": prompt, "chosen": answer, "rejected": answer }).to_string();
    let text = json!({ "prompt": prompt, "completion": answer }).to_string();
    let labelled = json!({ "prompt": prompt, "completion": answer, "label": true }).to_string();
    let log = place.path("log.jsonl");
    let measured = |name: &str, row: &str, flags: &str| {
        let data = place.file("rows.jsonl", format!("{row}\n").repeat(4));
        let run = |command: &str, extra: &[&str]| {
            let mut process = Command::new(FINETUNE);
            process.arg(command).arg("--model").arg(&model);
            process.arg("--data").arg(&data);
            process.arg("--output").arg(place.path(name));
            process.arg("--log-json").arg(&log);
            process.args(["--seq-len", "256", "--truncate"]);
            process.args(flags.split(' ')).args(extra);
            crate::support::run(&mut process).ok()
        };
        let planned = printed_bytes(&run("plan", &[]).stdout, "peak ");
        run("train", &["--steps", "1"]);
        let peak = number(log_lines(&log).last().unwrap(), "peak_rss_bytes");
        std::fs::remove_file(&log).unwrap();
        let error = peak / planned - 1.0;
        println!("{name}: planned {planned}, measured {peak}: {error:+.3}");
        assert!(error.abs() < 0.1, "{name}: off by {error}");
        peak
    };
    let texts = measured("sft", &text, "--batch-size 4 --learn everything");
    for (name, row, flags) in [
        ("dpo", &pair, "--batch-size 2 --objective dpo"),
        ("orpo", &pair, "--batch-size 2 --objective orpo"),
        ("kto", &labelled, "--batch-size 4 --objective kto"),
    ] {
        let peak = measured(name, row, flags);
        assert!(peak < 1.3 * texts, "{name}: {}", peak / texts);
    }
}

/// The published file is in Q4_1.
#[test]
#[ignore = "needs scripts/fetch-smollm2.sh"]
fn what_is_quantized_a_second_time_is_told_once() {
    let model = smollm2();
    let place = Place::new();
    let (rows, output) = (place.rows(2), place.path("run"));
    let run = |command: &str, flags: &[&str]| {
        let mut process = Command::new(FINETUNE);
        process.arg(command).arg("--model").arg(&model);
        process.arg("--data").arg(&rows).args(flags);
        if command != "eval" {
            process.arg("--output").arg(&output);
        }
        crate::support::run(&mut process).ok().stderr
    };
    let told = |stderr: &str| stderr.matches("a second time").count();
    for command in ["plan", "eval", "train"] {
        let stderr = run(command, &["--quant", "nf4"]);
        assert_eq!(told(&stderr), 1, "{stderr}");
        assert!(
            stderr.contains("Q4_1") && stderr.contains("--quant keep avoids it"),
            "{stderr}"
        );
    }
    for others in [&[][..], &["--quant", "none"]] {
        assert_eq!(told(&run("plan", others)), 0);
    }
}
