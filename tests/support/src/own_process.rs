use std::ffi::OsString;
use std::process::{Command, Output};

/// Words before a program of this machine's emulator, where programs are built for another architecture than the machine's.
const EMULATOR: &str = "TEST_EMULATOR";

/// Runs the ignored test of this name again, which is one of the calling program, in a process of its own that has the
/// environment `variables` besides: for what a process settles once, such as the instruction set of its kernels.
pub fn in_own_process(test: &str, variables: &[(&str, &str)]) -> Output {
    let program = std::env::current_exe().expect("this program has a path");
    let emulator = std::env::var(EMULATOR).unwrap_or_default();
    let emulator = emulator.split_whitespace().map(OsString::from);
    let words: Vec<_> = emulator.chain([program.into_os_string()]).collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    command.envs(variables.iter().copied());
    command.output().expect("this program runs again")
}

/// Asserts that the one test of [`in_own_process`] was run and has passed.
///
/// # Panics
/// If not, with what it wrote.
#[track_caller]
pub fn assert_passed(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    let passed = output.status.success() && said.contains("1 passed");
    assert!(passed, "{}\n{said}{error}", output.status);
}
