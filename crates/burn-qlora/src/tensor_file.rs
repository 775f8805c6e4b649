//! Safetensors files that are written as their tensors come, without a copy of all of them in memory.

use safetensors::tensor::Metadata;
use std::io::{self, Write};

/// Writes what comes before the values: the header's length and the header, filled up so that values lie aligned.
///
/// # Errors
/// Those of `file`.
pub fn write_header(file: &mut impl Write, metadata: &Metadata) -> io::Result<()> {
    let mut header = serde_json::to_vec(metadata)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)
}
