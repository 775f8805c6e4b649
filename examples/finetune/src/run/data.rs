use anyhow::{Context, Result};

use super::data_files::DataFiles;
use super::train::{Training, training_data};
use crate::flags::DataFlags;

/// `finetune data`.
#[derive(Debug)]
pub struct DataRun {
    /// The run that the data is for.
    pub training: Training,
    /// The rows to look at.
    pub data: DataFiles,
    /// The share of the examples that are held out from training.
    pub eval_split: Option<f64>,
    /// Rows to print.
    pub show: usize,
    /// Whether to print a JSON object.
    pub json: bool,
}

impl DataRun {
    /// Resolves the flags.
    ///
    /// # Errors
    /// No data, and as [`Training`]'s.
    pub fn resolve(mut flags: DataFlags) -> Result<Self> {
        let data = training_data(&mut flags.train)?;
        Ok(Self {
            data: data.context("no data is given; name a file with --data")?,
            eval_split: flags.train.eval_split,
            show: flags.show,
            json: flags.json,
            training: Training::resolve(flags.train)?,
        })
    }
}
