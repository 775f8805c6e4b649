//! A disk that is full while something is saved.
//!
//! A limit on the size of a file (`ulimit -f`, with its signal ignored, as programs see it under a
//! batch system) stands for the disk: writing past it fails in the middle of a file just so. A small
//! file system would need the right to mount one.

#![cfg(unix)]

use std::process::Command;

use crate::support::{FINETUNE, Place, Run};

/// Runs the binary so that no file can grow past `kib` KiB.
fn limited(kib: usize, arguments: &[&std::ffi::OsStr]) -> Run {
    let script = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$@\"");
    let mut command = Command::new("bash");
    command
        .args(["-c", &script, "bash", FINETUNE])
        .args(arguments);
    crate::support::run(&mut command)
}

#[test]
fn a_training_run_that_cannot_be_saved_leaves_no_half_files() {
    let place = Place::new();
    let (model, rows, output) = (place.model("tiny_llama"), place.rows(8), place.path("run"));
    let arguments = ["train", "--steps", "2", "--seq-len", "64", "--model"].map(AsRef::as_ref);
    let paths = [
        model.as_os_str(),
        "--data".as_ref(),
        rows.as_os_str(),
        "--output".as_ref(),
    ];
    // Adapters of rank 16 take about 150 KiB.
    let run = limited(
        32,
        &[&arguments[..], &paths, &[output.as_os_str()]].concat(),
    );
    assert_eq!(run.code, Some(2), "{run:#?}");
    let last = run.stderr.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("error: ") && last.contains("run"),
        "{last}"
    );
    assert_eq!(run.stderr.matches("error: ").count(), 1, "{}", run.stderr);
    let left = files_below(&output);
    assert!(
        left.iter()
            .all(|name| !name.contains("safetensors") && !name.contains("tmp")),
        "{left:?}"
    );
    // With room again, the same command does not stumble over the remains.
    crate::support::run(
        Command::new(FINETUNE)
            .args(arguments)
            .args(paths)
            .arg(&output),
    )
    .ok();
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_nothing() {
    let place = Place::new();
    let (model, output) = (place.model("tiny_llama"), place.path("nf4"));
    let arguments = ["quantize", "--model"].map(AsRef::as_ref);
    let paths = [model.as_os_str(), "--output".as_ref(), output.as_os_str()];
    let run = limited(64, &[&arguments[..], &paths].concat());
    assert_eq!(run.code, Some(2), "{run:#?}");
    assert!(
        run.stderr.starts_with("error: ") && run.stderr.contains("nf4"),
        "{}",
        run.stderr
    );
    assert_eq!(files_below(&output), Vec::<String>::new());
    crate::support::run(Command::new(FINETUNE).args(arguments).args(paths)).ok();
}

/// The paths of all files below a directory.
fn files_below(dir: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| match path.is_dir() {
            true => files_below(&path),
            false => vec![path.display().to_string()],
        })
        .collect()
}
