//! Questions with choices have the tokens, log-likelihoods and metrics that lm-evaluation-harness gives them.

use std::fs;

use burn_finetune::{
    ChoiceData, ChoiceReport, Learn, RowEncoder, Shots, Sources, SubjectReport, score_choices,
};
use burn_qlora_llama::Checkpoint;
use qlora_test_support::{Tolerance, assert_close, fixture, json};
use qlora_tests::{devices, model};
use serde_json::Value;

/// A recorded case.
struct Case(Value);

impl Case {
    fn name(&self) -> &str {
        self.0["name"].as_str().expect("a name")
    }

    fn rows(&self) -> &[Value] {
        self.0["rows"].as_array().expect("rows")
    }

    fn number(&self, key: &str) -> usize {
        self.0[key].as_u64().expect("a number") as usize
    }

    /// Returns the case's questions as they are read here.
    fn data(&self) -> ChoiceData {
        let folder = tempfile::tempdir().expect("a temporary directory");
        for (from, name) in [
            ("tiny_llama", "config.json"),
            ("tiny_llama", "model.safetensors"),
            ("choices", "tokenizer.json"),
        ] {
            let copied = fs::copy(fixture(from).join(name), folder.path().join(name));
            copied.expect("copies");
        }
        let checkpoint = Checkpoint::open(folder.path()).expect("opens");
        let tokenizer = checkpoint.tokenizer().expect("has a tokenizer");
        let max_len = self.number("max_len");
        let encoder = RowEncoder {
            tokenizer: &tokenizer,
            template: None,
            eos: None,
            vocab_size: Some(checkpoint.config().vocab_size),
            learn: Learn::AllAnswers,
            max_len,
            truncate: max_len < checkpoint.config().context_len(),
        };
        let file = self.0["file"].as_str().expect("a file");
        let sources = |name: String| Sources::file(fixture("choices").join(name));
        let shots = sources(format!("{file}_shots.jsonl"));
        let shots = Shots {
            sources: &shots,
            count: self.number("shots"),
        };
        let data = encoder.choice_data(&sources(format!("{file}.jsonl")), Some(shots), usize::MAX);
        data.unwrap_or_else(|error| panic!("{}: {error}", self.name()))
    }

    fn check_tokens(&self, data: &ChoiceData) {
        let ids =
            |ids: &Value| -> Vec<u32> { serde_json::from_value(ids.clone()).expect("token ids") };
        assert_eq!(data.len(), self.rows().len());
        for (asked, row) in data.tokens().zip(self.rows()) {
            let context = ids(&row["context_ids"]);
            let recorded = row["continuation_ids"].as_array().expect("continuations");
            let found = asked.iter().flat_map(|asked| {
                let choices = asked.continuations.iter();
                choices.map(|choice| (&asked.context, choice))
            });
            let found: Vec<_> = found.collect();
            assert_eq!(found.len(), recorded.len(), "{}", self.name());
            for ((before, choice), recorded) in found.into_iter().zip(recorded) {
                assert_eq!(*choice, ids(recorded), "{}: {row}", self.name());
                // The harness leaves out what a model does not take.
                let room = self.number("max_len") + 1 - choice.len();
                let kept = context.len().saturating_sub(room);
                assert_eq!(*before, context[kept..], "{}: {row}", self.name());
            }
        }
    }

    fn check_metrics(&self, report: &ChoiceReport) {
        check(self.name(), &report.all, &self.0["metrics"]);
        let subjects = self.0["subjects"].as_object().expect("subjects");
        assert_eq!(report.subjects.len(), subjects.len());
        for (subject, recorded) in subjects {
            check(subject, &report.subjects[subject], recorded);
        }
    }
}

fn check(what: &str, found: &SubjectReport, recorded: &Value) {
    for (name, found) in [
        ("acc", Some(found.acc)),
        ("acc_stderr", found.acc_stderr),
        ("acc_norm", Some(found.acc_norm)),
        ("acc_norm_stderr", found.acc_norm_stderr),
        ("acc_bytes", Some(found.acc_bytes)),
        ("acc_bytes_stderr", found.acc_bytes_stderr),
    ] {
        let recorded = recorded[name].as_f64().expect("is recorded");
        let found = found.expect("there are several questions");
        // Sums of f64 in another order.
        assert!(
            (found - recorded).abs() < 1e-12,
            "{what}: {name}: {found}, {recorded}"
        );
    }
}

fn cases() -> Vec<Case> {
    let recorded = json("choices/recorded.json");
    let cases = recorded.as_array().expect("cases").iter();
    cases.cloned().map(Case).collect()
}

#[test]
fn tokens_are_those_of_the_harness() {
    let cases = cases();
    for case in &cases {
        case.check_tokens(&case.data());
    }
    let contexts = cases.iter().flat_map(|case| case.rows());
    let spaces = contexts.filter(|row| row["context"].as_str().expect("a text").ends_with(' '));
    assert!(
        spaces.count() > 0,
        "spaces go over to the choices somewhere"
    );
}

#[test]
fn likelihoods_and_metrics_are_those_of_the_harness() {
    for test in devices() {
        let model = model("tiny_llama", &test.device);
        for case in cases() {
            let data = case.data();
            // Elsewhere a batch takes a second, and only its sums are at stake.
            let sizes: &[usize] = if test.is_flex() { &[1, 4] } else { &[4] };
            for &batch_size in sizes {
                let mut told = Vec::new();
                let scores = score_choices(&model, &data, batch_size, &mut |done, all| {
                    told.push((done, all));
                });
                let scores = scores.expect("scores");
                assert_eq!(told.last(), Some(&(data.len(), data.len())));
                for (found, row) in scores.iter().zip(case.rows()) {
                    let recorded = row["log_likelihoods"].as_array().expect("numbers");
                    let recorded: Vec<f64> = recorded.iter().filter_map(Value::as_f64).collect();
                    let found: Vec<f32> = found.iter().map(|score| *score as f32).collect();
                    let what = format!("{} on {}", case.name(), test.name);
                    assert_close(&what, &found, &recorded, tolerance(test.is_flex()));
                }
                if test.is_flex() {
                    case.check_metrics(&data.report(&scores));
                }
            }
        }
    }
}

fn tolerance(is_flex: bool) -> Tolerance {
    if is_flex {
        Tolerance::of_each(1e-5, "logits are within 1.2e-5 of an f64 recomputation")
    } else {
        Tolerance::of_each(1e-4, "GPUs contract and approximate")
    }
}
