//! Logs of a run: one JSON object a line, there as soon as what it tells is done.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// How a line begins.
const LINE_START: &[u8] = b"{\"step\":";

/// The point that a run goes on from: what is logged of later ones comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Steps that are done.
    pub step: usize,
    /// Whether the evaluation after them is.
    pub evaluated: bool,
    /// Whether the samples after them are.
    pub sampled: bool,
}

/// An open log.
#[derive(Debug)]
pub struct Log {
    file: File,
    path: PathBuf,
    /// What an error calls it.
    name: String,
}

impl Log {
    /// Opens the log to append to it. Of a run that goes on, lines that come again are cut off, so that nothing stands in
    /// the log twice, and so is a line that was not finished.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: &Path, name: impl Into<String>, resumed: Option<Resumed>) -> Result<Self> {
        let opened = || -> io::Result<File> {
            let mut options = OpenOptions::new();
            let mut file = options.create(true).append(true).read(true).open(path)?;
            // What is no file, a pipe for one, has nothing in it to go on from.
            if file.metadata()?.is_file() {
                let text = std::fs::read(path)?;
                match resumed {
                    Some(resumed) => file.set_len(length_up_to(&text, resumed) as u64)?,
                    None if text.last().is_some_and(|last| *last != b'\n') => {
                        file.write_all(b"\n")?;
                    }
                    None => {}
                }
            }
            Ok(file)
        };
        let name = name.into();
        Ok(Self {
            file: opened().with_context(|| format!("{name} {}", path.display()))?,
            path: path.to_path_buf(),
            name,
        })
    }

    /// Appends a line, which begins with its step, and hands it to the system. A line that cannot be written whole is taken
    /// back.
    ///
    /// # Errors
    /// The line cannot be written.
    pub fn append(&mut self, line: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(line)?;
        line.push('\n');
        let before = self.file.metadata().map(|metadata| metadata.len());
        // One write a line: a reader, or the end of the process, never sees half of one.
        let written = self.file.write_all(line.as_bytes());
        if let (Err(_), Ok(before)) = (&written, before) {
            // The write's error is the one to tell; a resumed run cuts off what is left of the line.
            let _ = self.file.set_len(before);
        }
        written.with_context(|| format!("{} {}", self.name, self.path.display()))
    }
}

/// The length of the log without the lines at its end that come again, and without those there that were not finished or
/// run into the next one. A line without a step ends the search: it may be anybody's.
fn length_up_to(text: &[u8], resumed: Resumed) -> usize {
    #[derive(Deserialize)]
    struct Numbered {
        step: usize,
        evaluation: Option<serde::de::IgnoredAny>,
        samples: Option<serde::de::IgnoredAny>,
    }
    let comes_again = |line: &Numbered| {
        let at_the_end = line.evaluation.is_some() && !resumed.evaluated
            || line.samples.is_some() && !resumed.sampled;
        line.step > resumed.step || line.step == resumed.step && at_the_end
    };
    let mut length = text.len();
    for line in text.split_inclusive(|byte| *byte == b'\n').rev() {
        let is_over = match serde_json::from_slice::<Numbered>(line) {
            Ok(numbered) => comes_again(&numbered) || line.last() != Some(&b'\n'),
            Err(_) => line.last() != Some(&b'\n') || line.starts_with(LINE_START),
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

    fn at(step: usize) -> Resumed {
        Resumed {
            step,
            evaluated: true,
            sampled: true,
        }
    }

    fn cut(text: &str, step: usize) -> &str {
        &text[..length_up_to(text.as_bytes(), at(step))]
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
    fn what_comes_after_a_step_is_cut_off_if_it_comes_again() {
        let text = "{\"step\":2}\n{\"step\":2,\"evaluation\":{}}\n{\"step\":2,\"samples\":[]}\n";
        let length = |evaluated, sampled| {
            let resumed = Resumed {
                step: 2,
                evaluated,
                sampled,
            };
            length_up_to(text.as_bytes(), resumed)
        };
        assert_eq!(length(true, true), text.len());
        assert_eq!(length(true, false), text.find("{\"step\":2,\"s").unwrap());
        assert_eq!(length(false, false), "{\"step\":2}\n".len());
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
        assert_eq!(length_up_to(&broken, at(2)), whole.len());
    }

    #[test]
    fn a_new_run_begins_a_line_of_its_own() {
        let path = std::env::temp_dir().join(format!("step-log-{}", std::process::id()));
        std::fs::write(&path, "half a line").unwrap();
        Log::open(&path, "log", None).unwrap();
        Log::open(&path, "log", None).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text, "half a line\n");
    }
}
