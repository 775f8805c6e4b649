//! The JSON that describes a 4-bit weight in a state dict.

use serde::{Deserialize, Serialize};

use super::{Dtype, Entry};
use crate::codebook::Codebook;
use crate::error::FormatError;

/// A quant_state describes one matrix in some 160 bytes, which may be followed by spaces up to the end of a page and of one more;
/// more than this is not one.
const MAX_QUANT_STATE: usize = 8192;

/// The JSON of a quant_state, in the order in which bitsandbytes writes it.
#[derive(Serialize, Deserialize)]
pub(super) struct QuantState {
    pub quant_type: String,
    pub blocksize: usize,
    pub dtype: String,
    pub shape: Vec<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nested_blocksize: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nested_dtype: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nested_offset: Option<f64>,
}

/// Reads the bytes of the tensor `name`, whose name says that it is for `codebook`.
pub(super) fn parse_state(
    name: &str,
    entry: &Entry<'_>,
    codebook: Codebook,
) -> Result<QuantState, FormatError> {
    let broken = |reason: String| FormatError::QuantState {
        name: name.to_owned(),
        reason,
    };
    if entry.dtype != Dtype::U8 {
        return Err(FormatError::TensorDtype {
            name: name.to_owned(),
            found: entry.dtype.name(),
            expected: "U8",
        });
    }
    if entry.data.len() > MAX_QUANT_STATE {
        return Err(broken(format!(
            "{} bytes are too many for one, {MAX_QUANT_STATE} at most",
            entry.data.len()
        )));
    }
    let state: QuantState =
        serde_json::from_slice(&entry.data).map_err(|error| broken(error.to_string()))?;
    if state.quant_type != codebook.name() {
        let kind = &state.quant_type;
        return Err(broken(format!(
            "its quant_type is `{kind}`, but its name ends in `{codebook}`"
        )));
    }
    Ok(state)
}

/// Returns the JSON text as Python's `json.dumps` spaces it, so that a file written back is the same byte for byte.
pub(super) fn python_json(state: &QuantState) -> Vec<u8> {
    struct Spaced;
    impl serde_json::ser::Formatter for Spaced {
        fn begin_array_value<W: ?Sized + std::io::Write>(
            &mut self,
            out: &mut W,
            first: bool,
        ) -> std::io::Result<()> {
            out.write_all(if first { b"" } else { b", " })
        }
        fn begin_object_key<W: ?Sized + std::io::Write>(
            &mut self,
            out: &mut W,
            first: bool,
        ) -> std::io::Result<()> {
            out.write_all(if first { b"" } else { b", " })
        }
        fn begin_object_value<W: ?Sized + std::io::Write>(
            &mut self,
            out: &mut W,
        ) -> std::io::Result<()> {
            out.write_all(b": ")
        }
    }
    let mut json = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut json, Spaced);
    // Strings, numbers and a list cannot fail to serialize into memory.
    state
        .serialize(&mut serializer)
        .expect("a quant_state is plain data");
    json
}
