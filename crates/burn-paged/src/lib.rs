//! State and weights in pages: AdamW whose moments, and models whose frozen weights, need not fit where they are used.
//!
//! The QLoRA paper pages optimizer state through CUDA's unified memory, which evicts what was used longest
//! ago. An optimizer visits its state in the same order every step, so the page that is needed next is always the
//! one just evicted. Here the order is used: a part of the pages stays, the others stream through two
//! buffers, read ahead and written behind, and a step moves `2 · (state − resident)` bytes, which no policy undercuts.
//!
//! - [`PagedAdamW`], made by [`PagedAdamWConfig`]: the optimizer, through burn-optim's `Optimizer`. [`StateDtype`] says how it
//!   holds its moments, [`Budget`] how much of them stays resident, [`StateMemory`] what they take.
//! - [`PagedState`]: what it keeps for a parameter, and its record. [`Moments`]: the same outside the pages.
//! - [`PagingReport`]: what a step moved.
//! - [`PagedError`]: what can go wrong.
//! - [`WeightPages`]: frozen weights in pages, each a [`WeightPage`], and [`WeightPagingReport`], what was moved.
//! - [`is_page_file`]: whether a file is a page file.
//! - [`process`]: the memory of this process.
//!
//! Inside, `pool` is the policy, on what `residency` and `table` know of the pages; `store` is the trait of where pages are, which
//! `host` (RAM and a file) and `device` (a CubeCL device and RAM) implement; `ops` is the backend extension.
//!
//! A browser has neither files nor a way to wait for a device: the crate compiles for one and pages nothing there. Train with an
//! optimizer of Burn's.

// `NdArray` and `LibTorch` are deprecated upstream, and served as long as they are there.
#![cfg_attr(any(feature = "ndarray", feature = "tch"), allow(deprecated))]
// Without a backend nothing opens a store.
#![cfg_attr(
    not(any(feature = "cubecl-backend", feature = "host-pages")),
    allow(dead_code, unused_imports)
)]

mod adamw;
mod backends;
mod budget;
mod config;
#[cfg(feature = "cubecl-backend")]
mod device;
mod error;
#[cfg(feature = "host-pages")]
mod host;
mod moments;
// Without a backend, the dispatch that is generated for the trait uses none of its arguments.
#[allow(unused_variables)]
mod ops;
mod page_file;
mod pool;
pub mod process;
mod report;
mod residency;
mod slot;
mod state;
mod state_dtype;
mod store;
mod table;
mod weights;

pub use adamw::PagedAdamW;
pub use budget::Budget;
pub use burn_operands::UnservedDevice;
pub use config::{MIN_8BIT_ELEMENTS, PAGE_BYTES, PagedAdamWConfig, StateMemory};
pub use error::PagedError;
pub use moments::Moments;
pub use page_file::is_page_file;
pub use report::PagingReport;
pub use state::PagedState;
pub use state_dtype::StateDtype;
pub use weights::{WeightPage, WeightPages, WeightPagingReport, WeightSource};

/// Compiles and runs the example of the package's README.
#[cfg(all(doctest, feature = "flex"))]
#[doc = include_str!("../README.md")]
struct Readme;
