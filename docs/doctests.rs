//! The Rust code of the README and of the book, as tests: `cargo test --doc -p qlora-docs`.

/// The README of the repository.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The guide to the crates.
#[cfg(doctest)]
#[doc = include_str!("src/guides/rust.md")]
struct FromRust;
