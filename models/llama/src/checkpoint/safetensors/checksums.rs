//! Checksums of weights, which an index may have in its metadata.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;
use tensor_files::Checksum;

use crate::error::DecoderError;

/// The key of the index's metadata below which they stand by the names of the weights: XXH3 of 64 bits in hexadecimal digits, of a
/// tensor's bytes or, of one in 4 bits, of its bytes and of those of the tensors beside it, in bitsandbytes' order
/// (`nf4::bitsandbytes::companion_names`).
pub(crate) const CHECKSUMS: &str = "xxh3_64";

/// Checksums by the names of the weights.
#[derive(Debug, Default)]
pub(crate) struct Checksums(HashMap<String, u64>);

impl Checksums {
    /// Takes those of an index at `path` out of its metadata; none where it has none.
    pub(super) fn of(path: &Path, metadata: &Value) -> Result<Self, DecoderError> {
        let Some(checksums) = metadata.get(CHECKSUMS) else {
            return Ok(Self::default());
        };
        let broken = |what: String| {
            DecoderError::malformed(
                path,
                format!("`metadata.{CHECKSUMS}` {what}; write the checkpoint again"),
            )
        };
        let Value::Object(checksums) = checksums else {
            return Err(broken("is no object".into()));
        };
        let parsed = checksums.iter().map(|(name, digits)| {
            let sum = digits.as_str().filter(|digits| digits.len() == 16);
            let sum = sum.and_then(|digits| u64::from_str_radix(digits, 16).ok());
            let sum = sum.ok_or_else(|| {
                broken(format!("has {digits} for `{name}`, which is no checksum"))
            })?;
            Ok::<_, DecoderError>((name.clone(), sum))
        });
        Ok(Self(parsed.collect::<Result<_, _>>()?))
    }

    /// Returns what checks the weight `name`; `None` where nothing is known of it.
    pub(super) fn begin(&self, name: &str) -> Option<Check> {
        let expected = *self.0.get(name)?;
        Some(Check {
            expected,
            sum: Checksum::default(),
        })
    }
}

/// A weight that is being read.
pub(crate) struct Check {
    expected: u64,
    sum: Checksum,
}

impl Check {
    /// Takes its next bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.sum.add(bytes);
    }

    /// Says whether they were what the index knows of the weight `name`, which is in the file `path`.
    ///
    /// # Errors
    /// [`DecoderError::Malformed`] if they were not.
    pub(crate) fn end(self, path: &Path, name: &str) -> Result<(), DecoderError> {
        if self.sum.value() == self.expected {
            return Ok(());
        }
        Err(DecoderError::malformed(
            path,
            format!(
                "the bytes of `{name}` are not those that the index has a checksum of: the file is damaged or another model's; \
                 write the checkpoint again"
            ),
        ))
    }
}
