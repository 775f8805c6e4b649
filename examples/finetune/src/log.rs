//! The step log of `--log-json`: one JSON object a line, there as soon as the step is done.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn_finetune::StepReport;
use serde::Deserialize;

/// The open log.
#[derive(Debug)]
pub struct StepLog {
    file: File,
    path: PathBuf,
}

impl StepLog {
    /// Opens the log to append to it. `resumed_at` is the number of steps that a resumed run has
    /// done: lines of later steps, written after the checkpoint that is gone back to, are cut off
    /// so that no step stands in the log twice.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: &Path, resumed_at: Option<usize>) -> Result<Self> {
        let context = || format!("--log-json {}", path.display());
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(context)?;
        if let Some(step) = resumed_at {
            let text = std::fs::read_to_string(path).with_context(context)?;
            file.set_len(length_up_to(&text, step) as u64)
                .with_context(context)?;
        }
        Ok(Self {
            file,
            path: path.to_path_buf(),
        })
    }

    /// Appends a line and hands it to the system.
    ///
    /// # Errors
    /// The line cannot be written.
    pub fn append(&mut self, report: &StepReport) -> Result<()> {
        let mut line = serde_json::to_string(report)?;
        line.push('\n');
        // One write a line: a reader, or the end of the process, never sees half of one.
        self.file
            .write_all(line.as_bytes())
            .and_then(|()| self.file.flush())
            .with_context(|| format!("--log-json {}", self.path.display()))
    }
}

/// The length of the log without the steps after `step` at its end.
fn length_up_to(text: &str, step: usize) -> usize {
    #[derive(Deserialize)]
    struct Numbered {
        step: usize,
    }
    let mut length = text.len();
    for line in text.split_inclusive('\n').rev() {
        match serde_json::from_str::<Numbered>(line) {
            Ok(numbered) if numbered.step > step => length -= line.len(),
            _ => break,
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_steps_after_the_checkpoint_are_cut_off() {
        let text = "{\"step\":9}\n{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n";
        assert_eq!(
            &text[..length_up_to(text, 1)],
            "{\"step\":9}\n{\"step\":1}\n"
        );
        assert_eq!(length_up_to(text, 3), text.len());
        assert_eq!(length_up_to("not a log\n", 0), 10);
    }
}
