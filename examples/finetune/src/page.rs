//! `report.html`: a run on one page, without a network and without a script.
//!
//! Everything is read back from the run's folder, so that the page of a run that was stopped, killed and gone on with shows
//! all of it. Numbers stand on it as they stand in the record.

/// Plots.
mod chart;
/// What the page says.
mod content;
/// Ticks of an axis.
mod ticks;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use minijinja::value::Serde;
use minijinja::{Environment, context};
use tensor_files::{AtomicFile, LockedFile};

use content::Content;

/// The file's name in a run's folder.
pub const FILE: &str = "report.html";

/// Its name ends so that all text in it is escaped.
const TEMPLATE: (&str, &str) = ("report.html", include_str!("page/report.html"));

/// Writes the page of the run in the folder `run` to `output`, and returns where it is.
///
/// # Errors
/// A folder without a run, one whose record cannot be read or has no step; a file that cannot be written.
pub fn write(run: &Path, output: Option<&Path>) -> Result<PathBuf> {
    let text = render(&Content::read(run)?)?;
    let path = output.map_or_else(|| run.join(FILE), Path::to_owned);
    let mut file = AtomicFile::create(&path)?;
    file.write_all(text.as_bytes())?;
    file.commit()?;
    Ok(path)
}

/// Removes what a process that was killed has left of a page in the folder `run`.
///
/// # Errors
/// A file that cannot be removed.
pub fn remove_unfinished(run: &Path) -> Result<()> {
    Ok(LockedFile::remove_unfinished(&run.join(FILE))?)
}

fn render(content: &Content) -> Result<String> {
    let mut environment = Environment::new();
    let (name, source) = TEMPLATE;
    environment.add_template(name, source)?;
    let template = environment.get_template(name)?;
    template
        .render(context! { page => Serde(content) })
        .context("the report")
}
