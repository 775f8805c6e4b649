//! The file of the paged optimizer's pages: what lies where it is to be, and what becomes of it between two steps.

use crate::target::{Folder, fuzz};
use burn::tensor::{Device, Tensor};
use burn_paged::{Budget, PagedAdamW, PagedAdamWConfig, PagedState, is_page_file};
use std::fs;
use std::path::Path;

const VALUES: usize = 2048;

/// Returns an optimizer that keeps no page in memory.
fn optimizer(path: &Path) -> PagedAdamW {
    PagedAdamWConfig::new()
        .with_budget(Budget::Bytes(0))
        .with_page_bytes(4096)
        .with_page_file(Some(path.to_owned()))
        .build()
        .expect("an optimizer")
}

fn step(optimizer: &PagedAdamW, state: Option<PagedState<1>>) -> Option<PagedState<1>> {
    let tensor = Tensor::<1>::ones([VALUES], &Device::flex());
    let stepped = optimizer.try_step(1e-3, tensor.clone(), tensor, state);
    let (_, state) = stepped.ok()?;
    optimizer.end_step().ok()?;
    Some(state)
}

/// Returns the bytes of a page file in use.
fn used(path: &Path) -> Vec<u8> {
    let optimizer = optimizer(path);
    let _state = step(&optimizer, None).expect("a step");
    fs::read(path).expect("a page file")
}

#[test]
fn pages_between_two_steps() {
    let folder = Folder::new();
    let path = folder.path().join("pages");
    let good = used(&path);
    fuzz(std::slice::from_ref(&good), |bytes| {
        let optimizer = optimizer(&path);
        let state = step(&optimizer, None).expect("nothing is there yet");
        // The same file with other bytes.
        fs::write(&path, bytes).expect("a file");
        let _ = step(&optimizer, Some(state));
        drop(optimizer);
        let _ = fs::remove_file(&path);
    });
}

#[test]
fn files_that_are_there_before() {
    let folder = Folder::new();
    let path = folder.path().join("pages");
    let good = used(&path);
    fuzz(std::slice::from_ref(&good), |bytes| {
        fs::write(&path, bytes).expect("a file");
        let is_ours = is_page_file(&path);
        let is_taken = step(&optimizer(&path), None).is_some();
        assert_eq!(is_taken, is_ours || bytes.is_empty());
        if !is_taken {
            assert_eq!(fs::read(&path).expect("it stays"), bytes);
        }
    });
}
