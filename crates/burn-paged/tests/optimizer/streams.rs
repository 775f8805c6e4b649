//! On CUDA pages move on streams of their own, which the software device writes down. It also ends a test in which a stream uses
//! memory after another with no event between.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn_paged::{Budget, PagingReport};
use qlora_test_support::{Device, assert_passed, in_own_process};
use serde_json::Value;

use crate::budgets::adamw;
use crate::support::{PAGE, Training};

const LOG: &str = "PTX_DEVICE_STREAM_LOG";
const CHILD: &str = "streams::a_run_whose_streams_are_written_down";

/// Bytes that each stream has copied in a step, to the device and from it, and the kernels it was given.
#[derive(Debug, Default)]
struct Given {
    bytes_in: u64,
    bytes_out: u64,
    kernels: u64,
}

/// What streams were given since the log had `before` lines.
fn given(log: &Path, before: usize) -> (BTreeMap<u64, Given>, usize) {
    let text = fs::read_to_string(log).unwrap();
    let mut streams: BTreeMap<u64, Given> = BTreeMap::new();
    for line in text.lines().skip(before) {
        let entry: Value = serde_json::from_str(line).unwrap();
        let number = |key: &str| entry[key].as_u64().unwrap();
        let stream = streams.entry(number("stream")).or_default();
        match entry["operation"].as_str().unwrap() {
            "kernel" => stream.kernels += 1,
            "to the device" => stream.bytes_in += number("bytes"),
            "from the device" => stream.bytes_out += number("bytes"),
            _ => {}
        }
    }
    (streams, text.lines().count())
}

#[test]
#[ignore = "run by the tests below, with a log"]
fn a_run_whose_streams_are_written_down() {
    let log = std::env::var_os(LOG).expect("a log");
    let log = Path::new(&log);
    let device = Device::cuda(0);
    let mut training = Training::new(adamw(Budget::Bytes(0)), &device);
    let mut step = |before: usize| -> (PagingReport, BTreeMap<u64, Given>, usize) {
        training.step();
        training.optimizer.end_step().unwrap();
        device.sync().unwrap();
        let (streams, lines) = given(log, before);
        (training.optimizer.report(), streams, lines)
    };
    // The first one makes the pages, and leaves the first of the next step in its buffer.
    let (_, _, lines) = step(0);
    let (report, streams, _) = step(lines);
    println!("{report:?} {streams:?}");

    let (updates, copies): (Vec<_>, Vec<_>) = streams.values().partition(|it| it.kernels > 0);
    let sum =
        |streams: &[&Given], of: fn(&Given) -> u64| streams.iter().map(|it| of(it)).sum::<u64>();
    assert_eq!(updates.len(), 1, "updates have one stream");
    assert_eq!(copies.len(), 2, "each of the two buffers has a stream");
    assert!(copies.iter().all(|it| it.bytes_in > 0 && it.bytes_out > 0));
    // All of the state is streamed, and nothing else goes that way.
    assert_eq!(report.resident_bytes, 0);
    assert_eq!(report.bytes_in, report.state_bytes);
    assert_eq!(sum(&copies, |it| it.bytes_out), report.bytes_out);
    // The first page of this step came in at the end of the one before, and that of the next in this one.
    assert_eq!(sum(&copies, |it| it.bytes_in), report.bytes_in);
    // Beside the kernels there are gradients and what kernels are launched with, and no page.
    assert_eq!(sum(&updates, |it| it.bytes_out), 0);
    assert!(report.state_bytes > 4 * PAGE as u64);
}

#[test]
fn pages_are_copied_on_streams_of_their_own_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("streams.jsonl");
    let output = in_own_process(CHILD, &[(LOG, log.to_str().unwrap())]);
    assert_passed(&output);
}

/// Were the order not asked for, the test above would fail.
#[test]
fn copies_that_nobody_waits_for_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("streams.jsonl");
    let variables = [(LOG, log.to_str().unwrap()), ("PTX_DEVICE_MISS_WAITS", "1")];
    let output = in_own_process(CHILD, &variables);
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("with no event between"), "{error}");
}
