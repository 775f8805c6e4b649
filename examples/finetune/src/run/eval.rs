use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use burn_finetune::{ExampleKind, Learn, Objective};

use super::data_files::DataFiles;
use super::model::Model;
use super::objective;
use super::rows::RowLimits;
use crate::flags::EvalFlags;

/// Most tokens of an answer that is written, unless `--max-tokens` says otherwise.
const MAX_TOKENS: usize = 256;

/// `finetune eval`.
#[derive(Debug)]
pub struct EvalRun {
    /// The model.
    pub model: Model,
    /// peft directory of its adapter.
    pub adapter: Option<PathBuf>,
    /// The rows to measure on.
    pub data: DataFiles,
    /// The limits of the rows.
    pub limits: RowLimits,
    /// Rows measured at once.
    pub batch_size: usize,
    /// Most rows to measure.
    pub max_rows: usize,
    /// What is measured.
    pub measure: Measure,
    /// Whether to print a JSON object.
    pub json: bool,
}

/// What is measured of rows.
#[derive(Debug)]
pub enum Measure {
    /// The likelihood of texts and answers, and what the model answers itself.
    Likelihood(Answering),
    /// Preferences.
    Preferences(Objective),
    /// Questions with choices.
    Choices(Option<Examples>),
}

/// What becomes of the model's own answers.
#[derive(Debug, Default)]
pub struct Answering {
    /// Whether they are compared with the expected ones.
    pub exact_match: bool,
    /// The file that they are written to.
    pub written: Option<Written>,
}

/// A file of answers.
#[derive(Debug)]
pub struct Written {
    /// Where it is.
    pub path: PathBuf,
    /// The most tokens of an answer.
    pub max_tokens: usize,
}

/// Questions with their answers that stand before every question.
#[derive(Debug)]
pub struct Examples {
    /// Their files.
    pub data: DataFiles,
    /// How many there are.
    pub count: usize,
}

impl EvalRun {
    /// Resolves the flags.
    ///
    /// # Errors
    /// No data, flags that do not go together, and as [`Model`]'s.
    pub fn resolve(flags: EvalFlags) -> Result<Self> {
        let (measure, kind) = measure(&flags)?;
        let data = DataFiles::resolve(flags.data, &[], &flags.rows.columns, kind)?;
        let limits = RowLimits::from(flags.rows);
        Ok(Self {
            data: data.context("no data is given; name a file with --data")?,
            model: Model::resolve(flags.model.base)?.with_kv_cache(&flags.kv_cache)?,
            adapter: flags.model.adapter,
            limits: match measure {
                // Examples before a question are long, and are cut nowhere.
                Measure::Choices(_) => limits.of_whole_context(),
                _ => limits,
            },
            batch_size: flags.batch_size,
            max_rows: flags.max_rows.unwrap_or(usize::MAX),
            measure,
            json: flags.json,
        })
    }
}

/// Returns what the flags ask to be measured, and the rows that it is measured on.
fn measure(flags: &EvalFlags) -> Result<(Measure, ExampleKind)> {
    let objective = objective::resolve(&flags.objective, &flags.rows)?;
    let answering = answering(flags)?;
    let answers = answering.exact_match || answering.written.is_some();
    if flags.choices {
        ensure!(
            objective == Objective::Sft && !answers,
            "--choices measures how likely given answers are; leave --objective, --exact-match and --generate to a run of their \
             own"
        );
        ensure!(
            flags.rows.columns.is_empty() && flags.rows.learn == Learn::AllAnswers,
            "--choices reads the published columns and asks for whole choices; leave --columns and --learn out"
        );
        return Ok((Measure::Choices(examples(flags)?), ExampleKind::Texts));
    }
    ensure!(
        flags.shots.is_none() && flags.shots_data.is_empty(),
        "--shots and --shots-data belong to --choices; give that, or leave them out"
    );
    if objective == Objective::Sft {
        return Ok((Measure::Likelihood(answering), ExampleKind::Texts));
    }
    ensure!(
        !answers,
        "--exact-match and --generate belong to --objective sft, and this is --objective {}; measure them in a run of their own",
        objective.name()
    );
    ensure!(
        flags.model.adapter.is_some() || !objective.needs_reference(),
        "--objective {} holds a model with an adapter against the same without; name one with --adapter, or give --objective \
         orpo, which has no reference",
        objective.name()
    );
    Ok((Measure::Preferences(objective), objective.examples()))
}

fn answering(flags: &EvalFlags) -> Result<Answering> {
    ensure!(
        flags.generate.is_some() || flags.max_tokens.is_none(),
        "--max-tokens belongs to --generate; give that, or leave it out"
    );
    Ok(Answering {
        exact_match: flags.exact_match,
        written: flags.generate.clone().map(|path| Written {
            path,
            max_tokens: flags.max_tokens.unwrap_or(MAX_TOKENS),
        }),
    })
}

fn examples(flags: &EvalFlags) -> Result<Option<Examples>> {
    let names = flags.shots_data.clone();
    let data = DataFiles::resolve(names, &[], &[], ExampleKind::Texts)?;
    match (flags.shots, data) {
        (Some(count), Some(data)) => Ok(Some(Examples { data, count })),
        (None, None) => Ok(None),
        (Some(count), None) => {
            bail!("--shots {count} has no examples to take; name their file with --shots-data")
        }
        (None, Some(_)) => {
            bail!("--shots-data is not read without --shots N, the examples to take")
        }
    }
}
