//! `finetune eval`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::finetune;
use crate::support::{self, Place, number};

#[test]
fn the_last_line_is_one_json_object() {
    let place = Place::new();
    let (model, text) = (place.model("tiny_llama"), place.text());
    let run = finetune!(
        "eval",
        "--model",
        &model,
        "--data",
        &text,
        "--seq-len",
        "32",
        "--max-rows",
        "3",
        "--quant",
        "none",
        "--json"
    )
    .ok();
    let report = run.last_json();
    assert_eq!(report.as_object().unwrap().len(), 3);
    let (nll, perplexity) = (number(&report, "nll"), number(&report, "perplexity"));
    assert!((perplexity / nll.exp() - 1.0).abs() < 1e-6, "{report}");
    // Each of the three rows predicts its own next tokens.
    assert_eq!(number(&report, "tokens"), 3.0 * 31.0);
}

#[test]
fn formats_and_adapters_change_the_loss() {
    let place = Place::new();
    let (model, text) = (place.model("tiny_llama"), place.text());
    let nll = |extra: &[&str]| {
        let mut command = crate::support::eval(&model, &text);
        command
            .args(["--seq-len", "32", "--max-rows", "4", "--json"])
            .args(extra);
        number(&crate::support::run(&mut command).ok().last_json(), "nll")
    };
    let adapter = qlora_test_support::fixture("peft_adapter");
    let losses = [
        nll(&["--quant", "none"]),
        nll(&[]),
        nll(&["--quant", "fp4"]),
        nll(&["--quant", "int4"]),
        nll(&["--block-size", "256", "--no-double-quant"]),
        nll(&["--adapter", adapter.to_str().unwrap()]),
    ];
    for (i, one) in losses.iter().enumerate() {
        assert!(losses[..i].iter().all(|other| other != one), "{losses:?}");
    }
}

/// A model that has learnt to answer a prompt and a chat, with their rows.
struct Taught {
    place: Place,
    model: PathBuf,
    rows: PathBuf,
}

impl Taught {
    fn new() -> Self {
        let place = Place::new();
        let model = place.model("tiny_llama");
        let chat =
            r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"yes"}]}"#;
        let rows = place.file(
            "rows.jsonl",
            format!("{{\"prompt\":\"q: \",\"completion\":\"yes\"}}\n{chat}\n"),
        );
        Self { place, model, rows }
    }

    fn teach(&self) -> PathBuf {
        let output = self.place.path("run");
        let mut command = support::train(&self.model, &self.rows, &output);
        command.args(["--seq-len", "64", "--steps", "120", "--batch-size", "2"]);
        support::run(command.args(["--lr", "1e-2", "--max-grad-norm", "1"])).ok();
        output
    }

    fn eval(&self, adapter: Option<&Path>, more: &[&str]) -> Value {
        let mut command = support::eval(&self.model, &self.rows);
        command.args(["--seq-len", "64", "--json"]).args(more);
        if let Some(adapter) = adapter {
            command.arg("--adapter").arg(adapter);
        }
        support::run(&mut command).ok().last_json()
    }
}

#[test]
fn exact_match_counts_the_answers_a_trained_model_gives() {
    let taught = Taught::new();
    let matched = |adapter: Option<&Path>, batch_size: &str| {
        let report = taught.eval(adapter, &["--exact-match", "--batch-size", batch_size]);
        assert_eq!(number(&report, "exact_match_rows"), 2.0);
        number(&report, "exact_match")
    };
    assert_eq!(matched(None, "4"), 0.0);
    let adapter = taught.teach();
    for batch_size in ["1", "2"] {
        assert_eq!(matched(Some(&adapter), batch_size), 1.0);
    }

    let file = taught.place.path("answers.jsonl");
    let written = |adapter: Option<&Path>, more: &[&str]| {
        let generate = [&["--generate", file.to_str().unwrap()], more].concat();
        let report = taught.eval(adapter, &generate);
        (support::log_lines(&file), report)
    };
    let (lines, report) = written(Some(&adapter), &["--exact-match", "--batch-size", "2"]);
    assert_eq!(
        lines,
        [
            json!({"prompt": "q: ", "expected": "yes", "answer": "yes"}),
            json!({"prompt": "user: a</s>assistant: ", "expected": "yes", "answer": "yes"}),
        ]
    );
    assert_eq!(number(&report, "exact_match"), 1.0);
    // One at a time and side by side: the same answers, none longer than is asked for.
    let (alone, report) = written(None, &["--max-tokens", "9", "--batch-size", "1"]);
    assert!(report.get("exact_match").is_none(), "{report}");
    let (beside, _) = written(None, &["--max-tokens", "9", "--batch-size", "2"]);
    assert_eq!(alone, beside);
    let (longer, _) = written(None, &["--max-tokens", "30"]);
    for (short, long) in alone.iter().zip(&longer) {
        let [short, long] = [short, long].map(|line| line["answer"].as_str().unwrap());
        assert!(short.len() < long.len() && long.starts_with(short.trim_end_matches('\u{fffd}')));
    }
}

/// The rows that a run held out, with the reference and the numbers that it had.
#[test]
fn an_objective_has_the_values_of_the_run_that_learnt_it() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let lines =
        |row: &dyn Fn(usize) -> Value| (0..6).map(|i| format!("{}\n", row(i))).collect::<String>();
    let pairs = lines(
        &|i| json!({ "prompt": format!("{i}?"), "chosen": format!(" {}.", i * i), "rejected": " no" }),
    );
    let labelled = lines(
        &|i| json!({ "prompt": format!("{i}?"), "completion": " no", "label": i.is_multiple_of(2) }),
    );
    for (objective, rows, flags, told) in [
        (
            "dpo",
            &pairs,
            "--beta 0.3 --label-smoothing 0.1",
            "rewards/margins",
        ),
        ("orpo", &pairs, "--beta 0.2", "log_odds_chosen"),
        (
            "kto",
            &labelled,
            "--desirable-weight 0.5 --undesirable-weight 2",
            "kl",
        ),
    ] {
        let data = place.file(&format!("{objective}.jsonl"), rows);
        let output = place.path(objective);
        let flags = format!("--objective {objective} --seq-len 64 --batch-size 3 {flags}");
        let mut train = support::train(&model, &data, &output);
        train.args(flags.split(' ')).arg("--eval-data").arg(&data);
        support::run(train.args(["--steps", "4", "--lr", "1e-2", "--no-shuffle"])).ok();
        let evaluations = place.evaluations(objective);
        let evaluation = evaluations.last().expect("the run measures at its end");
        let mut eval = support::eval(&model, &data);
        eval.args(flags.split(' ')).arg("--adapter").arg(&output);
        let found = support::run(eval.arg("--json")).ok().last_json();
        assert!(found.get(told).is_some(), "{found}");
        assert_eq!(found, evaluation["evaluation"]);
    }
}

#[test]
fn choices_are_counted_with_examples_before_them() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let row = |subject: &str, answer: usize| {
        let choices = ["one", "two", "three", "four"];
        json!({"question": "How many?", "subject": subject, "choices": choices, "answer": answer})
    };
    let lines = |rows: &[Value]| {
        rows.iter()
            .map(|row| format!("{row}\n"))
            .collect::<String>()
    };
    let rows = place.file(
        "mmlu.jsonl",
        lines(&[row("anatomy", 0), row("anatomy", 1), row("us_history", 2)]),
    );
    let shots = place.file(
        "dev.jsonl",
        lines(&[row("anatomy", 3), row("us_history", 3)]),
    );
    let eval = |more: &[&str]| {
        let mut command = support::eval(&model, &rows);
        support::run(command.arg("--choices").args(more))
    };
    let report = eval(&["--json"]).ok().last_json();
    assert_eq!(report["task"], "mmlu");
    assert_eq!(number(&report, "questions"), 3.0);
    assert_eq!(report["subjects"]["anatomy"]["questions"], 2);
    // The same question with every answer: one is right.
    assert!(number(&report, "acc") <= 2.0 / 3.0, "{report}");
    let head = eval(&["--max-rows", "1", "--json"]).ok().last_json();
    assert_eq!(number(&head, "questions"), 1.0);
    assert!(head["acc_stderr"].is_null() && head.get("subjects").is_none());

    let data = shots.to_str().unwrap();
    let report = eval(&["--shots", "1", "--shots-data", data, "--json"]).ok();
    assert!(report.stdout.contains("MMLU, 1 shots"), "{}", report.stdout);
    assert_eq!(number(&report.last_json(), "shots"), 1.0);
    // An example adds its own tokens to each question, and a shorter model takes them no more.
    let long = ["--seq-len", "150"];
    eval(&long).ok();
    let with_example = [&long[..], &["--shots", "1", "--shots-data", data]].concat();
    eval(&with_example).refused(&["mmlu.jsonl:1", "3 of 3 rows", "--truncate"]);
    eval(&[&with_example[..], &["--truncate"]].concat()).ok();
    eval(&["--shots", "2", "--shots-data", data]).refused(&[
        "mmlu.jsonl:1",
        "2 examples",
        "have 1 of its subject anatomy",
    ]);
}

/// A text that the question is about, say, which no prompt shows.
#[test]
fn columns_that_are_not_read_are_told() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let row = json!({"prompt": "a", "choices": ["b", "c"], "answer": 0, "passage": "d"});
    let data = place.file("choices.jsonl", row.to_string());
    let run = support::run(support::eval(&model, &data).arg("--choices")).ok();
    let told = run
        .stderr
        .lines()
        .filter(|line| line.starts_with("warning: "));
    let told: Vec<&str> = told.collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].ends_with("choices.jsonl: not read: passage"),
        "{told:?}"
    );
    let arc = json!({"id": "1", "question": "a", "choices": {"text": ["b", "c"], "label": ["A", "B"]}, "answerKey": "A"});
    let data = place.file("arc.jsonl", arc.to_string());
    let run = support::run(support::eval(&model, &data).arg("--choices")).ok();
    assert!(!run.stderr.contains("not read"), "{}", run.stderr);
}

#[test]
fn questions_that_are_damaged_are_refused_by_their_line() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let good = r#"{"prompt":"a","choices":["b","c"],"answer":0}"#;
    for (row, expected) in [
        (r#"{"prompt":"a","choices":["b","c"],"answer":2}"#, "0 to 1"),
        (r#"{"prompt":"a","choices":["b",3],"answer":0}"#, "a number"),
        (r#"{"prompt":"a","choices":[],"answer":0}"#, "0 of them"),
        (r#"{"choices":["b","c"],"answer":0}"#, "no question"),
        (
            r#"{"question":"a","choices":["b","c"],"answer":0}"#,
            "a row of MMLU",
        ),
        ("{", "not JSON"),
    ] {
        let data = place.file("choices.jsonl", format!("{good}\n{row}\n"));
        let mut command = support::eval(&model, &data);
        support::run(command.arg("--choices")).refused(&["choices.jsonl:2: ", expected]);
    }
    for (name, text, expected) in [
        ("empty.jsonl", "\n", "there is no question in it"),
        ("text.txt", "a text", "a text holds no questions"),
    ] {
        let data = place.file(name, text);
        let mut command = support::eval(&model, &data);
        support::run(command.arg("--choices")).refused(&[name, expected]);
    }
}

#[test]
fn measures_that_do_not_go_together_are_refused() {
    for (flags, expected) in [
        ("--choices --exact-match", "--choices measures"),
        ("--choices --generate a.jsonl", "--choices measures"),
        ("--choices --objective orpo", "--choices measures"),
        (
            "--choices --learn everything",
            "leave --columns and --learn out",
        ),
        (
            "--choices --columns prompt=a",
            "leave --columns and --learn out",
        ),
        ("--choices --shots 2", "name their file with --shots-data"),
        ("--choices --shots-data d", "without --shots N"),
        ("--shots 2", "belong to --choices"),
        ("--shots-data d", "belong to --choices"),
        ("--max-tokens 3", "--max-tokens belongs to --generate"),
        ("--beta 3", "--beta belongs to --objective"),
        (
            "--objective orpo --exact-match",
            "belong to --objective sft",
        ),
        ("--objective dpo", "name one with --adapter"),
        ("--objective kto", "name one with --adapter"),
    ] {
        let run = finetune!("eval", "--model", "m", "--data", "d"; flags.split(' '));
        run.refused(&[expected]);
    }
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama"), place.rows(2));
    let mut command = support::eval(&model, &rows);
    let nowhere = place.path("none/answers.jsonl");
    support::run(command.arg("--generate").arg(&nowhere)).refused(&["--generate", "answers.jsonl"]);
}
