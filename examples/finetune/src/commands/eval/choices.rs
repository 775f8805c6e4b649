use anyhow::Result;
use burn_finetune::{ChoiceReport, Shots, SubjectReport, score_choices};
use serde::Serialize;

use crate::commands::with_dtype;
use crate::console::say;
use crate::opened_model::{OpenedModel, tell_all};
use crate::progress;
use crate::run::{EvalRun, Examples};

/// The object of `--json`.
#[derive(Serialize)]
struct Measured {
    #[serde(flatten)]
    choices: ChoiceReport,
    /// Examples before each question.
    shots: usize,
}

/// Measures how often the likeliest choice is the right one.
///
/// # Errors
/// As [`run`](super::run); too few examples.
pub fn measure(run: &EvalRun, examples: Option<&Examples>, opened: &OpenedModel) -> Result<String> {
    let encoder = opened.encoder(run.limits)?;
    let shots = examples.map(|examples| -> Result<_> {
        Ok(Shots {
            sources: examples.data.sources()?,
            count: examples.count,
        })
    });
    let spinner = progress::spinner("read the questions".into());
    let data = encoder.choice_data(run.data.sources()?, shots.transpose()?, run.max_rows)?;
    spinner.finish_and_clear();
    tell_all(data.warnings());
    let llama = opened.load_with_adapter(run.adapter.as_deref(), &run.model.device)?;
    opened.tell_of_second_quantization();
    let scores = progress::counted("questions", |told| {
        score_choices(&llama, &data, run.batch_size, told)
    });
    let scores = scores.map_err(|error| with_dtype(error.into(), run.model.compute_dtype))?;
    let choices = data.report(&scores);
    let shots = examples.map_or(0, |examples| examples.count);
    say!("computed in {}", run.model.compute_dtype);
    say!("task        {}, {shots} shots", choices.task.name());
    say!("questions   {}", choices.all.questions);
    for (name, share, stderr) in metrics(&choices.all) {
        say!("{name:<11} {}", percent(share, stderr));
    }
    for (name, subject) in &choices.subjects {
        let acc = percent(subject.acc, subject.acc_stderr);
        say!("  {name}: {acc} of {}", subject.questions);
    }
    Ok(serde_json::to_string(&Measured { choices, shots })?)
}

/// Returns the metrics by the harness's names, with their standard errors.
fn metrics(report: &SubjectReport) -> [(&'static str, f64, Option<f64>); 3] {
    [
        ("acc", report.acc, report.acc_stderr),
        ("acc_norm", report.acc_norm, report.acc_norm_stderr),
        ("acc_bytes", report.acc_bytes, report.acc_bytes_stderr),
    ]
}

fn percent(share: f64, stderr: Option<f64>) -> String {
    match stderr {
        Some(stderr) => format!("{:.2} % ± {:.2}", 100.0 * share, 100.0 * stderr),
        None => format!("{:.2} %", 100.0 * share),
    }
}
