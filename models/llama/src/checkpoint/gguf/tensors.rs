//! Tensors of a GGUF file: names, bounds, row order and decoding.

use std::borrow::Cow;

use candle_core::CpuStorage;
use candle_core::quantized::gguf_file::TensorInfo;

use super::GgufFile;
use crate::error::DecoderError;

/// Bytes decoded at a time, rounded to whole rows.
const CHUNK: usize = 1 << 20;

/// Returns the file's name of a tensor that Hugging Face calls `name`.
fn ggml_name(name: &str) -> String {
    let Some(rest) = name.strip_prefix("model.layers.") else {
        return match name {
            "model.embed_tokens.weight" => "token_embd.weight",
            "model.norm.weight" => "output_norm.weight",
            "lm_head.weight" => "output.weight",
            other => other,
        }
        .into();
    };
    let Some((layer, path)) = rest.split_once('.') else {
        return name.into();
    };
    let (module, leaf) = path.rsplit_once('.').unwrap_or((path, "weight"));
    let module = match module {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        other => other,
    };
    format!("blk.{layer}.{module}.{leaf}")
}

impl GgufFile {
    pub(super) fn contains(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(&ggml_name(name))
    }

    /// Returns the first extent of a tensor's shape.
    pub(super) fn tensor_rows(&self, name: &str) -> Option<usize> {
        self.content
            .tensor_infos
            .get(&ggml_name(name))?
            .shape
            .dims()
            .first()
            .copied()
    }

    /// Checks that every tensor lies inside the file.
    pub(super) fn check_tensors(&self) -> Result<(), DecoderError> {
        for (name, info) in &self.content.tensor_infos {
            let bytes = byte_size(info);
            let end = bytes.and_then(|bytes| self.start(info)?.checked_add(bytes));
            if end.is_none_or(|end| end > self.input.len()) {
                return Err(DecoderError::malformed(
                    self.path(),
                    format!(
                        "tensor `{name}` of shape {:?} in {:?} does not fit the file of {} bytes; truncated or damaged, fetch it again",
                        info.shape.dims(),
                        info.ggml_dtype,
                        self.input.len()
                    ),
                ));
            }
        }
        Ok(())
    }

    fn start(&self, info: &TensorInfo) -> Option<u64> {
        self.content.tensor_data_offset.checked_add(info.offset)
    }

    /// Decodes a tensor, a few rows at a time, into the row order of Hugging Face.
    pub(crate) fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, DecoderError> {
        let stored = ggml_name(name);
        let info =
            self.content
                .tensor_infos
                .get(&stored)
                .ok_or_else(|| DecoderError::MissingTensor {
                    path: self.path().to_path_buf(),
                    tensor: stored.clone(),
                })?;
        if info.shape.dims() != shape {
            return Err(DecoderError::TensorShape {
                path: self.path().to_path_buf(),
                tensor: stored,
                found: info.shape.dims().to_vec(),
                expected: shape.to_vec(),
            });
        }
        let unreadable = |reason: &str| DecoderError::TensorType {
            path: self.path().to_path_buf(),
            tensor: stored.clone(),
            found: format!("{:?}{reason}", info.ggml_dtype),
            expected: "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or one of Q2K to Q6K",
        };
        // A vector is one row.
        let width = shape.last().copied().unwrap_or(1);
        let rows = shape.iter().product::<usize>() / width.max(1);
        let (block, block_bytes) = (info.ggml_dtype.block_size(), info.ggml_dtype.type_size());
        if width == 0 || width % block != 0 {
            return Err(unreadable(&format!(
                " with rows of {width}, not a multiple of its block of {block}"
            )));
        }
        let row_bytes = width / block * block_bytes;
        let start = self.start(info).unwrap_or(u64::MAX);
        let step = (CHUNK / row_bytes).clamp(1, rows.max(1));
        let order = RowOrder::of(
            name,
            self.heads,
            if shape.len() == 1 { width } else { rows },
        );

        let mut values = vec![0f32; rows * width];
        // Words, so that the blocks, which begin with a 16- or 32-bit scale, are aligned.
        let mut buffer = vec![0u64; (step * row_bytes).div_ceil(8)];
        for first in (0..rows).step_by(step) {
            let count = step.min(rows - first);
            let bytes = &mut as_bytes(&mut buffer)[..count * row_bytes];
            self.input
                .read_at(start + (first * row_bytes) as u64, bytes)?;
            let decoded = info
                .ggml_dtype
                .from_data(Cow::Borrowed(bytes))
                .dequantize(count * width);
            let Ok(CpuStorage::F32(decoded)) = decoded else {
                return Err(unreadable(", which could not be decoded"));
            };
            if shape.len() == 1 {
                for (index, value) in decoded.into_iter().enumerate() {
                    values[order.target(index)] = value;
                }
            } else {
                for (row, decoded) in decoded.chunks_exact(width).enumerate() {
                    let target = order.target(first + row) * width;
                    values[target..target + width].copy_from_slice(decoded);
                }
            }
        }
        Ok(values)
    }
}

fn byte_size(info: &TensorInfo) -> Option<u64> {
    let elements = info
        .shape
        .dims()
        .iter()
        .try_fold(1usize, |product, extent| product.checked_mul(*extent))?;
    let blocks = elements.div_ceil(info.ggml_dtype.block_size());
    (blocks as u64).checked_mul(info.ggml_dtype.type_size() as u64)
}

fn as_bytes(words: &mut [u64]) -> &mut [u8] {
    bytemuck::cast_slice_mut(words)
}

/// The order of the rows of a stored tensor.
///
/// llama.cpp rotates neighbouring pairs, Hugging Face the two halves of a head, so its converter interleaves the
/// halves of each head of q and k; this undoes it.
enum RowOrder {
    AsStored,
    Interleaved { head_dim: usize },
}

impl RowOrder {
    fn of(name: &str, [heads, key_heads]: [usize; 2], rows: usize) -> Self {
        let heads = match name {
            _ if name.contains(".q_proj.") => heads,
            _ if name.contains(".k_proj.") => key_heads,
            _ => return Self::AsStored,
        };
        Self::Interleaved {
            head_dim: rows / heads,
        }
    }

    fn target(&self, row: usize) -> usize {
        match self {
            Self::AsStored => row,
            Self::Interleaved { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let (pair, half) = (within / 2, within % 2);
                head * head_dim + half * (head_dim / 2) + pair
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_map_to_those_of_llama_cpp() {
        assert_eq!(
            ggml_name("model.layers.12.mlp.down_proj.weight"),
            "blk.12.ffn_down.weight"
        );
        assert_eq!(
            ggml_name("model.layers.0.self_attn.q_proj.bias"),
            "blk.0.attn_q.bias"
        );
        assert_eq!(ggml_name("model.embed_tokens.weight"), "token_embd.weight");
        assert_eq!(ggml_name("rope_freqs.weight"), "rope_freqs.weight");
    }

    #[test]
    fn interleaved_rows_return_to_halves() {
        let order = RowOrder::of("model.layers.0.self_attn.k_proj.weight", [4, 2], 8);
        let targets: Vec<_> = (0..8).map(|row| order.target(row)).collect();
        assert_eq!(targets, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
