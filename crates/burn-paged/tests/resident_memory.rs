//! A process's resident memory while state that is not resident is updated (Flex). Alone in its process, since the
//! system tells only the peak of all.

#![cfg(target_os = "linux")]

use burn_core::tensor::{Device, Distribution, Tensor};
use burn_paged::{Budget, PagedAdamWConfig};

const MIB: u64 = 1 << 20;

fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .unwrap();
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
    kib * 1024
}

/// Three steps over `states` parameters of 16 MiB, so of 32 MiB of state each. One tensor stands for all
/// parameters: their memory is not what is asked about. Says by how much the process grew at its peak.
fn growth(states: usize) -> u64 {
    let device = Device::flex();
    // On a disk, where the folder for temporary files may be memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let optimizer = PagedAdamWConfig::new()
        .with_budget(Budget::Bytes(0))
        .with_page_file(Some(dir.path().join("pages")))
        .build()
        .unwrap();
    let random = || Tensor::<2>::random([4096, 1024], Distribution::Default, &device);
    let (param, grad) = (random(), random());
    let updated = param.clone() + grad.clone();
    drop(updated);
    let before = status("VmRSS:");
    let mut held: Vec<_> = (0..states).map(|_| None).collect();
    for _ in 0..3 {
        for state in &mut held {
            let (_, new) = optimizer
                .try_step(1e-3, param.clone(), grad.clone(), state.take())
                .unwrap();
            *state = Some(new);
        }
        optimizer.end_step().unwrap();
    }
    let report = optimizer.report();
    assert_eq!(report.state_bytes, states as u64 * 32 * MIB);
    assert_eq!(report.resident_bytes, 0);
    assert_eq!(report.bytes_moved(), 2 * report.state_bytes);
    let growth = status("VmHWM:").saturating_sub(before);
    println!(
        "{} MiB of state, {} MiB more resident at the peak",
        report.state_bytes / MIB,
        growth / MIB
    );
    growth
}

/// Two pages, and one copy of the parameter that is updated.
#[test]
fn a_quarter_of_a_gigabyte_of_state_takes_two_pages() {
    assert!(growth(8) < 48 * MIB);
}

#[test]
#[ignore = "pages 4 GiB of state through a file"]
fn four_gigabytes_of_state_take_two_pages() {
    assert!(growth(128) < 48 * MIB);
}
