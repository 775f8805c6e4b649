//! Values before they are encoded.

use std::path::Path;

use crate::error::DecoderError;
use crate::tensors::TensorSpec;

/// Values that are encoded and written at a time.
pub(super) const CHUNK: usize = 1 << 18;

/// Checks that values of a tensor of the checkpoint at `path` can be written in the type `dtype`, which `holds` them.
///
/// # Errors
/// [`DecoderError::NotRepresentable`].
pub(super) fn check_held(
    values: &[f32],
    holds: impl Fn(f32) -> bool,
    dtype: &'static str,
    spec: &TensorSpec,
    path: &Path,
) -> Result<(), DecoderError> {
    match values.iter().find(|value| !holds(**value)) {
        Some(value) => Err(DecoderError::NotRepresentable {
            path: path.to_path_buf(),
            tensor: spec.name.clone(),
            value: *value,
            dtype,
        }),
        None => Ok(()),
    }
}
