//! A matrix brought to 4 bits as it is read.

use nf4::{Format, QuantConfig, QuantizedMatrix};

use super::Checkpoint;
use crate::error::DecoderError;

impl Checkpoint {
    /// Reads a matrix and quantizes it; one that is stored in 4 bits of this kind is kept bit for bit.
    ///
    /// # Errors
    /// The errors of [`read_f32`](Self::read_f32); values that are not finite, a configuration out of range;
    /// [`DecoderError::AlreadyQuantized`] when it is stored in another codebook or block size.
    pub fn quantize(
        &self,
        name: &str,
        shape: [usize; 2],
        config: QuantConfig,
    ) -> Result<QuantizedMatrix, DecoderError> {
        if let Some(matrix) = self.read_quantized(name, shape)? {
            let stored = matrix.layout().format();
            // Scales quantized or not: what is stored is as good or better, and costs no second rounding.
            let same = QuantConfig {
                double_quant: !config.double_quant,
                ..config
            };
            if [config, same].map(Format::from).contains(&stored) {
                return Ok(matrix);
            }
            return Err(DecoderError::AlreadyQuantized {
                path: self.path().to_path_buf(),
                tensor: name.into(),
                found: stored.to_string(),
                requested: Format::from(config).to_string(),
            });
        }
        let values = self.read_f32(name, &shape)?;
        qlora_cpu::quantize(&values, shape, config).map_err(|source| DecoderError::Quantization {
            path: self.path().to_path_buf(),
            tensor: name.into(),
            source,
        })
    }
}
