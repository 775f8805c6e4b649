//! The display while a command works: a live bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use burn_finetune::{PreferenceReport, StepReport};
use indicatif::{ProgressBar, ProgressStyle};

use crate::console::{self, tell};

/// The least time between plain lines; the first and the last step always get one.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// The display of a training run.
#[derive(Debug)]
pub struct TrainDisplay {
    /// The bar, on a terminal.
    bar: Option<ProgressBar>,
    total: usize,
    started: Instant,
    /// Steps and tokens that this process has done, which the speed is measured over.
    steps: usize,
    tokens: usize,
    last_plain: Option<Instant>,
    paging: Paging,
}

/// The optimizer's state after a step, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Paging {
    /// All of it.
    pub state_bytes: u64,
    /// The part that stays in memory.
    pub resident_bytes: u64,
    /// The bytes that the step moved.
    pub bytes_moved: u64,
}

impl TrainDisplay {
    /// A display for a run of `total` steps of which `done` were done before.
    pub fn new(total: usize, done: usize) -> Self {
        let is_shown = std::io::stderr().is_terminal() && !console::is_muted();
        let bar = is_shown.then(|| {
            let style = ProgressStyle::with_template(
                "{bar:24.cyan/blue} step {pos}/{len}  {msg}  ETA {eta}",
            );
            let bar = ProgressBar::new(total as u64)
                .with_position(done as u64)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        let started = Instant::now();
        Self {
            bar,
            total,
            started,
            steps: 0,
            tokens: 0,
            last_plain: None,
            paging: Paging::default(),
        }
    }

    /// Shows a step that is done.
    pub fn step(&mut self, report: &StepReport) {
        self.steps += 1;
        self.tokens += report.tokens;
        self.paging = Paging {
            state_bytes: report.optimizer_state_bytes,
            resident_bytes: report.optimizer_resident_bytes,
            bytes_moved: report.optimizer_bytes_moved,
        };
        let seconds = self.started.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
        let mut text = format!(
            "loss {:.4}  {:.0} tokens/s",
            report.loss,
            self.tokens as f64 / seconds
        );
        text += &rewards(&report.preferences);
        if let Some(bytes) = report.peak_rss_bytes {
            text += &format!("  {}", human_bytes(bytes));
        }
        match &self.bar {
            Some(bar) => {
                bar.set_message(text);
                bar.set_position(report.step as u64);
            }
            None if self.plain_line_is_due(report.step) => {
                let left = self.total.saturating_sub(report.step) as f64;
                let eta = Duration::from_secs((seconds / self.steps as f64 * left) as u64);
                tell!(
                    "step {}/{}  {text}  ETA {}",
                    report.step,
                    self.total,
                    clock(eta)
                );
                self.last_plain = Some(Instant::now());
            }
            None => {}
        }
    }

    /// Prints a line of its own, above the bar if there is one.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| tell!("{text}")),
            None => tell!("{text}"),
        }
    }

    /// The optimizer's state after the last step.
    pub fn paging(&self) -> Paging {
        self.paging
    }

    /// Tokens a second over all steps of this process.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.started.elapsed().as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Leaves the bar as it stands.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
            // The bar leaves the cursor behind it.
            tell!("");
        }
    }

    fn plain_line_is_due(&self, step: usize) -> bool {
        step == self.total
            || self
                .last_plain
                .is_none_or(|last| last.elapsed() >= PLAIN_EVERY)
    }
}

/// Returns the rewards of preferences, to stand behind a loss.
pub fn rewards(preferences: &PreferenceReport) -> String {
    let of = |name: &str, reward: Option<f64>| {
        reward.map_or_else(String::new, |reward| format!("  {name} {reward:+.3}"))
    };
    let accuracy = preferences
        .rewards_accuracies
        .map_or_else(String::new, |share| {
            format!("  right {:.0} %", 100.0 * share)
        });
    of("chosen", preferences.rewards_chosen)
        + &of("rejected", preferences.rewards_rejected)
        + &accuracy
}

/// A bar that counts things of a name, hidden where there is no terminal.
pub fn counter(name: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:24.cyan/blue} {msg} {pos}/{len}  ETA {eta}");
    // indicatif draws on stderr and hides itself when that is not a terminal.
    ProgressBar::new(0)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(name)
}

/// Shows a bar while `work` counts things of a name: how many of how many are done.
///
/// # Errors
/// That of `work`.
pub fn counted<T, E>(
    name: &'static str,
    work: impl FnOnce(&mut dyn FnMut(usize, usize)) -> Result<T, E>,
) -> Result<T, E> {
    let bar = counter(name);
    let done = work(&mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    Ok(done)
}

/// Something that takes a while, hidden where there is no terminal.
pub fn spinner(what: String) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(what);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// A number of bytes for people: `1.24 GB`.
pub fn human_bytes(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.0} MB", b / 1e6),
        b => format!("{:.0} kB", b / 1e3),
    }
}

/// `1h02m`, `3m10s` or `7s`.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        s if s >= 3600 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        s if s >= 60 => format!("{}m{:02}s", s / 60, s % 60),
        s => format!("{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_well() {
        let texts = [1_236_000_000, 98_362_432, 2_000].map(human_bytes);
        assert_eq!(texts, ["1.24 GB", "98 MB", "2 kB"]);
    }

    #[test]
    fn rewards_are_told_where_there_are_any() {
        assert_eq!(rewards(&PreferenceReport::default()), "");
        let mut preferences = PreferenceReport::default();
        preferences.rewards_chosen = Some(0.25);
        assert_eq!(rewards(&preferences), "  chosen +0.250");
        preferences.rewards_rejected = Some(-1.0);
        preferences.rewards_accuracies = Some(0.75);
        assert_eq!(
            rewards(&preferences),
            "  chosen +0.250  rejected -1.000  right 75 %"
        );
    }

    #[test]
    fn times_read_well() {
        let texts = [7, 190, 3725].map(|s| clock(Duration::from_secs(s)));
        assert_eq!(texts, ["7s", "3m10s", "1h02m"]);
    }
}
