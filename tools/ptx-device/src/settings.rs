//! What is set from outside, by environment variables.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::OnceLock;

/// The settings of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `PTX_DEVICE_SM`: the compute capability, 80, 90 or 120.
    pub compute_capability: i32,
    /// `PTX_DEVICE_MEMORY`: the device's memory in MiB.
    pub memory_mib: usize,
    /// `PTX_DEVICE_CHECK`: 0 looks for no races and no uninitialised reads of shared memory, and for no order of streams.
    pub checked: bool,
    /// `PTX_DEVICE_STRICT`: 0 tells of races and uninitialised reads and goes on; else the launch fails.
    pub strict: bool,
    /// `PTX_DEVICE_BUDGET`: the most millions of instructions of warps that a sixteenth of a launch may take.
    pub budget_millions: u64,
    /// `PTX_DEVICE_LOG`: a file that gets a line of JSON for each launch.
    pub log: Option<PathBuf>,
    /// `PTX_DEVICE_STREAM_LOG`: a file that gets a line of JSON for each kernel and copy, with its stream.
    pub stream_log: Option<PathBuf>,
    /// `PTX_DEVICE_MISS_WAITS`: 1 does not see that a stream waits for an event. To see that a missing one is found.
    pub waits_are_missed: bool,
    /// `PTX_DEVICE_MUTATE`: `FROM=>TO` replaces that text in every module before it is read; several between semicolons with two
    /// signs, `;;`. To see that a fault is found.
    pub mutations: Vec<(String, String)>,
}

impl Settings {
    /// Reads the environment, once.
    ///
    /// # Panics
    /// If a variable has a value that is none: a test that would check something else than it says should not run.
    pub fn get() -> &'static Self {
        static SETTINGS: OnceLock<Settings> = OnceLock::new();
        SETTINGS.get_or_init(|| Self {
            compute_capability: number("PTX_DEVICE_SM", 80),
            memory_mib: number("PTX_DEVICE_MEMORY", 8192),
            checked: number("PTX_DEVICE_CHECK", 1) != 0,
            strict: number("PTX_DEVICE_STRICT", 1) != 0,
            budget_millions: number("PTX_DEVICE_BUDGET", 2000),
            log: std::env::var_os("PTX_DEVICE_LOG").map(PathBuf::from),
            stream_log: std::env::var_os("PTX_DEVICE_STREAM_LOG").map(PathBuf::from),
            waits_are_missed: number("PTX_DEVICE_MISS_WAITS", 0) != 0,
            mutations: std::env::var("PTX_DEVICE_MUTATE")
                .map_or_else(|_| Vec::new(), |rules| mutations(&rules)),
        })
    }

    /// Returns a module's text with the mutations made.
    pub fn mutated(&self, text: String) -> String {
        let mutations = self.mutations.iter();
        mutations.fold(text, |text, (from, to)| text.replace(from, to))
    }
}

fn number<T: FromStr>(variable: &str, default: T) -> T {
    match std::env::var(variable) {
        Err(_) => default,
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is `{text}`, which is no number")),
    }
}

fn mutations(rules: &str) -> Vec<(String, String)> {
    let rule = |rule: &str| {
        let (from, to) = rule
            .split_once("=>")
            .unwrap_or_else(|| panic!("PTX_DEVICE_MUTATE: `{rule}` has no `=>`"));
        (from.to_owned(), to.to_owned())
    };
    rules
        .split(";;")
        .filter(|it| !it.is_empty())
        .map(rule)
        .collect()
}
