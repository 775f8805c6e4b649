//! Going on with a run: what may have changed since, what may not, and what is never lost.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{self, Place, Run, log_lines, number};

/// A short run with a model and rows.
struct Short {
    place: Place,
    model: PathBuf,
    rows: PathBuf,
}

impl Short {
    fn new() -> Self {
        let place = Place::new();
        let (model, rows) = (place.model("tiny_llama"), place.rows(12));
        Self { place, model, rows }
    }

    fn train(&self, name: &str, more: &[&str]) -> Run {
        self.train_on(&self.model, &self.rows, name, more)
    }

    fn train_on(&self, model: &Path, data: &Path, name: &str, more: &[&str]) -> Run {
        let mut command = support::train(model, data, &self.place.path(name));
        command.args(["--seq-len", "64", "--rank", "2"]);
        if !more.contains(&"--lr") {
            command.args(["--lr", "5e-3"]);
        }
        support::run(command.args(more))
    }

    fn settings(&self, name: &str) -> Value {
        let text = fs::read(self.place.path(name).join("run.json")).expect("there is a run");
        serde_json::from_slice(&text).expect("JSON")
    }

    /// Takes a finished run back to its checkpoint at `step`.
    fn take_back(&self, name: &str, step: usize) {
        let run = self.place.path(name);
        for entry in fs::read_dir(run.join("checkpoints")).expect("there are some") {
            let entry = entry.expect("an entry");
            if entry.file_name().to_str() > Some(&format!("step-{step:08}")) {
                fs::remove_dir_all(entry.path()).expect("removed");
            }
        }
        let _ = fs::remove_file(run.join("adapter_model.safetensors"));
    }
}

const FOUR: [&str; 4] = ["--steps", "4", "--save-every", "2"];
const FOUR_RESUMED: [&str; 5] = ["--steps", "4", "--save-every", "2", "--resume"];

#[test]
fn the_last_checkpoints_stay_and_a_run_goes_on_from_them() {
    let short = Short::new();
    short.train("whole", &FOUR).ok();
    let kept = ["--save-every", "1", "--save-total", "2"];
    short
        .train("run", &[&kept[..], &["--steps", "3"]].concat())
        .ok();
    let listing = || short.place.listing("run/checkpoints");
    assert_eq!(listing(), ["step-00000002", "step-00000003"]);
    short
        .train("run", &[&kept[..], &["--steps", "4", "--resume"]].concat())
        .ok();
    assert_eq!(listing(), ["step-00000003", "step-00000004"]);
    assert!(short.place.adapter("run") == short.place.adapter("whole"));
}

/// Rows held out of 12 are learnt by heart soon, and then better and better, so the last step is the best; a learning rate
/// that throws the adapter far away makes it an earlier one.
#[test]
fn a_run_ends_with_the_adapter_of_its_best_step() {
    let short = Short::new();
    let flags = "--steps 6 --lr 0.1 --eval-split 0.2 --eval-every 1 --keep-best --save-total 1 --early-stop 3";
    let flags: Vec<&str> = flags.split(' ').collect();
    let run = short.train("run", &flags).ok();
    let stdout = &run.stdout;
    let step = stdout.split("The adapter is that of step ").nth(1);
    let step = step.unwrap_or_else(|| panic!("the last step is the best: {stdout}"));
    let step: usize = step.split(',').next().unwrap().parse().expect("a step");
    let checkpoint = format!("run/checkpoints/step-{step:08}");
    assert!(short.place.adapter("run") == short.place.adapter(&checkpoint));
    assert_eq!(short.place.listing("run/checkpoints").len(), 2);

    // Killed behind the best step, or while its adapter was copied, it ends with the same one.
    let state = || {
        let evaluations = short.place.evaluations("run").into_iter();
        let evaluations = evaluations.map(|one| (one["step"].clone(), one["evaluation"].clone()));
        let evaluations: Vec<_> = evaluations.collect();
        let listing = short.place.listing("run/checkpoints");
        (short.place.adapter("run"), evaluations, listing)
    };
    let whole = state();
    let resumed = [&flags[..], &["--resume"]].concat();
    for back_to in [step, usize::MAX] {
        if back_to == step {
            short.take_back("run", step);
        } else {
            let file = short.place.path("run").join("adapter_model.safetensors");
            fs::remove_file(file).expect("removed");
        }
        let run = short.train("run", &resumed).ok();
        assert!(
            run.stdout.contains(&format!("that of step {step},")),
            "{}",
            run.stdout
        );
        assert!(state() == whole, "from {back_to}");
    }
}

/// The template prints nanoseconds in place of the day, so that no two runs have one date and no test waits for
/// midnight.
#[test]
fn a_template_that_prints_the_date_prints_that_of_the_run() {
    let short = Short::new();
    let template = short.place.file(
        "dated.jinja",
        "{{ strftime_now('%d %b %Y %H:%M:%S %f') }} {% for message in messages %}{{ message.role }}: \
         {{ message.content }};{% endfor %}",
    );
    let chats = short.place.file(
        "chats.jsonl",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"}]}\n"
            .repeat(6),
    );
    let dated = ["--chat-template", template.to_str().expect("UTF-8")];
    let train = |name: &str, more: &[&str]| {
        let arguments = [&dated[..], more].concat();
        short.train_on(&short.model, &chats, name, &arguments).ok()
    };
    train("run", &FOUR);
    let whole = short.place.adapter("run");
    short.take_back("run", 2);
    train("run", &FOUR_RESUMED);
    assert!(short.place.adapter("run") == whole);
    // The date is in the rows: another run has other ones.
    train("other", &FOUR);
    let fingerprint = |name: &str| short.settings(name)["data-fingerprint"].clone();
    assert_ne!(fingerprint("other"), fingerprint("run"));
    // With the date of the first one it is the first one.
    let settings = fs::read(short.place.path("run").join("run.json")).expect("read");
    short.take_back("other", 0);
    fs::write(short.place.path("other").join("run.json"), settings).expect("written");
    train("other", &FOUR_RESUMED);
    assert!(short.place.adapter("other") == whole);
}

#[test]
fn what_a_run_reads_may_move_but_not_change() {
    let short = Short::new();
    short.train("first", &["--steps", "1"]).ok();
    let start = short.place.path("start");
    fs::create_dir(&start).expect("made");
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(short.place.path("first").join(name), start.join(name)).expect("copied");
    }
    let train = |model: &Path, rows: &Path, start: &Path, more: &[&str]| {
        let mut command = support::train(model, rows, &short.place.path("run"));
        command.arg("--init-adapter").arg(start);
        support::run(command.args(["--seq-len", "64"]).args(more))
    };
    train(&short.model, &short.rows, &start, &FOUR).ok();
    let whole = short.place.adapter("run");
    short.take_back("run", 2);

    // Everything elsewhere, and the rows spelled otherwise.
    let moved = |name: &str| short.place.path("moved").join(name);
    fs::create_dir(short.place.path("moved")).expect("made");
    fs::rename(&short.model, moved("model")).expect("moved");
    fs::rename(&start, moved("start")).expect("moved");
    let rows = short.place.path("moved/../rows.jsonl");
    let resumed = || train(&moved("model"), &rows, &moved("start"), &FOUR_RESUMED);
    resumed().ok();
    assert!(short.place.adapter("run") == whole);
    short.take_back("run", 2);

    // One value of a norm, in the middle of the file.
    let weights = moved("model").join("model.safetensors");
    let before = fs::read(&weights).expect("read");
    let mut changed = before.clone();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    fs::write(&weights, changed).expect("written");
    resumed().refused(&["another model", "model", "start another run"]);
    fs::write(&weights, before).expect("written");
    let config = moved("model").join("config.json");
    let before = fs::read_to_string(&config).expect("read");
    let other = before.replace("1e-05", "1e-01").replace("1e-5", "1e-1");
    assert_ne!(other, before);
    fs::write(&config, other).expect("written");
    resumed().refused(&["another model"]);
    fs::write(&config, before).expect("written");

    let adapter = moved("start").join("adapter_model.safetensors");
    let before = fs::read(&adapter).expect("read");
    let mut changed = before.clone();
    changed[last.min(before.len() - 1)] ^= 1;
    fs::write(&adapter, changed).expect("written");
    resumed().refused(&["another init-adapter"]);
    fs::write(&adapter, before).expect("written");
    resumed().ok();
    assert!(short.place.adapter("run") == whole);
}

#[test]
fn a_constant_schedule_may_grow_and_no_other() {
    let short = Short::new();
    let constant = ["--warmup-steps", "2", "--dropout", "0.1"];
    short
        .train("whole", &[&constant[..], &["--steps", "6"]].concat())
        .ok();
    short
        .train("grown", &[&constant[..], &["--steps", "3"]].concat())
        .ok();
    let longer = [&constant[..], &["--steps", "6", "--resume"]].concat();
    short.train("grown", &longer).ok();
    assert!(short.place.adapter("grown") == short.place.adapter("whole"));
    short
        .train(
            "grown",
            &[&constant[..], &["--epochs", "1", "--resume"]].concat(),
        )
        .refused(&["6 steps", "3 are asked for", "--steps 6"]);

    let linear = ["--schedule", "linear"];
    short
        .train("linear", &[&linear[..], &["--steps", "2"]].concat())
        .ok();
    short
        .train(
            "linear",
            &[&linear[..], &["--steps", "4", "--resume"]].concat(),
        )
        .refused(&["linear", "--steps 2", "--init-adapter", "linear"]);
}

/// `run.json` as it was before it had fingerprints, a date and the machine.
#[test]
fn older_runs_go_on() {
    let short = Short::new();
    short.train("run", &FOUR).ok();
    let whole = short.place.adapter("run");
    short.take_back("run", 2);
    let mut settings = short.settings("run");
    let keys = settings.as_object_mut().expect("an object");
    for new in ["model-fingerprint", "started", "device", "instruction-set"] {
        keys.remove(new);
    }
    fs::write(short.place.path("run/run.json"), settings.to_string()).expect("written");
    let state = short.place.path("run/checkpoints/step-00000002/state.json");
    fs::write(state, "{\"step\":2}").expect("written");
    short.train("run", &FOUR_RESUMED).ok();
    assert!(short.place.adapter("run") == whole);
}

#[test]
fn a_run_of_another_process_is_refused_and_left_alone() {
    let short = Short::new();
    short.train("run", &FOUR).ok();
    short.take_back("run", 2);
    let run = short.place.path("run");
    let unfinished = run.join("checkpoints/.unfinished-00000003");
    fs::create_dir(&unfinished).expect("made");
    let settings = run.join("run.json");
    let before = fs::read(&settings).expect("read");
    let file = fs::File::open(&settings).expect("there");
    file.lock().expect("locked");
    let missing = short.place.path("no/such/folder/log.jsonl");
    let log = ["--log-json", missing.to_str().expect("UTF-8")];
    short
        .train("run", &FOUR_RESUMED)
        .refused(&["run is in use", "another process"]);
    short
        .train("run", &FOUR)
        .refused(&["run is in use", "another process"]);
    assert!(unfinished.is_dir());
    drop(file);
    // A start that fails removes nothing that it did not make.
    short
        .train("run", &[&FOUR_RESUMED[..], &log].concat())
        .refused(&["--log-json"]);
    fs::remove_dir_all(run.join("checkpoints")).expect("removed");
    short
        .train("run", &[&FOUR_RESUMED[..], &log].concat())
        .refused(&["--log-json"]);
    assert_eq!(fs::read(&settings).expect("still there"), before);
    short
        .train("new", &[&FOUR[..], &log].concat())
        .refused(&["--log-json"]);
    assert!(!short.place.path("new").exists());
}

#[test]
fn pages_of_a_killed_process_go_though_nothing_is_paged_any_more() {
    let short = Short::new();
    short.train("run", &FOUR).ok();
    short.take_back("run", 2);
    let pages = short.place.path("run/optimizer.pages");
    fs::write(&pages, [b"BRNPAGE1".as_slice(), &[0; 8192]].concat()).expect("written");
    short.train("run", &FOUR_RESUMED).ok();
    assert!(!pages.exists());
}

#[test]
fn a_damaged_checkpoint_is_refused_and_the_one_before_it_taken() {
    let short = Short::new();
    short
        .train("run", &["--steps", "6", "--save-every", "2"])
        .ok();
    let whole = short.place.adapter("run");
    short.take_back("run", 4);
    let last = short.place.path("run/checkpoints/step-00000004");
    let file = last.join("adapter_model.safetensors");
    let mut bytes = fs::read(&file).expect("read");
    *bytes.last_mut().expect("bytes") ^= 4;
    fs::write(&file, bytes).expect("written");
    let resumed = ["--steps", "6", "--save-every", "2", "--resume"];
    let remove = format!("remove {} to go on from step 2", last.display());
    short.train("run", &resumed).refused(&[
        "step-00000004/adapter_model.safetensors",
        "checksum",
        &remove,
    ]);
    fs::remove_dir_all(last).expect("removed");
    short.train("run", &resumed).ok();
    assert!(short.place.adapter("run") == whole);
}

/// The numbers go wrong in the second step, and the first is saved though nobody asked for it.
#[test]
fn what_was_learnt_before_a_loss_that_is_no_number_is_saved() {
    let short = Short::new();
    let log = short.place.path("log.jsonl");
    let high = ["--steps", "8", "--max-grad-norm", "0", "--log-json"];
    let log = log.to_str().expect("UTF-8");
    let run = short.train(
        "high",
        &[&high[..], &[log, "--lr", "1e30", "--no-shuffle"]].concat(),
    );
    let steps = log_lines(Path::new(log)).len();
    assert_eq!(run.code, Some(2), "{run:#?}");
    let last = run.stderr.lines().last().unwrap_or_default();
    let named = format!("step {}: ", steps + 1);
    for needle in ["error: ", &named, "rows.jsonl:"] {
        assert!(last.contains(needle), "{needle}: {last}");
    }
    assert!(steps > 0);
    let listing = short.place.listing("high/checkpoints");
    assert_eq!(listing, [format!("step-{steps:08}")]);

    // Beyond f32 nothing is done at all, and nothing left.
    short
        .train("higher", &["--steps", "1", "--lr", "1e39"])
        .refused(&["step 1", "1e39", "lower the learning rate"]);
    assert!(!short.place.path("higher").exists());
}

/// Weights whose products f16 cannot hold.
#[test]
fn in_f16_the_dtype_and_the_way_out_are_named() {
    let short = Short::new();
    let weights = short.model.join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("read");
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight")) as usize;
    for value in bytes[start..].as_chunks_mut::<2>().0 {
        // bf16 is the upper half of f32.
        let wide = f32::from_bits(u32::from(u16::from_le_bytes(*value)) << 16);
        *value = (((wide * 4096.0).to_bits() >> 16) as u16).to_le_bytes();
    }
    fs::write(&weights, bytes).expect("written");
    let half = ["--compute-dtype", "f16"];
    short
        .train("run", &[&half[..], &["--steps", "2"]].concat())
        .refused(&["f16", "bf16 or f32", "step 1", "rows.jsonl:"]);
    assert!(!short.place.path("run").exists());
    let mut eval = support::eval(&short.model, &short.rows);
    support::run(eval.arg("--json").args(half)).refused(&[
        "f16",
        "bf16 or f32",
        "held-out rows",
        "rows.jsonl:1",
    ]);
}

/// A log whose last line was torn by a full disk.
#[test]
fn a_torn_log_line_is_cut_off_and_no_step_is_there_twice() {
    let short = Short::new();
    let log = short.place.path("log.jsonl");
    let arguments = |more: &[&str]| {
        let log = ["--log-json", log.to_str().expect("UTF-8")];
        short.train("run", &[&log[..], more].concat()).ok()
    };
    arguments(&FOUR);
    let whole: Vec<f64> = log_lines(&log)
        .iter()
        .map(|line| number(line, "loss"))
        .collect();
    let text = fs::read_to_string(&log).expect("read");
    fs::write(&log, &text[..text.len() - 40]).expect("written");
    short.take_back("run", 2);
    arguments(&FOUR_RESUMED);
    let lines = log_lines(&log);
    let steps: Vec<f64> = lines.iter().map(|line| number(line, "step")).collect();
    assert_eq!(steps, [1.0, 2.0, 3.0, 4.0]);
    let losses: Vec<f64> = lines.iter().map(|line| number(line, "loss")).collect();
    assert_eq!(losses, whole);
}
