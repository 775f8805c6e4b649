//! Seeing a run: samples, TensorBoard's events, the report.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{self, Place, Run, log_lines, number};

/// A short run.
struct Watched {
    place: Place,
    model: PathBuf,
    rows: PathBuf,
}

impl Watched {
    fn new() -> Self {
        let place = Place::new();
        let (model, rows) = (place.model("tiny_llama_nf4"), place.rows(12));
        Self { place, model, rows }
    }

    fn train(&self, name: &str, more: &[&str]) -> Run {
        let mut command = support::train(&self.model, &self.rows, &self.place.path(name));
        command.args(["--seq-len", "64", "--rank", "2", "--lr", "5e-3"]);
        command.args(["--steps", "4", "--save-every", "2", "--dropout", "0.1"]);
        command.arg("--eval-data").arg(&self.rows);
        command.args(["--eval-every", "2"]);
        support::run(command.args(more))
    }

    /// Takes a finished run back to the checkpoint of its second step, as if it had been killed on the way to the fourth.
    fn take_back(&self, name: &str) {
        let run = self.place.path(name);
        fs::remove_dir_all(run.join("checkpoints/step-00000004")).expect("removed");
        fs::remove_file(run.join("adapter_model.safetensors")).expect("removed");
    }

    fn metrics(&self, name: &str) -> Vec<Value> {
        log_lines(&self.place.path(name).join("metrics.jsonl"))
    }
}

/// Returns the steps of the lines that have `key`.
fn steps_of(lines: &[Value], key: &str) -> Vec<f64> {
    let lines = lines.iter().filter(|line| line.get(key).is_some());
    lines.map(|line| number(line, "step")).collect()
}

#[test]
fn samples_are_written_on_the_way_and_change_nothing() {
    let watched = Watched::new();
    watched.train("plain", &[]).ok();
    let prompts = watched.place.file(
        "prompts.jsonl",
        "{\"prompt\":\"3 and 9? \"}\n\
         {\"messages\":[{\"role\":\"user\",\"content\":\"<b>5\"},{\"role\":\"assistant\",\"content\":\"x\"}]}\n\
         {\"instruction\":\"Add\",\"input\":\"1\"}\n{\"text\":\"4 and\"}\n",
    );
    let log = watched.place.path("log.jsonl");
    let flags = [
        "--sample-prompts",
        prompts.to_str().unwrap(),
        "--sample-tokens",
        "12",
        "--log-json",
        log.to_str().unwrap(),
    ];
    let run = watched.train("run", &flags).ok();
    assert!(watched.place.adapter("run") == watched.place.adapter("plain"));
    let words = [
        "step 0: 4 samples in ",
        "step 4: 4 samples in ",
        "peak memory",
    ];
    assert!(
        words.iter().all(|words| run.stderr.contains(words)),
        "{}",
        run.stderr
    );

    let lines = log_lines(&log);
    assert_eq!(steps_of(&lines, "samples"), [0.0, 2.0, 4.0]);
    assert_eq!(steps_of(&lines, "loss"), [1.0, 2.0, 3.0, 4.0]);
    let last = lines.last().unwrap();
    assert!(number(last, "seconds") > 0.0 && number(last, "peak_rss_bytes") > 0.0);
    let given = |place: usize| last["samples"][place]["prompt"].as_str().unwrap();
    assert_eq!(given(0), "3 and 9? ");
    assert_eq!(given(1), "user: <b>5</s>assistant: ");
    assert_eq!(given(2), "user: Add\n1</s>assistant: ");
    assert_eq!(given(3), "4 and");

    // The last ones are what the adapter writes.
    let written = crate::finetune!(
        "generate",
        "--model",
        &watched.model,
        "--adapter",
        &watched.place.path("run"),
        "--max-tokens",
        "12",
        "--prompt",
        "3 and 9? "
    );
    let sample = last["samples"][0]["text"].as_str().unwrap();
    assert!(!sample.is_empty());
    assert_eq!(written.ok().stdout, format!("{sample}\n"));
    assert_ne!(lines[0]["samples"], last["samples"]);

    // A run that goes on writes none of them twice, in its log and in its folder.
    watched.take_back("run");
    watched
        .train("run", &[&flags[..], &["--resume"]].concat())
        .ok();
    assert!(watched.place.adapter("run") == watched.place.adapter("plain"));
    for lines in [log_lines(&log), watched.metrics("run")] {
        assert_eq!(steps_of(&lines, "samples"), [0.0, 2.0, 4.0]);
        assert_eq!(steps_of(&lines, "loss"), [1.0, 2.0, 3.0, 4.0]);
    }
    let evaluations = watched.place.evaluations("run");
    assert_eq!(steps_of(&evaluations, "evaluation"), [2.0, 4.0]);
    assert_eq!(steps_of(&watched.metrics("run"), "evaluation"), [0.0; 0]);
    assert_eq!(steps_of(&watched.metrics("run"), "session"), [0.0, 2.0]);
}

#[test]
fn lines_of_a_text_are_prompts_without_data_to_evaluate() {
    let watched = Watched::new();
    let prompts = watched.place.file("prompts.txt", "1 and\n\n 2 and\n");
    let log = watched.place.path("log.jsonl");
    let mut command = support::train(&watched.model, &watched.rows, &watched.place.path("run"));
    command.args(["--seq-len", "64", "--steps", "3", "--eval-every", "2"]);
    command.args(["--sample-tokens", "2", "--sample-prompts"]);
    command.arg(prompts).arg("--log-json").arg(&log);
    support::run(&mut command).ok();
    let lines = log_lines(&log);
    assert_eq!(steps_of(&lines, "samples"), [0.0, 2.0, 3.0]);
    assert_eq!(lines[0]["samples"].as_array().unwrap().len(), 2);
    assert_eq!(lines[0]["samples"][1]["prompt"], " 2 and");
}

#[test]
fn what_is_no_prompt_is_refused_before_anything_is_written() {
    let watched = Watched::new();
    let refused = |name: &str, text: &str, needles: &[&str]| {
        let file = watched.place.file(name, text);
        let flags = ["--sample-prompts", file.to_str().unwrap()];
        watched.train("run", &flags).refused(needles);
        assert!(!watched.place.path("run").exists());
    };
    refused(
        "a.jsonl",
        "{\"prompt\":\"a\"}\n{\"answer\":\"b\"}\n",
        &["a.jsonl:2", "nothing to answer", "answer"],
    );
    refused(
        "b.jsonl",
        "{\"messages\":[{\"role\":\"assistant\",\"content\":\"b\"}]}",
        &["b.jsonl:1", "nothing to answer"],
    );
    refused("c.txt", " \n", &["c.txt", "no prompt"]);
    refused(
        "d.txt",
        &"long ".repeat(500),
        &["d.txt", "prompt 1", "shorter"],
    );
    let flags = ["--sample-tokens", "3"];
    watched.train("run", &flags).refused(&["--sample-prompts"]);
}

/// The events of a file: their steps, and the names of their numbers.
fn events(file: &Path) -> Vec<(u8, String)> {
    let bytes = fs::read(file).expect("read");
    let mut rest = &bytes[..];
    let mut events = Vec::new();
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        let message = &rest[12..12 + length];
        // Behind the time, a byte and eight; steps of one byte here.
        assert_eq!(message[0], 9);
        let step = if message[9] == 16 { message[10] } else { 0 };
        events.push((step, String::from_utf8_lossy(message).into_owned()));
        rest = &rest[12 + length + 4..];
    }
    events
}

#[test]
fn tensorboard_gets_every_step_once() {
    let watched = Watched::new();
    watched.train("plain", &[]).ok();
    assert!(!watched.place.path("plain/tensorboard").exists());
    let prompts = watched.place.file("prompts.txt", "3 and\n4 and\n");
    let prompts = prompts.to_str().unwrap();
    let flags = [
        "--tensorboard",
        "--sample-tokens",
        "2",
        "--sample-prompts",
        prompts,
    ];
    watched.train("run", &flags).ok();
    watched.take_back("run");
    watched
        .train("run", &[&flags[..], &["--resume"]].concat())
        .ok();
    let files = watched.place.listing("run/tensorboard");
    assert_eq!(files.len(), 2, "{files:?}");
    let events: Vec<Vec<(u8, String)>> = files
        .iter()
        .map(|name| events(&watched.place.path("run/tensorboard").join(name)))
        .collect();
    let of = |events: &[(u8, String)], name: &str| -> Vec<u8> {
        let events = events.iter().filter(|(_, text)| text.contains(name));
        events.map(|(step, _)| *step).collect()
    };
    for name in ["loss", "learning_rate", "grad_norm", "tokens_per_second"] {
        assert_eq!(of(&events[0], &format!("train/{name}")), [1, 2], "{name}");
        assert_eq!(of(&events[1], &format!("train/{name}")), [3, 4], "{name}");
    }
    assert_eq!(of(&events.concat(), "memory/peak_rss_bytes"), [1, 2, 3, 4]);
    assert_eq!(of(&events.concat(), "eval/loss"), [2, 4]);
    assert_eq!(of(&events.concat(), "eval/perplexity"), [2, 4]);
    assert_eq!(of(&events.concat(), "brain.Event:2"), [0, 0]);
    // A text for each of the two prompts in one event, at the start, at evaluations and at the end.
    assert_eq!(of(&events.concat(), "samples/2/text_summary"), [0, 2, 4]);
    let samples = events.concat();
    let mut samples = samples
        .iter()
        .filter(|(_, text)| text.contains("samples/1"));
    let (_, first) = samples.next().expect("one");
    assert!(
        first.contains("**prompt**\n\n    3 and\n\n**answer**"),
        "{first}"
    );
    // The second file says that what a reader has of step 3 on is void.
    assert_eq!(events[1][1].0, 3);

    // A folder is one run's, and one of the user's own may be named, in a config file too.
    let board = watched.place.path("board");
    let config = format!("tensorboard = \"{}\"\n", board.display());
    let config = watched.place.file("board.toml", config);
    let named = ["--config", config.to_str().unwrap()];
    watched.train("named", &named).ok();
    assert_eq!(watched.place.listing("board").len(), 1);
    watched
        .train("other", &named)
        .refused(&["board", "another run"]);
    assert!(!watched.place.path("other").exists());
    let config = watched.place.file("own.toml", "tensorboard = true\n");
    watched
        .train("own", &["--config", config.to_str().unwrap()])
        .ok();
    assert_eq!(watched.place.listing("own/tensorboard").len(), 1);
}

/// Returns the texts of the cells of a table, line by line.
fn cells(page: &str, id: &str) -> Vec<Vec<String>> {
    let start = page.find(&format!("<table id=\"{id}\"")).expect("a table");
    let table = &page[start..][..page[start..].find("</table>").expect("its end")];
    let lines = table.split("<tr><td").skip(1).map(|line| {
        let line = line.split("</tr>").next().unwrap_or_default();
        let cells = line.split("</td>").filter_map(|cell| cell.split_once('>'));
        cells.map(|(_, text)| text.to_owned()).collect()
    });
    lines.collect()
}

#[test]
fn the_report_has_the_numbers_of_the_log() {
    let watched = Watched::new();
    let prompts = "{\"prompt\":\"<script>alert(1)</script>&\\u0000\\u202e\"}\n";
    let prompts = watched.place.file("prompts.jsonl", prompts);
    let flags = ["--sample-prompts", prompts.to_str().unwrap(), "--keep-best"];
    let name = "<b onload=\"x\">'&run";
    let run = watched.train(name, &flags).ok();
    let path = watched.place.path(name).join("report.html");
    assert!(run.stdout.contains("The report is in "), "{}", run.stdout);
    let page = || fs::read_to_string(&path).expect("written");
    let first = page();

    // As they are written: serde_json would read them to within a bit.
    let record = fs::read_to_string(watched.place.path(name).join("metrics.jsonl")).expect("read");
    let evaluations = watched.place.path(name).join("evaluations.json");
    let evaluations = fs::read_to_string(evaluations).expect("read");
    // An evaluation a line.
    let evaluations = evaluations.replace("{\"step\":", "\n{\"step\":");
    let record = record + &evaluations;
    let of = |key: &str, names: &[&str]| -> Vec<Vec<String>> {
        let lines = record
            .lines()
            .filter(|line| line.starts_with("{\"step\":") && line.contains(&format!("\"{key}\":")));
        let line = |line: &str| {
            let text = |name: &&str| {
                let (_, rest) = line.split_once(&format!("\"{name}\":")).expect("a number");
                rest.split([',', '}']).next().expect("its text").to_owned()
            };
            names.iter().map(text).collect()
        };
        lines.map(line).collect()
    };
    let lines = watched.metrics(name);
    let steps = [
        "step",
        "loss",
        "lr",
        "grad_norm",
        "tokens_per_second",
        "peak_rss_bytes",
    ];
    let evaluated = ["step", "nll", "perplexity", "seconds", "peak_rss_bytes"];
    assert_eq!(cells(&first, "steps"), of("loss", &steps));
    assert_eq!(cells(&first, "evaluations"), of("evaluation", &evaluated));
    for line in of("loss", &steps) {
        for (place, number) in line.iter().enumerate().skip(1) {
            let point = format!("<title>step {}: {number}</title>", line[0]);
            assert!(first.contains(&point), "{point}, column {place}");
        }
    }
    let planned = lines[0]["session"]["planned_bytes"].to_string();
    assert!(first.contains(&format!("<td>{planned}</td>")), "{planned}");
    let settings = fs::read(watched.place.path(name).join("run.json")).expect("read");
    let settings: Value = serde_json::from_slice(&settings).expect("JSON");
    for key in ["model-fingerprint", "data-fingerprint"] {
        let hash = settings[key].as_str().expect("a hash");
        assert!(first.contains(hash), "{key}");
    }
    let origin = settings["origin"].as_object().expect("an object");
    let file = origin["files"][0]["checksum"].as_str().expect("a hash");
    assert!(first.contains(file));
    for key in settings.as_object().expect("an object").keys() {
        let key = key.strip_suffix("-fingerprint").unwrap_or(key);
        let key = if key == "origin" { "directory" } else { key };
        assert!(
            first.contains(&format!("<th scope=\"row\">{key}</th>")),
            "{key}"
        );
    }

    // What a user or a model wrote is text, and the page needs nothing beside itself.
    let table = cells(&first, "samples");
    assert_eq!(
        table[0][0],
        "&lt;script&gt;alert(1)&lt;&#x2f;script&gt;&amp;\\u{0}\\u{202e}"
    );
    assert!(first.contains("<h1>&lt;b onload=&quot;x&quot;&gt;&#x27;&amp;run</h1>"));
    for bad in [
        "<script", "<b ", "src=", "href=", "http:", "https:", "@import", "url(",
    ] {
        assert!(!first.contains(bad), "{bad}");
    }
    assert!(first.contains("prefers-color-scheme: dark"));
    assert_eq!(first.matches("<svg").count(), 5);
    assert_eq!(first.matches("<desc").count(), 5);

    // Made again it is the same, and elsewhere if the user says so.
    fs::remove_file(&path).expect("removed");
    crate::finetune!("report", &watched.place.path(name)).ok();
    assert!(page() == first);
    let elsewhere = watched.place.path("page.html");
    let dir = watched.place.path(name);
    crate::finetune!("report", &dir, "--output", &elsewhere).ok();
    assert!(fs::read_to_string(elsewhere).expect("written") == first);
    let none = watched.place.path("none");
    crate::finetune!("report", &none).refused(&["none", "run.json"]);
    fs::write(dir.join("metrics.jsonl"), "{\"step\":1}\n").expect("written");
    crate::finetune!("report", &dir).refused(&["metrics.jsonl:1"]);
    fs::remove_file(dir.join("metrics.jsonl")).expect("removed");
    crate::finetune!("report", &dir).refused(&["older version"]);
}

/// As versions wrote it: losses alone, with the evaluations in the record.
#[test]
fn evaluations_of_older_versions_are_in_the_report() {
    let watched = Watched::new();
    watched.train("run", &[]).ok();
    let dir = watched.place.path("run");
    let shown = || {
        crate::finetune!("report", &dir).ok();
        let page = fs::read_to_string(dir.join("report.html")).expect("written");
        cells(&page, "evaluations")
    };
    let whole = shown();
    let evaluations = watched.place.evaluations("run");
    assert_eq!((whole.len(), evaluations.len()), (2, 2));
    let file = dir.join("evaluations.json");
    let text = fs::read(&file).expect("read");
    let record: Value = serde_json::from_slice(&text).expect("JSON");
    let alone = whole.iter();
    let alone = alone.map(|line| format!("{{\"step\":{},\"nll\":{}}}", line[0], line[1]));
    let alone = alone.collect::<Vec<_>>().join(",");
    let old = format!("{{\"rows\":{},\"evaluations\":[{alone}]}}", record["rows"]);
    fs::write(&file, old).expect("written");
    for (found, whole) in shown().iter().zip(&whole) {
        assert_eq!(found[..2], whole[..2]);
        assert_eq!(found[2..], ["", "", ""]);
    }
    let metrics = dir.join("metrics.jsonl");
    let mut lines = fs::read_to_string(&metrics).expect("read");
    for (one, line) in evaluations.iter().zip(&whole) {
        lines += &format!(
            "{{\"step\":{},\"evaluation\":{{\"nll\":{},\"perplexity\":{},\"tokens\":{}}},\"seconds\":{},\"peak_rss_bytes\":{}}}\n",
            line[0], line[1], line[2], one["evaluation"]["tokens"], line[3], line[4]
        );
    }
    fs::write(metrics, lines).expect("written");
    assert_eq!(shown(), whole);
}
