use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::flags::ReportFlags;

/// `finetune report`.
#[derive(Debug)]
pub struct ReportRun {
    /// The run's folder.
    pub run: PathBuf,
    /// The file to write, if not the one in that folder.
    pub output: Option<PathBuf>,
}

impl ReportRun {
    /// Resolves the flags.
    ///
    /// # Errors
    /// No run.
    pub fn resolve(flags: ReportFlags) -> Result<Self> {
        Ok(Self {
            run: flags
                .run
                .context("no run is given; name its output directory")?,
            output: flags.output,
        })
    }
}
