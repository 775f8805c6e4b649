use std::cell::OnceCell;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use burn_finetune::{Columns, ExampleKind, Source, Sources};

use crate::hub_dataset;

/// The files of a data set, as they are named, before any is fetched.
#[derive(Debug)]
pub struct DataFiles {
    names: Vec<PathBuf>,
    /// One for each name.
    weights: Vec<f64>,
    columns: Columns,
    /// The files once they are here: the Hub is asked once.
    found: OnceCell<Sources>,
}

impl DataFiles {
    /// Resolves the flags; `None` where no file is named.
    ///
    /// # Errors
    /// Another number of weights than of files, a weight that is too large, and a column with a name that is not read.
    pub fn resolve(
        names: Vec<PathBuf>,
        weights: &[f64],
        columns: &[(String, String)],
        kind: ExampleKind,
    ) -> Result<Option<Self>> {
        let columns = Columns::of(kind, columns.iter().cloned()).context("--columns")?;
        ensure!(
            weights.is_empty() || weights.len() == names.len(),
            "--data-weights has {} weights, but --data names {} files or folders; each has one weight",
            weights.len(),
            names.len()
        );
        if names.is_empty() {
            return Ok(None);
        }
        for weight in weights {
            Source::new("")
                .with_weight(*weight)
                .context("--data-weights")?;
        }
        let weights = if weights.is_empty() {
            vec![1.0; names.len()]
        } else {
            weights.to_vec()
        };
        Ok(Some(Self {
            names,
            weights,
            columns,
            found: OnceCell::new(),
        }))
    }

    /// Returns the files, of which those of the Hub are fetched.
    ///
    /// # Errors
    /// A data set that the Hub does not give.
    pub fn sources(&self) -> Result<&Sources> {
        if let Some(found) = self.found.get() {
            return Ok(found);
        }
        let mut sources = Vec::new();
        for (name, weight) in self.names.iter().zip(&self.weights) {
            for path in hub_dataset::resolve(name)? {
                sources.push(Source::new(path).with_weight(*weight)?);
            }
        }
        let sources = Sources::new(sources).with_columns(self.columns.clone());
        Ok(self.found.get_or_init(|| sources))
    }

    /// Returns what a run writes down of it: the names, with their weights where they are not 1.
    pub fn described(&self) -> String {
        let named = self.names.iter().zip(&self.weights).map(|(name, weight)| {
            let name = name.to_string_lossy();
            match weight {
                1.0 => name.into_owned(),
                weight => format!("{name} ({weight})"),
            }
        });
        named.collect::<Vec<_>>().join(", ")
    }
}
