//! What the page says, from what the run's folder holds.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use burn_finetune::{EvalResult, Evaluation, RunRecord, StepReport};
use serde::Serialize;
use serde_json::{Map, Value};

use super::chart::{Chart, Number, Series};
use super::ticks::label;
use crate::metrics::{Metrics, Session};
use crate::origin::Origin;
use crate::progress::human_bytes;
use crate::report::words;
use crate::samples::SampleReport;
use crate::shown_rows::visible;

/// Most points of a curve and lines of the table of numbers; a longer run shows every second step, and so on.
const MOST_POINTS: usize = 400;

/// The key of a fingerprint in `run.json` ends so.
const FINGERPRINT: &str = "-fingerprint";

/// The page.
#[derive(Debug, Serialize)]
pub struct Content {
    /// The run's folder.
    name: String,
    /// What was trained on what, and how far.
    lead: String,
    tiles: Vec<Fact>,
    charts: Vec<Chart>,
    samples: Vec<Compared>,
    /// The steps of the samples that are compared.
    compared: [usize; 2],
    /// All of them, by their steps.
    all_samples: Vec<SamplesOf>,
    sections: Vec<Section>,
    /// Steps from one line of numbers to the next.
    stride: usize,
    numbers: Vec<Numbers>,
    evaluations: Vec<EvaluationNumbers>,
}

/// A thing and its value.
#[derive(Debug, Serialize)]
struct Fact {
    name: String,
    value: String,
}

/// Facts under a heading.
#[derive(Debug, Serialize)]
struct Section {
    title: &'static str,
    facts: Vec<Fact>,
}

/// A prompt with the answers before and after training.
#[derive(Debug, Serialize)]
struct Compared {
    prompt: String,
    before: String,
    after: String,
}

/// The answers after a step.
#[derive(Debug, Serialize)]
struct SamplesOf {
    step: usize,
    seconds: String,
    texts: Vec<String>,
}

/// The numbers of a step, as the record has them.
#[derive(Debug, Serialize)]
struct Numbers {
    step: usize,
    loss: String,
    lr: String,
    grad_norm: String,
    tokens_per_second: String,
    memory: String,
}

/// Those of an evaluation.
#[derive(Debug, Serialize)]
struct EvaluationNumbers {
    step: usize,
    loss: String,
    perplexity: String,
    seconds: String,
    memory: String,
}

impl Content {
    /// Reads the run in the folder `run`.
    ///
    /// # Errors
    /// A folder without a run, or one whose record cannot be read or has no step.
    pub fn read(run: &Path) -> Result<Self> {
        let record = RunRecord::read(run)?;
        let metrics = Metrics::read_with_evaluations(&record)?.with_context(|| {
            format!(
                "{} has no record of its steps: it was trained by an older version",
                run.display()
            )
        })?;
        let (Some(last), Some(session)) = (metrics.steps.last(), metrics.sessions.last()) else {
            return Err(anyhow!(
                "the run in {} has taken no step yet",
                run.display()
            ));
        };
        Ok(Self::of(&record, &metrics, last, &session.session))
    }

    fn of(record: &RunRecord, metrics: &Metrics, last: &StepReport, session: &Session) -> Self {
        let (run, settings) = (record.path(), record.settings());
        let stride = metrics.steps.len().div_ceil(MOST_POINTS).max(1);
        let ends = metrics.steps.len() - 1;
        let steps = metrics.steps.iter().enumerate();
        let steps = steps.filter(|(place, _)| place % stride == 0 || *place == ends);
        let steps: Vec<&StepReport> = steps.map(|(_, step)| step).collect();
        let after = final_step(metrics, last, session);
        let (compared, samples) = compared(&metrics.samples, after);
        let shown = |key: &str| shown(settings.get(key).unwrap_or(&Value::Null));
        Self {
            name: words(&run.file_name().unwrap_or(run.as_os_str()).to_string_lossy()),
            lead: format!(
                "{} on {}: {} of {} steps",
                shown("model"),
                shown("data"),
                last.step,
                session.steps
            ),
            tiles: tiles(metrics, last, session),
            charts: charts(&steps, metrics, session),
            samples,
            compared,
            all_samples: metrics.samples.iter().map(samples_of).collect(),
            sections: sections([
                data(settings, session),
                memory(metrics, session),
                config(settings),
                fingerprints(settings, session),
                origin(record),
                processes(metrics),
            ]),
            stride,
            numbers: steps.into_iter().map(numbers).collect(),
            evaluations: metrics.evaluations.iter().map(evaluation).collect(),
        }
    }
}

/// Returns the step whose adapter the run ends with, as far as it has come.
fn final_step(metrics: &Metrics, last: &StepReport, session: &Session) -> usize {
    let best = Evaluation::best(&metrics.evaluations).filter(|_| session.keep_best);
    best.map_or(last.step, |best| best.step)
}

/// Puts the first samples beside those after the step `after`, or else the last ones.
fn compared(samples: &[SampleReport], after: usize) -> ([usize; 2], Vec<Compared>) {
    let before = samples.first();
    let found = samples.iter().find(|report| report.step == after);
    let (Some(before), Some(after)) = (before, found.or(samples.last())) else {
        return ([0; 2], Vec::new());
    };
    let of = |report: &SampleReport, prompt: &str| {
        let mut samples = report.samples.iter();
        let sample = samples.find(|sample| sample.prompt == prompt);
        sample.map_or_else(String::new, |sample| visible(&sample.text))
    };
    let compared = after.samples.iter().map(|sample| Compared {
        prompt: visible(&sample.prompt),
        before: of(before, &sample.prompt),
        after: visible(&sample.text),
    });
    ([before.step, after.step], compared.collect())
}

fn samples_of(report: &SampleReport) -> SamplesOf {
    SamplesOf {
        step: report.step,
        seconds: exact(report.seconds),
        texts: report
            .samples
            .iter()
            .map(|one| visible(&one.text))
            .collect(),
    }
}

fn tiles(metrics: &Metrics, last: &StepReport, session: &Session) -> Vec<Fact> {
    let mut tiles = Vec::new();
    if let Some(first) = metrics.steps.first() {
        tiles.push(fact(
            "training loss",
            format!("{:.4} to {:.4}", first.loss, last.loss),
        ));
    }
    if let Some(best) = Evaluation::best(&metrics.evaluations) {
        tiles.push(fact(
            "held-out loss, lowest",
            format!("{:.4} at step {}", best.loss(), best.step),
        ));
    }
    let mut speeds: Vec<f64> = metrics
        .steps
        .iter()
        .map(|step| step.tokens_per_second)
        .collect();
    speeds.sort_by(f64::total_cmp);
    if let Some(median) = speeds.get(speeds.len() / 2) {
        tiles.push(fact("median step", format!("{median:.0} tokens/s")));
    }
    if let Some(measured) = measured(metrics, session) {
        tiles.push(fact("peak memory", human_bytes(measured)));
    }
    tiles.push(fact("trained parameters", session.parameters.to_string()));
    tiles
}

fn charts(steps: &[&StepReport], metrics: &Metrics, session: &Session) -> Vec<Chart> {
    let of = |value: &dyn Fn(&StepReport) -> Option<f64>| -> Vec<Number> {
        let numbers = steps.iter().filter_map(|step| {
            let value = value(step)?;
            Some(Number {
                step: step.step,
                value,
                text: exact(value),
            })
        });
        numbers.collect()
    };
    let held_out = metrics.evaluations.iter().map(|line| Number {
        step: line.step,
        value: line.loss(),
        text: exact(line.loss()),
    });
    let bytes = |step: &StepReport| memory_of(step, session);
    let in_bytes = steps.iter().filter_map(|step| {
        let bytes = bytes(step)?;
        Some(Number {
            step: step.step,
            value: bytes as f64,
            text: bytes.to_string(),
        })
    });
    let planned = format!("planned {}", human_bytes(session.planned_bytes));
    let whole = |number: f64| human_bytes(number.max(0.0) as u64);
    let series = [
        Series {
            id: "loss",
            title: "Loss",
            lines: vec![
                ("training", of(&|step| Some(step.loss))),
                ("held out", held_out.collect()),
            ],
            from_zero: false,
            limit: None,
            show: &label,
        },
        Series {
            id: "lr",
            title: "Learning rate",
            lines: vec![("learning rate", of(&|step| Some(step.lr)))],
            from_zero: true,
            limit: None,
            show: &label,
        },
        Series {
            id: "grad-norm",
            title: "Gradient norm, before clipping",
            lines: vec![("gradient norm", of(&|step| Some(step.grad_norm)))],
            from_zero: true,
            limit: None,
            show: &label,
        },
        Series {
            id: "throughput",
            title: "Tokens a second",
            lines: vec![("tokens a second", of(&|step| Some(step.tokens_per_second)))],
            from_zero: true,
            limit: None,
            show: &label,
        },
        Series {
            id: "memory",
            title: "Peak memory, measured against planned",
            lines: vec![("measured", in_bytes.collect())],
            from_zero: true,
            limit: Some((session.planned_bytes as f64, planned)),
            show: &whole,
        },
    ];
    series.into_iter().filter_map(Series::chart).collect()
}

/// Returns the memory that the plan is for, as a step measured it.
fn memory_of(step: &StepReport, session: &Session) -> Option<u64> {
    if session.planned_of_process {
        step.peak_rss_bytes
    } else {
        step.peak_device_bytes
    }
}

/// Returns the peak of the memory that the plan is for.
fn measured(metrics: &Metrics, session: &Session) -> Option<u64> {
    let steps = metrics.steps.iter();
    let steps = steps.filter_map(|step| memory_of(step, session)).max();
    if !session.planned_of_process {
        return steps;
    }
    let evaluations = metrics.evaluations.iter();
    let evaluations = evaluations.filter_map(|line| line.peak_rss_bytes).max();
    let samples = metrics.samples.iter();
    let samples = samples.filter_map(|report| report.peak_rss_bytes).max();
    steps.max(evaluations).max(samples)
}

/// Returns those that say something.
fn sections(all: impl IntoIterator<Item = Section>) -> Vec<Section> {
    let all = all.into_iter();
    all.filter(|section| !section.facts.is_empty()).collect()
}

fn data(settings: &Map<String, Value>, session: &Session) -> Section {
    let mut facts = vec![
        fact("data", shown(settings.get("data").unwrap_or(&Value::Null))),
        fact("rows", session.rows.to_string()),
        fact("examples", session.examples.to_string()),
        fact("tokens", session.tokens.to_string()),
        fact("tokens that are learnt", session.targets.to_string()),
        fact("longest row, tokens", session.longest.to_string()),
        fact("examples left out", session.left_out.to_string()),
    ];
    if session.held_out_rows > 0 {
        facts.push(fact("rows held out", session.held_out_rows.to_string()));
    }
    Section {
        title: "Data",
        facts,
    }
}

fn memory(metrics: &Metrics, session: &Session) -> Section {
    let mut facts = vec![fact(
        "planned peak, bytes",
        session.planned_bytes.to_string(),
    )];
    if let Some(measured) = measured(metrics, session) {
        facts.push(fact("measured peak, bytes", measured.to_string()));
    }
    let last = metrics.steps.last();
    facts.extend(last.map(|step| {
        fact(
            "optimizer's state, bytes",
            step.optimizer_state_bytes.to_string(),
        )
    }));
    Section {
        title: "Memory",
        facts,
    }
}

fn config(settings: &Map<String, Value>) -> Section {
    let kept = settings
        .iter()
        .filter(|(key, _)| !key.ends_with(FINGERPRINT) && *key != Origin::KEY);
    Section {
        title: "Configuration",
        facts: kept.map(|(key, value)| fact(key, shown(value))).collect(),
    }
}

fn fingerprints(settings: &Map<String, Value>, session: &Session) -> Section {
    let of = |key: &str| key.strip_suffix(FINGERPRINT).map(words);
    let known = settings.iter();
    let known = known.filter_map(|(key, value)| Some(fact(&of(key)?, shown(value))));
    let held_out = session.held_out_fingerprint.as_ref();
    let held_out = held_out.map(|hash| fact("held-out rows", words(hash)));
    Section {
        title: "Fingerprints",
        facts: known.chain(held_out).collect(),
    }
}

fn origin(record: &RunRecord) -> Section {
    let origin = Origin::of(record).ok();
    let facts = origin.map_or_else(Vec::new, |origin| {
        let mut facts = vec![
            fact("finetune", words(&origin.program.version)),
            fact("directory", words(&origin.directory)),
            fact("command", words(&origin.command())),
        ];
        facts.extend(origin.files.iter().map(|file| {
            let name = format!("{} {}", file.of, words(&file.path));
            fact(&name, words(&file.checksum))
        }));
        facts
    });
    Section {
        title: "Origin",
        facts,
    }
}

fn processes(metrics: &Metrics) -> Section {
    let facts = metrics.sessions.iter().map(|line| {
        let Session { time, version, .. } = &line.session;
        fact(
            &words(time),
            format!(
                "from step {} on, finetune {}",
                line.step + 1,
                words(version)
            ),
        )
    });
    Section {
        title: "Processes",
        facts: facts.collect(),
    }
}

fn numbers(step: &StepReport) -> Numbers {
    let memory = step.peak_device_bytes.or(step.peak_rss_bytes);
    Numbers {
        step: step.step,
        loss: exact(step.loss),
        lr: exact(step.lr),
        grad_norm: exact(step.grad_norm),
        tokens_per_second: exact(step.tokens_per_second),
        memory: memory.map_or_else(String::new, |bytes| bytes.to_string()),
    }
}

fn evaluation(evaluation: &Evaluation) -> EvaluationNumbers {
    let memory = evaluation.peak_rss_bytes;
    EvaluationNumbers {
        step: evaluation.step,
        loss: exact(evaluation.loss()),
        perplexity: match &evaluation.result {
            EvalResult::Texts(report) => exact(report.perplexity),
            EvalResult::Preferences(_) | EvalResult::Loss { .. } => String::new(),
        },
        seconds: evaluation.seconds.map_or_else(String::new, exact),
        memory: memory.map_or_else(String::new, |bytes| bytes.to_string()),
    }
}

/// Returns a number as the record has it.
fn exact(number: f64) -> String {
    Value::from(number).to_string()
}

fn fact(name: &str, value: String) -> Fact {
    Fact {
        name: words(name),
        value,
    }
}

/// Returns a setting as it is printed.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "unset".to_owned(),
        Value::String(text) => words(text),
        other => words(&other.to_string()),
    }
}
