//! Optimizer state in pages: AdamW whose moments need not fit where the update runs.
//!
//! The QLoRA paper pages optimizer state through CUDA's unified memory, which evicts what was used longest
//! ago. An optimizer visits its state in the same order every step, so the page that is needed next is always the
//! one just evicted. Here the order is used: a part of the pages stays, the others stream through two
//! buffers, read ahead and written behind ([`residency`] derives the cost).
//!
//! - [`optimizer`]: [`PagedAdamW`] and [`PagedAdamW8bit`], through burn-optim's `Optimizer`.
//! - [`state`]: [`PagedState`], what they keep for a parameter, and its record.
//! - [`budget`]: [`Budget`], how much stays resident.
//! - [`residency`]: which pages those are, and [`PagingReport`], what a step moves.
//! - [`memory`]: what the process has had resident.
//! - [`moments`]: [`Moments`], the state of a parameter outside its pages.
//! - [`ops`]: [`PagedOps`], the backend extension behind it.
//! - [`pool`]: the pages of one optimizer, and a parameter's part of them.
//! - [`rule`]: [`Rule`], the numbers of one update.
//! - [`table`]: which bytes of which page belong to which parameter.
//! - [`error`]: [`PagedError`], what can go wrong.

mod backends;
#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cubecl-backend")]
mod device;
#[cfg(feature = "flex")]
mod host;

pub mod budget;
pub mod error;
pub mod memory;
pub mod moments;
pub mod ops;
pub mod optimizer;
pub mod pool;
pub mod residency;
pub mod rule;
pub mod state;
pub mod table;

pub use budget::{Budget, parse_bytes};
pub use error::PagedError;
pub use moments::Moments;
pub use ops::PagedOps;
pub use optimizer::{MIN_8BIT_ELEMENTS, PAGE_BYTES, PagedAdamW, PagedAdamW8bit, PagedAdamWConfig};
pub use residency::{PagingReport, lru_bytes};
pub use rule::Rule;
pub use state::PagedState;
pub use table::Precision;

/// Compiles and runs the example of the package's README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
