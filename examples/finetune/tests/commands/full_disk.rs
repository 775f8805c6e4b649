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
fn pages_that_find_no_room_leave_the_last_checkpoint() {
    let place = Place::new();
    let (model, rows, output) = (place.model("tiny_llama"), place.rows(8), place.path("run"));
    let arguments = |steps: &'static str| {
        [
            "train",
            "--steps",
            "4",
            "--seq-len",
            "64",
            "--save-every",
            steps,
            "--model",
        ]
        .map(AsRef::<std::ffi::OsStr>::as_ref)
    };
    let paths = [
        model.as_os_str(),
        "--data".as_ref(),
        rows.as_os_str(),
        "--output".as_ref(),
        output.as_os_str(),
    ];
    crate::support::run(Command::new(FINETUNE).args(arguments("2")).args(paths)).ok();
    let finished = std::fs::read(output.join("adapter_model.safetensors")).unwrap();
    std::fs::remove_dir_all(output.join("checkpoints/step-00000004")).unwrap();
    let kept =
        |name: &str| std::fs::read(output.join("checkpoints/step-00000002").join(name)).unwrap();
    let before = ["optimizer.safetensors", "adapter_model.safetensors"].map(kept);

    let paged = [
        "--resume",
        "--optimizer",
        "paged-adamw",
        "--optimizer-budget",
        "0",
    ]
    .map(AsRef::<std::ffi::OsStr>::as_ref);
    // A page is 2 MiB.
    let run = limited(1024, &[&arguments("2")[..], &paths, &paged].concat());
    assert_eq!(run.code, Some(2), "{run:#?}");
    let last = run.stderr.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("error: ") && last.contains("optimizer.pages"),
        "{last}"
    );
    assert!(!output.join("optimizer.pages").exists());
    assert!(["optimizer.safetensors", "adapter_model.safetensors"].map(kept) == before);
    // With room again, the run goes on from there and ends as it would have.
    let mut again = Command::new(FINETUNE);
    crate::support::run(again.args(arguments("2")).args(paths).args(paged)).ok();
    let adapter = std::fs::read(output.join("adapter_model.safetensors")).unwrap();
    assert!(adapter == finished);
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
        .flat_map(|path| {
            if path.is_dir() {
                files_below(&path)
            } else {
                vec![path.display().to_string()]
            }
        })
        .collect()
}
