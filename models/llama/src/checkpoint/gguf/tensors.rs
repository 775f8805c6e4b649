//! Tensors of a GGUF file: bounds and decoding.

use tensor_files::Checksum;

use super::header::TensorInfo;
use super::layout::Stored;
use super::{GgufFile, Part};
use crate::error::DecoderError;

/// Bytes decoded at a time, rounded to whole rows.
const CHUNK: usize = 1 << 20;

/// Whole rows of a tensor, as they are stored.
pub(crate) struct Piece<'a> {
    /// The number of the first row.
    first: usize,
    /// What the file has.
    pub(crate) bytes: &'a [u8],
    /// What that decodes to.
    pub(crate) values: &'a [f32],
}

impl GgufFile {
    /// Returns the first extent of a tensor's shape.
    pub(super) fn tensor_rows(&self, name: &str) -> Option<usize> {
        let (_, info) = self.tensor(name)?;
        info.shape.first().copied()
    }

    /// Decodes a tensor, a few rows at a time, into the order and the values in which it is used.
    pub(super) fn read_f32(
        &self,
        stored: &Stored,
        shape: &[usize],
    ) -> Result<Vec<f32>, DecoderError> {
        let (part, info) = self.stored_tensor(&stored.name)?;
        part.read_f32(stored, info, shape)
    }

    /// Calls `use_piece` with the rows of a tensor as they are stored, 1 MiB of the file at a time.
    #[cfg(feature = "qlora")]
    pub(super) fn for_each_piece(
        &self,
        stored: &Stored,
        shape: &[usize],
        use_piece: impl FnMut(Piece<'_>) -> Result<(), DecoderError>,
    ) -> Result<(), DecoderError> {
        let (part, info) = self.stored_tensor(&stored.name)?;
        part.for_each_piece(stored, info, shape, use_piece)
    }

    /// Returns a tensor and the part that it is in.
    pub(super) fn stored_tensor(&self, name: &str) -> Result<(&Part, &TensorInfo), DecoderError> {
        self.tensor(name)
            .ok_or_else(|| DecoderError::MissingTensor {
                path: self.path().to_path_buf(),
                tensor: name.to_owned(),
            })
    }

    /// Adds the metadata and a sample of every tensor of every part to `sum`.
    pub(crate) fn fingerprint(&self, sum: &mut Checksum) -> Result<(), DecoderError> {
        self.parts().try_for_each(|part| part.fingerprint(sum))
    }
}

impl Part {
    /// Checks that every tensor lies inside the file.
    pub(super) fn check_tensors(&self) -> Result<(), DecoderError> {
        for (name, info) in &self.table.tensors {
            let bytes = byte_size(info);
            let end = bytes.and_then(|bytes| self.start(info)?.checked_add(bytes));
            if end.is_none_or(|end| end > self.input.len()) {
                return Err(DecoderError::malformed(
                    self.path(),
                    format!(
                        "tensor `{name}` of shape {:?} in {} does not fit the file of {} bytes; truncated or damaged, fetch it again",
                        info.shape,
                        info.kind,
                        self.input.len()
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Adds the metadata, which the table of the tensors is behind, and a sample of every tensor to `sum`.
    fn fingerprint(&self, sum: &mut Checksum) -> Result<(), DecoderError> {
        let header = self.table.data.min(self.input.len());
        let mut buffer = vec![0; CHUNK];
        for start in (0..header).step_by(CHUNK) {
            let bytes = &mut buffer[..CHUNK.min((header - start) as usize)];
            self.input.read_at(start, bytes)?;
            sum.add(bytes);
        }
        let mut tensors: Vec<_> = self.table.tensors.iter().collect();
        tensors.sort_unstable_by_key(|(name, _)| *name);
        for (_, info) in tensors {
            if let (Some(start), Some(bytes)) = (self.start(info), byte_size(info)) {
                self.input.sample(start, bytes, sum)?;
            }
        }
        Ok(())
    }

    pub(super) fn check_shape(
        &self,
        stored: &Stored,
        info: &TensorInfo,
        shape: &[usize],
    ) -> Result<(), DecoderError> {
        if info.shape == shape {
            return Ok(());
        }
        Err(DecoderError::TensorShape {
            path: self.path().to_path_buf(),
            tensor: stored.name.clone(),
            found: info.shape.clone(),
            expected: shape.to_vec(),
        })
    }

    pub(super) fn start(&self, info: &TensorInfo) -> Option<u64> {
        self.table.data.checked_add(info.offset)
    }

    fn read_f32(
        &self,
        stored: &Stored,
        info: &TensorInfo,
        shape: &[usize],
    ) -> Result<Vec<f32>, DecoderError> {
        // Before there is memory for it: the file was found to have a tensor of its own shape.
        self.check_shape(stored, info, shape)?;
        // A vector is one row.
        let width = shape.last().copied().unwrap_or(1);
        let rows = shape.iter().product::<usize>() / width.max(1);
        let targets = if shape.len() == 1 { width } else { rows };
        let target = |row| stored.rows.target(row, targets);
        let mut values = vec![0f32; rows * width];
        self.for_each_piece(
            stored,
            info,
            shape,
            |Piece {
                 first,
                 values: decoded,
                 ..
             }| {
                if shape.len() == 1 {
                    for (index, value) in decoded.iter().enumerate() {
                        values[target(index)] = *value;
                    }
                } else {
                    for (row, decoded) in decoded.chunks_exact(width).enumerate() {
                        let target = target(first + row) * width;
                        values[target..target + width].copy_from_slice(decoded);
                    }
                }
                Ok(())
            },
        )?;
        if stored.offset != 0.0 {
            // Exact for factors of at least 1/2; below, within half the step of an f32 at 1.
            values.iter_mut().for_each(|value| *value -= stored.offset);
        }
        Ok(values)
    }

    /// Calls `use_piece` with whole rows as they are stored, 1 MiB of the file at a time.
    fn for_each_piece(
        &self,
        stored: &Stored,
        info: &TensorInfo,
        shape: &[usize],
        mut use_piece: impl FnMut(Piece<'_>) -> Result<(), DecoderError>,
    ) -> Result<(), DecoderError> {
        self.check_shape(stored, info, shape)?;
        let unreadable = |reason: &str| DecoderError::TensorType {
            path: self.path().to_path_buf(),
            tensor: stored.name.clone(),
            found: format!("{}{reason}", info.kind),
            expected: "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL or MXFP4",
        };
        let width = shape.last().copied().unwrap_or(1);
        let rows = shape.iter().product::<usize>() / width.max(1);
        let (block, block_bytes) = (info.kind.block_size(), info.kind.block_bytes());
        if width == 0 || width % block != 0 {
            return Err(unreadable(&format!(
                " with rows of {width}, not a multiple of its block of {block}"
            )));
        }
        let row_bytes = width / block * block_bytes;
        let start = self.start(info).unwrap_or(u64::MAX);
        let step = (CHUNK / row_bytes).clamp(1, rows.max(1));
        // Words, so that the blocks, which begin with a 16- or 32-bit scale, are aligned.
        let mut buffer = vec![0u64; (step * row_bytes).div_ceil(8)];
        for first in (0..rows).step_by(step) {
            let count = step.min(rows - first);
            let bytes = &mut as_bytes(&mut buffer)[..count * row_bytes];
            self.input
                .read_at(start + (first * row_bytes) as u64, bytes)?;
            let values = info.kind.decode(bytes, [count, width]);
            let values = values.map_err(|reason| {
                let reason = format!("tensor `{}` in {}: {reason}", stored.name, info.kind);
                DecoderError::malformed(self.path(), reason)
            })?;
            use_piece(Piece {
                first,
                bytes,
                values: &values,
            })?;
        }
        Ok(())
    }
}

fn byte_size(info: &TensorInfo) -> Option<u64> {
    let elements = info
        .shape
        .iter()
        .try_fold(1usize, |product, extent| product.checked_mul(*extent))?;
    let blocks = elements.div_ceil(info.kind.block_size());
    (blocks as u64).checked_mul(info.kind.block_bytes() as u64)
}

fn as_bytes(words: &mut [u64]) -> &mut [u8] {
    bytemuck::cast_slice_mut(words)
}
