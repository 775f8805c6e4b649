//! `finetune report`: a run on one page.

use anyhow::Result;

use crate::console::say;
use crate::page;
use crate::run::ReportRun;

/// Writes the page.
///
/// # Errors
/// A folder without a run, or whose record cannot be read; a file that cannot be written.
pub fn run(run: &ReportRun) -> Result<()> {
    let path = page::write(&run.run, run.output.as_deref())?;
    say!("The report is in {}", path.display());
    Ok(())
}
