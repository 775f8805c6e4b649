//! Everything that is printed: results on stdout, notices, progress and errors on stderr.
//!
//! The reader of either may go away while a command works (`finetune plan | head -1`, a terminal that is closed, a pipe
//! into a program that dies), and the disk behind a redirection may be full. Printing never panics over that: the line is
//! lost and the first failure is kept. A training run stops at it and saves; the exit code tells it in the end.

use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this process leaves printing to another: the first of the ranks of a run.
static MUTED: AtomicBool = AtomicBool::new(false);

/// The first line that could not be printed.
static FAILURE: OnceLock<Failure> = OnceLock::new();

/// A line that could not be printed.
#[derive(Debug)]
pub struct Failure {
    stream: &'static str,
    error: io::Error,
}

impl Failure {
    /// Returns whether nobody reads any more, which is for the reader to decide and no error to talk about.
    pub fn is_closed_pipe(&self) -> bool {
        self.error.kind() == io::ErrorKind::BrokenPipe
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot write to {}: {}", self.stream, self.error)
    }
}

/// Prints a line on stdout, as `println!` does.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::console::say_line(format_args!($($text)*))
    };
}
pub(crate) use say;

/// Prints a line on stderr, as `eprintln!` does.
macro_rules! tell {
    ($($text:tt)*) => {
        $crate::console::tell_line(format_args!($($text)*))
    };
}
pub(crate) use tell;

/// Prints nothing from now on, but the line that says why the program ends.
#[cfg(feature = "mpi")]
pub fn mute() {
    MUTED.store(true, Ordering::Relaxed);
}

/// Returns whether nothing is printed.
pub fn is_muted() -> bool {
    MUTED.load(Ordering::Relaxed)
}

/// Prints a line on stdout.
pub fn say_line(line: fmt::Arguments<'_>) {
    if is_muted() {
        return;
    }
    let mut stdout = io::stdout().lock();
    keep(
        "stdout",
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()),
    );
}

/// Prints a line on stderr.
pub fn tell_line(line: fmt::Arguments<'_>) {
    if !is_muted() {
        tell_last(line);
    }
}

/// Prints the line that says why the program ends, on stderr.
pub fn tell_last(line: fmt::Arguments<'_>) {
    // In one piece: stderr has no buffer, and lines of several processes may come together in it.
    let line = format!("{line}\n");
    keep("stderr", io::stderr().lock().write_all(line.as_bytes()));
}

/// Returns the first failure to print, if there was one.
pub fn failure() -> Option<&'static Failure> {
    FAILURE.get()
}

fn keep(stream: &'static str, outcome: io::Result<()>) {
    if let Err(error) = outcome {
        FAILURE.get_or_init(|| Failure { stream, error });
    }
}
