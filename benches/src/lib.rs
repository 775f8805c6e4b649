//! The charts, devices and figures that the benches share.
//!
//! - [`mod@device`]: what they run on.
//! - [`chart`]: bars and lines as SVG, for the README.
//! - [`lru`]: what the driver's paging would move, for comparison.
//! - [`charts_dir`]: where they are written.

pub mod chart;
pub mod device;
pub mod lru;

use std::path::PathBuf;

/// Returns the folder for charts: `QLORA_CHARTS`, or one of the target folder's.
pub fn charts_dir() -> PathBuf {
    let default = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/charts");
    std::env::var_os("QLORA_CHARTS").map_or_else(default, PathBuf::from)
}
