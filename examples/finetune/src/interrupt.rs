//! Ctrl-C: the first asks the command to come to a good end, the second ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

/// A flag that Ctrl-C sets.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens for Ctrl-C from now on and prints `notice` when it comes. A second Ctrl-C ends the
    /// process with exit code 130, as a shell would report it.
    ///
    /// # Errors
    /// The system refuses the handler, or this was called before.
    pub fn listen(notice: &'static str) -> Result<Self> {
        let this = Self::default();
        let pressed = this.clone();
        ctrlc::set_handler(move || {
            if pressed.0.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            eprintln!("\n{notice}");
        })
        .context("listen for Ctrl-C")?;
        Ok(this)
    }

    /// Returns whether Ctrl-C has been pressed.
    pub fn pressed(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
