use super::read::{Asked, ChoiceData};
use super::task::ChoiceTask;
use serde::Serialize;
use std::collections::BTreeMap;

/// How often the likeliest choice is the right one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChoiceReport {
    /// What the rows are.
    pub task: ChoiceTask,
    /// All questions.
    #[serde(flatten)]
    pub all: SubjectReport,
    /// The questions of each subject, where there are several.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub subjects: BTreeMap<String, SubjectReport>,
}

/// How often the likeliest choice is the right one, among questions of a subject: the harness's metrics, each with the standard
/// error of a mean, which a single question has none of. Of choices that are as likely the first counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SubjectReport {
    /// By the log-likelihood of a choice, 0 to 1.
    pub acc: f64,
    /// Its standard error.
    pub acc_stderr: Option<f64>,
    /// By the log-likelihood over the number of its letters (code points).
    pub acc_norm: f64,
    /// Its standard error.
    pub acc_norm_stderr: Option<f64>,
    /// By the log-likelihood over the number of its bytes in UTF-8.
    pub acc_bytes: f64,
    /// Its standard error.
    pub acc_bytes_stderr: Option<f64>,
    /// Questions.
    pub questions: usize,
}

/// Whether a question was answered rightly, by each of the metrics.
type Right = [bool; 3];

/// A share of questions and its standard error.
#[derive(Debug, Clone, Copy)]
struct Share {
    mean: f64,
    stderr: Option<f64>,
}

impl ChoiceData {
    /// Returns what log-likelihoods of all choices, as [`score_choices`](crate::score_choices) gives them, say of a model.
    ///
    /// Of several subjects the standard error is the one that the harness gives a group of tasks: pooled from theirs.
    ///
    /// # Panics
    /// When they are not of these questions.
    pub fn report(&self, log_likelihoods: &[Vec<f64>]) -> ChoiceReport {
        assert_eq!(log_likelihoods.len(), self.len(), "each question has some");
        let mut by_subject: BTreeMap<Option<&str>, Vec<Right>> = BTreeMap::new();
        for (asked, scores) in self.asked.iter().zip(log_likelihoods) {
            let subject = by_subject.entry(asked.subject.as_deref());
            subject.or_default().push(right(asked, scores));
        }
        let of_each: Vec<(Option<&str>, [Share; 3])> = by_subject
            .iter()
            .map(|(subject, right)| (*subject, shares(right)))
            .collect();
        let sizes: Vec<usize> = by_subject.values().map(Vec::len).collect();
        let pooled = [0, 1, 2].map(|metric| {
            let shares: Vec<Share> = of_each.iter().map(|(_, shares)| shares[metric]).collect();
            Share::pooled(&shares, &sizes)
        });
        let subjects = of_each.iter().zip(&sizes).map(|((subject, shares), size)| {
            let name = subject.unwrap_or("without a subject").to_owned();
            (name, SubjectReport::of(*shares, *size))
        });
        ChoiceReport {
            task: self.task,
            all: SubjectReport::of(pooled, self.len()),
            subjects: match of_each.len() {
                0 | 1 => BTreeMap::new(),
                _ => subjects.collect(),
            },
        }
    }
}

fn right(asked: &Asked, scores: &[f64]) -> Right {
    let by = |weigh: &dyn Fn(f64, [usize; 2]) -> f64| {
        let scores = scores.iter().zip(&asked.lengths);
        let weighed = scores.map(|(score, lengths)| weigh(*score, *lengths));
        likeliest(weighed) == Some(asked.answer)
    };
    [
        by(&|score, _| score),
        by(&|score, [letters, _]| score / letters as f64),
        by(&|score, [_, bytes]| score / bytes as f64),
    ]
}

/// Returns the place of the first of the largest values.
fn likeliest(values: impl Iterator<Item = f64>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (place, value) in values.enumerate() {
        if best.is_none_or(|(_, most)| value > most) {
            best = Some((place, value));
        }
    }
    best.map(|(place, _)| place)
}

fn shares(right: &[Right]) -> [Share; 3] {
    [0, 1, 2].map(|metric| {
        let count = right.iter().filter(|right| right[metric]).count();
        Share::of(count, right.len())
    })
}

impl Share {
    fn of(count: usize, size: usize) -> Self {
        let n = size as f64;
        let mean = count as f64 / n;
        // The deviation of ones and zeros, with Bessel's correction.
        let squares = count as f64 * (1.0 - mean).powi(2) + (n - count as f64) * mean.powi(2);
        Self {
            mean,
            stderr: (size > 1).then(|| (squares / (n - 1.0)).sqrt() / n.sqrt()),
        }
    }

    /// Returns that of all, from those of each of several parts (the harness's `pooled_sample_stderr`).
    fn pooled(parts: &[Self], sizes: &[usize]) -> Self {
        let all = sizes.iter().sum::<usize>() as f64;
        let means = parts.iter().zip(sizes);
        let mean = means
            .map(|(part, size)| part.mean * *size as f64)
            .sum::<f64>()
            / all;
        if let [part] = parts {
            return Self { mean, ..*part };
        }
        let variances = parts.iter().zip(sizes).map(|(part, size)| {
            let size = *size as f64;
            part.stderr
                .map(|stderr| (size - 1.0) * stderr.powi(2) * size)
        });
        let variance: Option<f64> = variances.sum();
        let degrees = all - parts.len() as f64;
        Self {
            mean,
            stderr: variance.map(|sum| (sum / degrees / all).sqrt()),
        }
    }
}

impl SubjectReport {
    fn of([acc, norm, bytes]: [Share; 3], questions: usize) -> Self {
        Self {
            acc: acc.mean,
            acc_stderr: acc.stderr,
            acc_norm: norm.mean,
            acc_norm_stderr: norm.stderr,
            acc_bytes: bytes.mean,
            acc_bytes_stderr: bytes.stderr,
            questions,
        }
    }
}
