//! Tensors of a GGUF file in the blocks that the file has.

use nf4::{FormatError, GgufFormat, Layout, QuantizedMatrix, gguf};

use super::layout::Stored;
use super::{GgufFile, Part};
use crate::error::DecoderError;

impl GgufFile {
    /// Reads a matrix in the file's blocks, its rows moved whole to where they are used; `None` of plain numbers.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape, in blocks that no kernel multiplies, or damaged.
    pub(super) fn read_blocks(
        &self,
        stored: &Stored,
        shape: [usize; 2],
    ) -> Result<Option<QuantizedMatrix>, DecoderError> {
        let Some((format, layout)) = self.blocks(stored, shape)? else {
            return Ok(None);
        };
        let (part, info) = self.stored_tensor(&stored.name)?;
        let blocks = layout.elements() / format.file_block();
        let mut bytes = vec![0; blocks * format.file_block_bytes()];
        let start = part.start(info).unwrap_or(u64::MAX);
        part.input.read_at(start, &mut bytes)?;
        let target = |row| stored.rows.target(row, shape[0]);
        let matrix = gguf::read(format, shape, &bytes, target);
        matrix.map(Some).map_err(part.refused(stored))
    }

    /// Returns the layout of such a matrix, without reading it; `None` of plain numbers.
    ///
    /// # Errors
    /// As for [`read_blocks`](Self::read_blocks), but for damage.
    pub(super) fn layout(
        &self,
        stored: &Stored,
        shape: [usize; 2],
    ) -> Result<Option<Layout>, DecoderError> {
        let blocks = self.blocks(stored, shape)?;
        Ok(blocks.map(|(_, layout)| layout))
    }

    fn blocks(
        &self,
        stored: &Stored,
        shape: [usize; 2],
    ) -> Result<Option<(GgufFormat, Layout)>, DecoderError> {
        let Some(format) = self.block_format(&stored.name)? else {
            return Ok(None);
        };
        let (part, info) = self.stored_tensor(&stored.name)?;
        part.check_shape(stored, info, &shape)?;
        // Refuses rows that are no whole blocks before anything is allocated.
        let layout = Layout::new(shape, format).map_err(part.refused(stored))?;
        Ok(Some((format, layout)))
    }

    /// Returns the block format of a tensor, `None` of plain numbers.
    ///
    /// # Errors
    /// A tensor that is missing, or in blocks that no kernel multiplies.
    pub(super) fn block_format(&self, name: &str) -> Result<Option<GgufFormat>, DecoderError> {
        let (part, info) = self.stored_tensor(name)?;
        if !info.kind.is_blocks() {
            return Ok(None);
        }
        match info.kind.format() {
            Some(format) => Ok(Some(format)),
            None => Err(DecoderError::TensorType {
                path: part.path().to_path_buf(),
                tensor: name.to_owned(),
                found: info.kind.to_string(),
                expected: "Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, IQ4_NL or MXFP4 where blocks are kept; quantize it to nf4",
            }),
        }
    }
}

impl Part {
    fn refused(&self, stored: &Stored) -> impl FnOnce(FormatError) -> DecoderError {
        let (path, tensor) = (self.path().to_path_buf(), stored.name.clone());
        |source| DecoderError::Quantization {
            path,
            tensor,
            source,
        }
    }
}
