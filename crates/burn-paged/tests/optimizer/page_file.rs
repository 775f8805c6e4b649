//! The page file while it is used (Flex).

use crate::budgets::config;
use crate::support::Training;
use burn_core::tensor::Device;
use burn_paged::{Budget, PagedAdamW, PagedError};
use std::fs::{self, OpenOptions};
use std::path::Path;

fn paged(path: &Path) -> PagedAdamW {
    config(Budget::Bytes(0))
        .with_page_file(Some(path.to_owned()))
        .build()
        .unwrap()
}

#[test]
fn a_file_that_was_there_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("thesis.tex");
    fs::write(&path, "\\documentclass{book}").unwrap();
    let optimizer = paged(&path);
    let tensor = crate::support::tensor([64, 64], 1, &Device::flex());
    for _ in 0..2 {
        let error = optimizer
            .try_step(1e-3, tensor.clone(), tensor.clone(), None)
            .unwrap_err();
        assert_eq!(error, PagedError::NotOurs { path: path.clone() });
    }
    assert_eq!(fs::read(&path).unwrap(), b"\\documentclass{book}");
}

#[test]
fn damage_is_found_before_the_step_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pages");
    let damages: [fn(&Path); 3] = [
        |path| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(70_000).unwrap();
        },
        |path| fs::remove_file(path).unwrap(),
        |path| {
            use std::io::Write;
            let mut file = OpenOptions::new().write(true).open(path).unwrap();
            file.write_all(b"another's").unwrap();
        },
    ];
    for (damage, expected) in damages.into_iter().zip(["Truncated", "Missing", "NotOurs"]) {
        let mut training = Training::new(paged(&path), &Device::flex());
        training.step();
        training.optimizer.end_step().unwrap();
        damage(&path);
        let (param, state) = (training.params[0].clone(), training.states[0].take());
        let error = training
            .optimizer
            .try_step(1e-3, param.clone(), param, state)
            .unwrap_err();
        assert!(format!("{error:?}").starts_with(expected), "{error:?}");
        assert!(error.to_string().contains("pages"), "{error}");
        // Nothing goes on from there.
        assert_eq!(training.optimizer.end_step(), Err(error));
        drop(training);
        let _ = fs::remove_file(&path);
    }
}

#[test]
fn the_file_is_made_when_it_is_needed_and_goes_with_the_optimizer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pages");
    let resident = config(Budget::Resident)
        .with_page_file(Some(path.clone()))
        .build()
        .unwrap();
    let mut training = Training::new(resident, &Device::flex());
    training.step();
    assert!(!path.exists());
    training.optimizer.set_budget(Budget::Bytes(0)).unwrap();
    assert!(path.exists());
    training.step();
    drop(training);
    assert!(!path.exists());
}

#[test]
fn auto_gives_way_to_what_else_there_is_and_comes_back() {
    // More than the process has had so far: everything stays. Less: everything goes.
    let mut training = Training::new(
        config(Budget::Auto)
            .with_memory_limit(Some(1 << 44))
            .build()
            .unwrap(),
        &Device::flex(),
    );
    training.step();
    training.optimizer.prepare().unwrap();
    let report = training.optimizer.report();
    assert_eq!(report.resident_bytes, report.state_bytes);

    let mut training = Training::new(
        config(Budget::Auto)
            .with_memory_limit(Some(1 << 20))
            .build()
            .unwrap(),
        &Device::flex(),
    );
    training.step();
    training.optimizer.prepare().unwrap();
    assert_eq!(training.optimizer.report().resident_bytes, 0);
    training.step();
    training.optimizer.end_step().unwrap();
    assert_eq!(
        training.optimizer.report().bytes_moved(),
        2 * report.state_bytes
    );
}
