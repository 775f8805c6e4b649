//! The step log of `--log-json`: one JSON object a line, there as soon as the step is done.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn_finetune::StepReport;
use serde::Deserialize;

/// How the line of a step begins.
const STEP_LINE: &[u8] = b"{\"step\":";

/// The open log.
#[derive(Debug)]
pub struct StepLog {
    file: File,
    path: PathBuf,
}

impl StepLog {
    /// Opens the log to append to it. `resumed_at` is the number of steps that a resumed run has done: lines of later
    /// steps, written after the checkpoint that is gone back to, are cut off so that no step stands in the log twice,
    /// and so is a line that was not finished.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: &Path, resumed_at: Option<usize>) -> Result<Self> {
        let opened = || -> io::Result<File> {
            let mut options = OpenOptions::new();
            let mut file = options.create(true).append(true).read(true).open(path)?;
            // What is no file, a pipe for one, has nothing in it to go on from.
            if file.metadata()?.is_file() {
                let text = std::fs::read(path)?;
                match resumed_at {
                    Some(step) => file.set_len(length_up_to(&text, step) as u64)?,
                    None if text.last().is_some_and(|last| *last != b'\n') => {
                        file.write_all(b"\n")?;
                    }
                    None => {}
                }
            }
            Ok(file)
        };
        Ok(Self {
            file: opened().with_context(|| format!("--log-json {}", path.display()))?,
            path: path.to_path_buf(),
        })
    }

    /// Appends a line and hands it to the system. A line that cannot be written whole is taken back.
    ///
    /// # Errors
    /// The line cannot be written.
    pub fn append(&mut self, report: &StepReport) -> Result<()> {
        let mut line = serde_json::to_string(report)?;
        line.push('\n');
        let before = self.file.metadata().map(|metadata| metadata.len());
        // One write a line: a reader, or the end of the process, never sees half of one.
        let written = self.file.write_all(line.as_bytes());
        if let (Err(_), Ok(before)) = (&written, before) {
            // The write's error is the one to tell; a resumed run cuts off what is left of the line.
            let _ = self.file.set_len(before);
        }
        written.with_context(|| format!("--log-json {}", self.path.display()))
    }
}

/// The length of the log without the steps after `step` at its end, and without lines there that were not finished or
/// run into the next one. A line that is no step's ends the search: it may be anybody's.
fn length_up_to(text: &[u8], step: usize) -> usize {
    #[derive(Deserialize)]
    struct Numbered {
        step: usize,
    }
    let mut length = text.len();
    for line in text.split_inclusive(|byte| *byte == b'\n').rev() {
        let is_over = match serde_json::from_slice::<Numbered>(line) {
            Ok(numbered) => numbered.step > step || line.last() != Some(&b'\n'),
            Err(_) => line.last() != Some(&b'\n') || line.starts_with(STEP_LINE),
        };
        if !is_over {
            break;
        }
        length -= line.len();
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str, step: usize) -> &str {
        &text[..length_up_to(text.as_bytes(), step)]
    }

    #[test]
    fn only_steps_after_the_checkpoint_are_cut_off() {
        let text = "{\"step\":9}\n{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n";
        assert_eq!(cut(text, 1), "{\"step\":9}\n{\"step\":1}\n");
        assert_eq!(cut(text, 3), text);
        assert_eq!(cut("not a log\n", 0), "not a log\n");
        assert_eq!(cut("", 0), "");
    }

    #[test]
    fn unfinished_lines_are_cut_off() {
        let whole = "{\"step\":1}\n{\"step\":2}\n";
        for tail in [
            "{\"st",
            "{\"step\":3}",
            "{\"step\":2,\"lo",
            // Two lines that ran into each other, as an older version let them.
            "{\"step\":3}\n{\"step\":4,\"lo{\"step\":5}\n{\"step\":6}\n{\"",
            "\u{fffd}",
        ] {
            assert_eq!(cut(&format!("{whole}{tail}"), 2), whole, "{tail}");
        }
        // Not UTF-8, as after a crash of the system.
        let broken = [whole.as_bytes(), b"\xff\0\0"].concat();
        assert_eq!(length_up_to(&broken, 2), whole.len());
    }

    #[test]
    fn a_new_run_begins_a_line_of_its_own() {
        let path = std::env::temp_dir().join(format!("step-log-{}", std::process::id()));
        std::fs::write(&path, "half a line").unwrap();
        StepLog::open(&path, None).unwrap();
        StepLog::open(&path, None).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text, "half a line\n");
    }
}
