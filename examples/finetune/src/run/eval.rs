use std::path::PathBuf;

use anyhow::{Context, Result};

use burn_finetune::ExampleKind;

use super::data_files::DataFiles;
use super::model::Model;
use super::rows::RowLimits;
use crate::flags::EvalFlags;

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
    /// Whether the model also answers the prompts.
    pub exact_match: bool,
    /// Whether to print a JSON object.
    pub json: bool,
}

impl EvalRun {
    /// Resolves the flags.
    ///
    /// # Errors
    /// No data, and as [`Model`]'s.
    pub fn resolve(flags: EvalFlags) -> Result<Self> {
        let data = DataFiles::resolve(flags.data, &[], &flags.rows.columns, ExampleKind::Texts)?;
        Ok(Self {
            data: data.context("no data is given; name a file with --data")?,
            model: Model::resolve(flags.model.base)?,
            adapter: flags.model.adapter,
            limits: flags.rows.into(),
            batch_size: flags.batch_size,
            max_rows: flags.max_rows.unwrap_or(usize::MAX),
            exact_match: flags.exact_match,
            json: flags.json,
        })
    }
}
