//! Processes that train together, started by `mpirun`.
//!
//! What is compared is what one process does with the same flags: losses and adapters but for the order in which gradients are
//! added up, and every bit between runs of as many ranks.

#![cfg(unix)]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::support::{FINETUNE, Place, Run, log_lines, number, run};

/// Losses, and values of adapters, that differ by rounding alone.
const ROUNDING: f64 = 1e-5;
/// Within what time a run ends on all ranks when one is gone.
const END: Duration = Duration::from_secs(30);

/// A model, data, and what a run is asked for.
struct Runs {
    place: Place,
    model: PathBuf,
    rows: PathBuf,
    flags: Vec<&'static str>,
}

impl Runs {
    /// Steps of four batches with two rows each, of which the last of an epoch has one and a half.
    fn new(flags: &[&'static str]) -> Self {
        let place = Place::new();
        let (model, rows) = (place.model("tiny_llama_nf4"), place.rows(19));
        let mut all = vec!["--seq-len", "64", "--lr", "1e-3"];
        all.extend(["--batch-size", "2", "--warmup-steps", "2"]);
        all.extend(flags);
        Self {
            place,
            model,
            rows,
            flags: all,
        }
    }

    /// The arguments of a run into the folder `name`.
    fn train(&self, command: &mut Command, name: &str) {
        command.arg("train").arg("--model").arg(&self.model);
        command.arg("--data").arg(&self.rows);
        command.arg("--output").arg(self.place.path(name));
        command.arg("--log-json").arg(self.log(name));
        command.args(&self.flags);
    }

    fn log(&self, name: &str) -> PathBuf {
        self.place.path(&format!("{name}.jsonl"))
    }

    fn alone(&self, name: &str) -> Run {
        let mut command = Command::new(FINETUNE);
        self.train(&mut command, name);
        run(&mut command)
    }

    fn together(&self, ranks: usize, name: &str) -> Command {
        let mut command = mpirun(ranks);
        self.train(&mut command, name);
        command
    }

    /// The losses of the steps, and then those of the evaluations where there are any.
    #[track_caller]
    fn losses(&self, name: &str) -> Vec<f64> {
        let lines = log_lines(&self.log(name));
        let mut losses: Vec<f64> = lines.iter().map(|line| number(line, "loss")).collect();
        if self.place.path(name).join("evaluations.json").exists() {
            let evaluations = self.place.evaluations(name);
            losses.extend(
                evaluations
                    .iter()
                    .map(|one| number(&one["evaluation"], "nll")),
            );
        }
        losses
    }

    /// The values of the adapter of a finished run.
    #[track_caller]
    fn adapter(&self, name: &str) -> Vec<f32> {
        let bytes = self.place.adapter(name);
        let (header, data) = bytes.split_at(8);
        let header = u64::from_le_bytes(header.try_into().unwrap()) as usize;
        let values = data[header..].as_chunks().0.iter();
        values.map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    #[track_caller]
    fn assert_same(&self, name: &str, other: &str, tolerance: f64) {
        let (own, others) = (self.losses(name), self.losses(other));
        assert_eq!(own.len(), others.len());
        for (own, other) in own.iter().zip(&others) {
            assert!((own - other).abs() <= tolerance, "{name}: {own}, {other}");
        }
        let (own, others) = (self.adapter(name), self.adapter(other));
        assert_eq!(own.len(), others.len());
        let apart = own.iter().zip(&others);
        let apart = apart.map(|(own, other)| f64::from((own - other).abs()));
        let apart = apart.fold(0.0, f64::max);
        assert!(apart <= tolerance, "{name}: adapters differ by {apart}");
    }
}

/// Returns `mpirun -n RANKS finetune`, as anyone on any machine can run it.
fn mpirun(ranks: usize) -> Command {
    let mut command = Command::new("mpirun");
    // Open MPI's: as root, and more ranks than cores. Others know none of these.
    for name in ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] {
        command.env(name, "1");
    }
    command.env("OMPI_MCA_rmaps_base_oversubscribe", "1");
    command.env("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe");
    command.arg("-n").arg(ranks.to_string()).arg(FINETUNE);
    command
}

/// A run under way.
struct Started {
    child: Child,
}

impl Started {
    fn start(command: &mut Command) -> Self {
        command.env("HF_ENDPOINT", "http://127.0.0.1:9");
        command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self {
            child: command.spawn().expect("mpirun is there"),
        }
    }

    /// The processes of the ranks, in their order, once there are as many.
    fn ranks(&self, count: usize) -> Vec<i32> {
        let start = Instant::now();
        loop {
            let mut ranks: Vec<(usize, i32)> = fs::read_dir("/proc")
                .expect("/proc")
                .filter_map(|entry| rank_of(&entry.ok()?.path(), self.child.id()))
                .collect();
            if ranks.len() == count {
                ranks.sort_unstable();
                return ranks.into_iter().map(|(_, process)| process).collect();
            }
            assert!(start.elapsed() < END, "{ranks:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the end; returns what was printed, and how long it took.
    fn end(mut self) -> (Run, Duration) {
        let start = Instant::now();
        let (mut stdout, mut stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stdout.as_mut().unwrap().read_to_string(&mut text);
            text
        });
        let mut told = String::new();
        stderr.as_mut().unwrap().read_to_string(&mut told).unwrap();
        let status = self.child.wait().unwrap();
        let run = Run {
            code: status.code(),
            stdout: reader.join().unwrap(),
            stderr: told,
        };
        (run, start.elapsed())
    }
}

/// The rank of a process of `mpirun`, and its number.
fn rank_of(process: &Path, mpirun: u32) -> Option<(usize, i32)> {
    let number = process.file_name()?.to_str()?.parse().ok()?;
    let status = fs::read_to_string(process.join("status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    // MPICH has a process between.
    let of_proxy = || {
        let path = format!("/proc/{}/status", parent.trim());
        let status = fs::read_to_string(path).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        Some(parent.trim() == mpirun.to_string())
    };
    if parent.trim() != mpirun.to_string() && of_proxy() != Some(true) {
        return None;
    }
    let environment = fs::read(process.join("environ")).ok()?;
    let environment = String::from_utf8_lossy(&environment).into_owned();
    let rank = environment.split('\0').find_map(|variable| {
        let (name, value) = variable.split_once('=')?;
        ["OMPI_COMM_WORLD_RANK", "PMI_RANK"]
            .contains(&name)
            .then(|| value.parse().ok())?
    });
    Some((rank?, number))
}

fn signal(process: i32, signal: i32) {
    // SAFETY: a plain call of the system; the process is one of this test's.
    unsafe { libc::kill(process, signal) };
}

/// Waits until a step of the run is logged.
fn wait_for_step(log: &Path, step: usize) {
    let start = Instant::now();
    while fs::read_to_string(log).map_or(0, |text| text.lines().count()) < step {
        assert!(start.elapsed() < 4 * END, "step {step} does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn ranks_do_what_one_process_does_with_the_same_bits_each_time() {
    let mut runs = Runs::new(&[
        "--dropout",
        "0.1",
        "--grad-accum",
        "4",
        "--steps",
        "20",
        "--eval-every",
        "10",
    ]);
    let held_out = runs
        .place
        .file("held-out.jsonl", fs::read(&runs.rows).unwrap());
    let held_out: &'static str = held_out.to_str().unwrap().to_owned().leak();
    runs.flags.extend(["--eval-data", held_out]);
    runs.alone("one").ok();
    let told = run(&mut runs.together(2, "two")).ok();
    assert!(told.stdout.contains("20 steps of 8 rows on 2 ranks"));
    assert_eq!(told.stdout.matches("The adapter is in").count(), 1);
    run(&mut runs.together(4, "four")).ok();
    run(&mut runs.together(4, "again")).ok();
    runs.assert_same("two", "one", ROUNDING);
    runs.assert_same("four", "one", ROUNDING);
    assert_eq!(runs.losses("four").len(), 22);
    runs.assert_same("again", "four", 0.0);
    assert_eq!(runs.place.adapter("again"), runs.place.adapter("four"));
}

/// Three batches a step on five ranks, and two in the last of an epoch. In bf16, sums of gradients are another's.
#[test]
fn ranks_without_rows_wait_for_the_others() {
    let runs = Runs::new(&["--dropout", "0.1", "--grad-accum", "3", "--steps", "8"]);
    runs.alone("one").ok();
    let told = run(&mut runs.together(5, "five")).ok();
    let warning = "a step has 3 batches for its ranks, so 2 of 5 ranks have nothing to do: give --grad-accum 5";
    assert!(told.stderr.contains(warning), "{}", told.stderr);
    runs.assert_same("five", "one", ROUNDING);
    let mut in_bf16 = runs.together(3, "bf16");
    run(in_bf16.args(["--allreduce-dtype", "bf16"])).ok();
    let (exact, rounded) = (runs.losses("one"), runs.losses("bf16"));
    // The first loss is that of the same adapters.
    assert!((exact[0] - rounded[0]).abs() <= ROUNDING);
    assert_ne!(runs.place.adapter("bf16"), runs.place.adapter("five"));
    for (exact, rounded) in exact.iter().zip(&rounded) {
        assert!((exact - rounded).abs() < 1e-2, "{exact} {rounded}");
    }
}

/// A request to stop comes to one of four ranks; two go on.
#[test]
fn a_run_goes_on_with_fewer_ranks() {
    let runs = Runs::new(&["--dropout", "0.1", "--grad-accum", "4", "--steps", "60"]);
    runs.alone("one").ok();
    let started = Started::start(&mut runs.together(4, "run"));
    let ranks = started.ranks(4);
    wait_for_step(&runs.log("run"), 2);
    signal(ranks[2], libc::SIGTERM);
    let (stopped, _) = started.end();
    let stopped = stopped.ok();
    assert!(stopped.stdout.contains("saved"), "{}", stopped.stdout);
    assert!(log_lines(&runs.log("run")).len() < 60);
    let resumed = run(runs.together(2, "run").arg("--resume")).ok();
    let warning = "the run was started with ranks = 4, now it is 2";
    assert!(resumed.stderr.contains(warning), "{}", resumed.stderr);
    runs.assert_same("run", "one", ROUNDING);
}

#[test]
fn preferences_are_learnt_together() {
    let mut runs = Runs::new(&[
        "--dropout",
        "0.1",
        "--objective",
        "kto",
        "--grad-accum",
        "2",
        "--steps",
        "4",
    ]);
    let row = |i: usize| {
        let (prompt, good) = (format!("{i} and {i}? "), i.is_multiple_of(2));
        format!(
            "{{\"prompt\":\"{prompt}\",\"completion\":\"{}.\",\"label\":{good}}}\n",
            2 * i
        )
    };
    runs.rows = runs
        .place
        .file("labelled.jsonl", (0..7).map(row).collect::<String>());
    runs.alone("one").ok();
    run(&mut runs.together(2, "two")).ok();
    runs.assert_same("two", "one", ROUNDING);
}

/// Without dropout, which a device draws in its own way.
#[cfg(feature = "wgpu")]
#[test]
fn ranks_on_other_devices_train_together() {
    let runs = Runs::new(&["--grad-accum", "2", "--steps", "3"]);
    let of = |command: &mut Command, device: &str| {
        runs.train(command, "mixed");
        command.args(["--device", device, "--device-index", "auto"]);
    };
    runs.alone("one").ok();
    let mut command = mpirun(1);
    of(&mut command, "flex");
    command.args([":", "-n", "1", FINETUNE]);
    of(&mut command, "wgpu");
    run(&mut command).ok();
    // What training on wgpu is held to beside recorded curves.
    runs.assert_same("mixed", "one", 1e-3);
}

#[test]
fn ranks_with_another_run_are_refused_in_one_line() {
    let runs = Runs::new(&["--grad-accum", "2", "--steps", "3"]);
    let mut command = mpirun(1);
    runs.train(&mut command, "run");
    command.args([":", "-n", "1", FINETUNE]);
    runs.train(&mut command, "run");
    let refused = run(command.args(["--lora-plus-ratio", "2"]));
    assert_eq!(refused.code, Some(2), "{refused:#?}");
    let errors = |run: &Run| -> Vec<String> {
        let lines = run.stderr.lines().filter(|line| line.starts_with("error:"));
        lines.map(str::to_owned).collect()
    };
    let told = "error: rank 1 has another configuration than rank 0; give every rank the same";
    assert_eq!(errors(&refused), [told]);
    assert!(runs.place.listing("run").is_empty());

    // What is wrong on all ranks is told once, and what is on one of them with its number.
    let missing = run(runs.together(3, "run").args(["--chat-template", "missing"]));
    assert_eq!(
        (missing.code, errors(&missing).len()),
        (Some(2), 1),
        "{missing:#?}"
    );
    let mut command = mpirun(1);
    runs.train(&mut command, "run");
    command.args([":", "-n", "1", FINETUNE]);
    runs.train(&mut command, "run");
    let one = run(command.args(["--device", "flex", "--device-index", "7"]));
    assert_eq!(one.code, Some(2), "{one:#?}");
    let told = errors(&one);
    assert!(
        told.len() == 1 && told[0].starts_with("error: rank 1: device flex:7"),
        "{told:?}"
    );
}

/// Kills a rank of three at random moments, until the run has come to its end.
fn kill_at_random(kills: usize) {
    let flags = [
        "--grad-accum",
        "3",
        "--steps",
        "60",
        "--save-every",
        "5",
        "--dropout",
        "0.1",
    ];
    let runs = Runs::new(&flags);
    let started = Instant::now();
    run(&mut runs.together(3, "whole")).ok();
    let time = started.elapsed();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let mut random = now.unwrap().as_nanos() as u64;
    println!("seed {random}");
    let mut share = move || {
        // Knuth's MMIX.
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (random >> 33) as f64 / (1u64 << 31) as f64
    };
    let mut done = 0;
    let mut name = String::new();
    for number in 0.. {
        if number % 3 == 0
            || runs
                .place
                .path(&name)
                .join("adapter_model.safetensors")
                .exists()
        {
            name = format!("run{number}");
        }
        let mut command = runs.together(3, &name);
        let resumes = runs.place.path(&name).join("run.json").exists();
        let begun = Started::start(command.args(resumes.then_some("--resume")));
        let last = done == kills;
        let victim = (share() * 3.0) as usize;
        if !last {
            let ranks = begun.ranks(3);
            std::thread::sleep(time.mul_f64(share() * 0.9));
            signal(ranks[victim], libc::SIGKILL);
        }
        let (ended, took) = begun.end();
        if ended.code != Some(0) {
            assert!(!last, "{ended:#?}");
            assert!(took < END, "{took:?}");
            done += 1;
        } else if last {
            break;
        }
    }
    // As many ranks, the same bits.
    assert_eq!(runs.place.adapter(&name), runs.place.adapter("whole"));
    assert_eq!(runs.losses(&name), runs.losses("whole"));
}

#[test]
fn a_rank_that_dies_ends_the_run_which_goes_on() {
    kill_at_random(2);
}

#[test]
#[ignore = "a minute: scripts/test-mpi.sh"]
fn ranks_that_die_ten_times_change_no_bit() {
    kill_at_random(10);
}

#[test]
#[ignore = "a minute of waiting: scripts/test-mpi.sh"]
fn a_rank_that_hangs_ends_the_run() {
    for (victim, ranks) in [(1, 3), (0, 2)] {
        let runs = Runs::new(&[
            "--grad-accum",
            "3",
            "--steps",
            "100000",
            "--save-every",
            "5",
        ]);
        let started = Started::start(&mut runs.together(ranks, "run"));
        let processes = started.ranks(ranks);
        wait_for_step(&runs.log("run"), 6);
        signal(processes[victim], libc::SIGSTOP);
        let (ended, took) = started.end();
        assert!(took < END, "{took:?}");
        assert_eq!(ended.code, Some(2), "{ended:#?}");
        let told = format!("error: rank {victim} has given no sign of life");
        assert_eq!(
            ended.stderr.matches("error: rank").count(),
            1,
            "{}",
            ended.stderr
        );
        assert!(ended.stderr.contains(&told), "{}", ended.stderr);
    }
}
