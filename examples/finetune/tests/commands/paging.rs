//! Optimizer state and weights in pages: the same run at every budget, and what is told about it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::finetune;
use crate::support::{self, Place, Run, log_lines, number};

/// A run of `tiny_llama_nf4` whose state is about 1.5 MB, in 8-bit 0.4 MB.
struct Paging {
    place: Place,
    model: PathBuf,
    rows: PathBuf,
}

impl Paging {
    fn new() -> Self {
        let place = Place::new();
        let (model, rows) = (place.model("tiny_llama_nf4"), place.rows(40));
        Self { place, model, rows }
    }

    fn train(&self, output: &Path, more: &[&str]) -> Run {
        let mut command = support::train(&self.model, &self.rows, output);
        command
            .args([
                "--seq-len",
                "64",
                "--rank",
                "64",
                "--lr",
                "5e-3",
                "--steps",
                "6",
            ])
            .args(["--save-every", "2"])
            .arg("--log-json")
            .arg(output.with_extension("jsonl"))
            .args(more);
        support::run(&mut command)
    }

    /// The results of a finished run: its losses, its adapter, and the moments of its last checkpoint.
    fn outcome(&self, output: &Path) -> (Vec<f64>, Vec<u8>, Vec<u8>) {
        let lines = log_lines(&output.with_extension("jsonl"));
        let losses = lines.iter().map(|line| number(line, "loss")).collect();
        let read = |name: &str| fs::read(output.join(name)).expect("it was written");
        (
            losses,
            read("adapter_model.safetensors"),
            read("checkpoints/step-00000006/optimizer.safetensors"),
        )
    }
}

const ZERO: [&str; 4] = ["--optimizer", "paged-adamw", "--optimizer-budget", "0"];

#[test]
fn every_budget_is_the_same_run_and_the_log_tells_what_moved() {
    let paging = Paging::new();
    let still = paging.place.path("still");
    paging.train(&still, &[]).ok();
    let expected = paging.outcome(&still);
    let state = |output: &Path| {
        let line = log_lines(&output.with_extension("jsonl")).remove(5);
        ["state_bytes", "resident_bytes", "bytes_moved"]
            .map(|key| number(&line, &format!("optimizer_{key}")))
    };
    let [bytes, resident, moved] = state(&still);
    assert!(bytes > 1e6, "{bytes}");
    assert_eq!([resident, moved], [bytes, 0.0]);

    for (name, budget, resident) in [
        ("zero", "0", Some(0.0)),
        ("auto", "auto", None),
        ("resident", "resident", Some(bytes)),
    ] {
        let output = paging.place.path(name);
        let run = paging
            .train(
                &output,
                &["--optimizer", "paged-adamw", "--optimizer-budget", budget],
            )
            .ok();
        assert!(paging.outcome(&output) == expected, "{budget}");
        let [state_bytes, stays, moved] = state(&output);
        assert_eq!(state_bytes, bytes);
        assert!(resident.is_none_or(|resident| resident == stays), "{stays}");
        assert_eq!(moved, 2.0 * (bytes - stays));
        assert_eq!(run.stdout.contains("were moved a step"), moved > 0.0);
        // Scratch space goes with the run.
        assert!(!output.join("optimizer.pages").exists());
    }
}

#[test]
fn a_run_goes_on_at_another_budget_with_the_same_bits() {
    let paging = Paging::new();
    let still = paging.place.path("still");
    paging.train(&still, &[]).ok();
    let expected = paging.outcome(&still);
    let output = paging.place.path("moving");
    paging.train(&output, &ZERO).ok();
    let checkpoints = output.join("checkpoints");
    // As if it had been killed after its checkpoint at step 4, and that one's successor at step 2.
    for (back_to, more) in [
        (4, &[][..]),
        (2, &ZERO),
        (4, &["--optimizer", "paged-adamw"]),
    ] {
        for step in [2, 4, 6].into_iter().filter(|step| *step > back_to) {
            let _ = fs::remove_dir_all(checkpoints.join(format!("step-{step:08}")));
        }
        paging.train(&output, &[more, &["--resume"]].concat()).ok();
        assert!(paging.outcome(&output) == expected, "from {back_to}");
    }
}

#[test]
fn eight_bits_take_a_quarter_and_learn_as_well() {
    let paging = Paging::new();
    let [wide, narrow] = ["wide", "narrow"].map(|name| paging.place.path(name));
    paging.train(&wide, &[]).ok();
    let eight = ["--optimizer", "paged-adamw-8bit", "--optimizer-budget", "0"];
    paging.train(&narrow, &eight).ok();
    let lines = [&wide, &narrow].map(|output| log_lines(&output.with_extension("jsonl")));
    let bytes = lines
        .each_ref()
        .map(|lines| number(&lines[5], "optimizer_state_bytes"));
    assert!(bytes[1] < 0.4 * bytes[0], "{bytes:?}");
    for (wide, narrow) in lines[0].iter().zip(&lines[1]) {
        let (wide, narrow) = (number(wide, "loss"), number(narrow, "loss"));
        assert!((narrow / wide - 1.0).abs() < 0.01, "{narrow} is not {wide}");
    }
    // The same run again, resumed and resident, has the same bits.
    let expected = paging.outcome(&narrow);
    for step in ["4", "6"] {
        let folder = format!("checkpoints/step-0000000{step}");
        fs::remove_dir_all(narrow.join(folder)).expect("it was written");
    }
    paging
        .train(&narrow, &["--optimizer", "paged-adamw-8bit", "--resume"])
        .ok();
    assert!(paging.outcome(&narrow) == expected);
    // Moments of one kind are not the other's.
    paging
        .train(&narrow, &["--resume"])
        .refused(&["optimizer", "adamw-8bit"]);
}

const LAYER: [&str; 2] = ["--checkpointing", "layer"];

#[test]
fn weights_that_are_read_again_train_answer_and_measure_the_same() {
    let paging = Paging::new();
    let (model, rows) = (&paging.model, &paging.rows);
    let still = paging.place.path("still");
    paging.train(&still, &LAYER).ok();
    let expected = paging.outcome(&still);
    let moved = |output: &Path| {
        let lines = log_lines(&output.with_extension("jsonl"));
        lines[5]["weight_bytes_moved"].as_u64()
    };
    assert_eq!(moved(&still), None);
    let folder = paging.place.path("pages");
    fs::create_dir(&folder).expect("made");
    let is_left = || fs::read_dir(&folder).expect("there").count() > 0;
    let all = moved_at(&paging, &folder, "0", &expected, moved);
    let half = moved_at(&paging, &folder, "50%", &expected, moved);
    assert!(half < all && half * 3 > all, "{half} of {all}");
    let run = paging.train(
        &paging.place.path("auto"),
        &[&LAYER[..], &["--weights-budget", "auto"]].concat(),
    );
    // There is room for so small a model.
    assert!(!run.ok().stdout.contains("read at every use"));
    assert!(paging.outcome(&paging.place.path("auto")) == expected);
    assert!(!is_left());
    finetune!("verify", paging.place.path("50%"), "--steps", "2").ok();

    let prompt = ["--prompt", "abc", "--max-tokens", "8", "--temperature", "0"];
    for (command, more) in [
        ("generate", &prompt[..]),
        ("eval", &["--batch-size", "4"][..]),
        ("eval", &["--batch-size", "4", "--exact-match"][..]),
    ] {
        let run = |budget: &[&str]| {
            let mut line = std::process::Command::new(support::FINETUNE);
            line.arg(command).arg("--model").arg(model);
            line.arg("--adapter").arg(&still);
            if command == "eval" {
                line.arg("--data").arg(rows);
            }
            support::run(line.args(more).args(budget)).ok().stdout
        };
        let expected = run(&[]);
        for budget in ["0", "50%"] {
            let found = run(&["--weights-budget", budget]);
            let told = found
                .lines()
                .filter(|line| line.contains("read at every use"));
            assert_eq!(told.count(), 1, "{found}");
            let without: Vec<_> = found
                .lines()
                .filter(|line| !line.contains("read at every use"))
                .collect();
            assert_eq!(without, expected.lines().collect::<Vec<_>>());
        }
    }
}

/// Trains with weights in pages, holds what came out to what was `expected`, and returns the bytes that the last step read.
fn moved_at(
    paging: &Paging,
    folder: &Path,
    budget: &str,
    expected: &(Vec<f64>, Vec<u8>, Vec<u8>),
    moved: impl Fn(&Path) -> Option<u64>,
) -> u64 {
    let output = paging.place.path(budget);
    let folder = folder.to_str().expect("UTF-8");
    let more = ["--weights-budget", budget, "--page-dir", folder];
    let run = paging.train(&output, &[&LAYER[..], &more].concat()).ok();
    assert!(
        run.stdout.contains("of packed weights stay in memory"),
        "{run:#?}"
    );
    assert!(paging.outcome(&output) == *expected, "{budget}");
    moved(&output).expect("weights are in pages")
}

#[test]
fn weights_that_cannot_be_paged_are_refused() {
    let paging = Paging::new();
    let output = paging.place.path("run");
    let train = |more: &[&str]| paging.train(&output, more);
    train(&["--weights-budget", "0"]).refused(&["--weights-budget 0", "--checkpointing layer"]);
    let zero = [&LAYER[..], &["--weights-budget", "0"]].concat();
    train(&[&zero[..], &["--quant", "none"]].concat())
        .refused(&["--weights-budget 0", "--quant none"]);
    train(&[&zero[..], &["--page-dir", "/nowhere"]].concat()).refused(&["--page-dir /nowhere"]);
    train(&["--page-dir", "/"]).refused(&["--page-dir", "--weights-budget"]);
    let run = train(&["--weights-budget", "much"]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("50%"), "{}", run.stderr);
    assert!(!output.exists());
    // A plan knows what stays.
    let plan = |budget: &str| {
        let run = finetune!(
            "plan",
            "--like",
            "llama-7b",
            "--checkpointing",
            "layer",
            "--weights-budget",
            budget
        );
        support::printed_bytes(&run.ok().stdout, "4-bit weights")
    };
    let [all, half, none] = ["resident", "50%", "0"].map(plan);
    assert!(none < 0.06 * all && none > 0.03 * all, "{none} of {all}");
    assert!(
        (half - none / 2.0 - all / 2.0).abs() < 0.03 * all,
        "{half} of {all}"
    );
}

#[test]
fn what_cannot_work_is_refused() {
    let paging = Paging::new();
    let output = paging.place.path("run");
    paging
        .train(&output, &["--optimizer-budget", "0"])
        .refused(&["--optimizer-budget", "paged-adamw"]);
    let run = paging.train(
        &output,
        &["--optimizer", "paged-adamw", "--optimizer-budget", "much"],
    );
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("50%"), "{}", run.stderr);
    paging
        .train(&output, &["--device-memory", "1GB"])
        .refused(&["--device-memory", "paged-adamw"]);
    paging
        .train(&output, &[&ZERO[..], &["--device-memory", "1GB"]].concat())
        .refused(&["--device-memory", "auto", "the budget is 0"]);
    let run = paging.train(&output, &["--device-memory", "much"]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("24GB"), "{}", run.stderr);
    assert!(!output.exists());
}

/// State has to leave where the limit leaves no room for it, and stays where there is plenty.
fn a_memory_limit_decides_what_stays(device: &str) {
    let paging = Paging::new();
    let resident = |limit: &str| {
        let output = paging.place.path(limit);
        let more = ["--device", device, "--optimizer", "paged-adamw"];
        let run = paging.train(&output, &[&more[..], &["--device-memory", limit]].concat());
        run.ok();
        let line = log_lines(&output.with_extension("jsonl")).remove(5);
        let bytes = |key: &str| number(&line, &format!("optimizer_{key}_bytes"));
        assert!(bytes("state") > 0.0);
        bytes("resident") / bytes("state")
    };
    assert_eq!(resident("1kB"), 0.0);
    assert_eq!(resident("1000GB"), 1.0);
}

#[test]
fn on_flex_a_memory_limit_decides_what_stays() {
    a_memory_limit_decides_what_stays("flex");
}

#[cfg(feature = "wgpu")]
#[test]
fn on_wgpu_a_memory_limit_decides_what_stays() {
    a_memory_limit_decides_what_stays("wgpu");
    let paging = Paging::new();
    let auto = ["--optimizer", "paged-adamw", "--optimizer-budget", "auto"];
    paging
        .train(
            &paging.place.path("run"),
            &[&auto[..], &["--device", "wgpu"]].concat(),
        )
        .refused(&["auto", "wgpu", "--device-memory 24GB"]);
}

#[test]
fn a_strangers_file_in_the_way_is_named_and_kept() {
    let paging = Paging::new();
    let output = paging.place.path("run");
    paging.train(&output, &ZERO).ok();
    fs::remove_dir_all(output.join("checkpoints/step-00000006")).expect("it was written");
    let stranger = output.join("optimizer.pages");
    fs::write(&stranger, "not pages").expect("written");
    let listing = paging.place.listing("run/checkpoints");
    let more = [&ZERO[..], &["--resume"]].concat();
    let run = paging.train(&output, &more);
    run.refused(&["optimizer.pages", "not a page file"]);
    assert_eq!(fs::read(&stranger).expect("there"), b"not pages");
    assert_eq!(paging.place.listing("run/checkpoints"), listing);
    fs::remove_file(&stranger).expect("there");
    paging.train(&output, &more).ok();
}
