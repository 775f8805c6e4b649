//! Requests to stop: Ctrl-C, and the signals of a system that ends the program (`kill`, `docker stop`, a batch system at a
//! job's limit, a closed terminal).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use crate::console::{self, tell};

/// The flags that signals set.
#[derive(Clone, Debug)]
pub struct Interrupt {
    notice: &'static str,
    /// Set by Ctrl-C.
    pressed: Arc<AtomicBool>,
    /// Set by SIGTERM and SIGHUP.
    terminated: Arc<AtomicBool>,
    /// Whether the notice has been printed.
    told: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens for Ctrl-C, SIGTERM and SIGHUP from now on and prints `notice` when the first of them comes. A second
    /// Ctrl-C ends the process with exit code 130, as a shell would report it; the other two may come in numbers, from a
    /// terminal that closes for instance, and never do. A signal that was ignored when the program began, as by `nohup`, still is.
    ///
    /// # Errors
    /// The system refuses the handler, or this was called before.
    pub fn listen(notice: &'static str) -> Result<Self> {
        let this = Self {
            notice,
            pressed: Arc::default(),
            terminated: Arc::default(),
            told: Arc::default(),
        };
        #[cfg(unix)]
        for signal in [libc::SIGTERM, libc::SIGHUP] {
            if !is_ignored(signal) {
                signal_hook::flag::register(signal, this.terminated.clone())
                    .context("listen for signals")?;
            }
        }
        #[cfg(unix)]
        if is_ignored(libc::SIGINT) {
            return Ok(this);
        }
        let pressed = this.clone();
        ctrlc::set_handler(move || {
            if pressed.pressed.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            pressed.tell();
        })
        .context("listen for Ctrl-C")?;
        Ok(this)
    }

    /// Returns whether a signal has come, or something could not be printed: whoever reads it is gone, as with a closed
    /// terminal that sends no signal.
    pub fn requested(&self) -> bool {
        let terminated = self.terminated.load(Ordering::SeqCst);
        if terminated {
            self.tell();
        }
        terminated || self.pressed.load(Ordering::SeqCst) || console::failure().is_some()
    }

    fn tell(&self) {
        if !self.told.swap(true, Ordering::SeqCst) {
            tell!("\n{}", self.notice);
        }
    }
}

/// Returns whether the process was started with the signal ignored.
#[cfg(unix)]
fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: all-zero is a value of this plain C struct, of integers, a set of bits and an address.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action nothing is changed, and the old one is written into a struct that outlives the call.
    let read = unsafe { libc::sigaction(signal, std::ptr::null(), &mut action) };
    read == 0 && action.sa_sigaction == libc::SIG_IGN
}
