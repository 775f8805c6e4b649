//! A 4-bit checkpoint that transformers and bitsandbytes load.

use std::collections::HashMap;
use std::path::Path;

use nf4::{FormatError, Layout, QuantConfig, QuantizedMatrix, bitsandbytes};
use serde_json::{Value, json};
use tensor_files::{Dtype, StagedDir, TensorSpool};

use super::companions::{pretty, write_companions};
use crate::checkpoint::{Checkpoint, FloatType};
use crate::error::DecoderError;
use crate::tensors::{EMBEDDING, HEAD, TensorSpec};

/// Writes `checkpoint` with its projections in 4 bits to the new directory `output`.
///
/// The other tensors keep the type they are stored in (those of a GGUF file become f32, which holds them
/// exactly, and so does another than the head that is stored in 4 bits). Tokenizer and chat template come along. One tensor is in memory at a time; `on_tensor` is
/// called after each with how many of how many are done. The directory appears when it is complete, and
/// not at all when writing fails.
///
/// # Errors
/// [`DecoderError::OutputExists`] when `output` is not a new or empty directory; int4, which bitsandbytes
/// lacks; what reading and quantizing refuse; a file system that fails or is full.
pub fn write_bitsandbytes(
    checkpoint: &Checkpoint,
    output: impl AsRef<Path>,
    config: QuantConfig,
    on_tensor: impl FnMut(usize, usize),
) -> Result<(), DecoderError> {
    let quantize = |name: &str, shape| checkpoint.quantize(name, shape, config);
    write_with(
        checkpoint,
        output.as_ref(),
        config,
        quantize,
        |_| Ok(()),
        on_tensor,
    )
}

/// Writes the directory with the projections that `matrix_of` returns by name and shape, in the format `config`, and with what
/// `write_beside` writes into the directory that it is given.
pub(super) fn write_with(
    checkpoint: &Checkpoint,
    output: &Path,
    config: QuantConfig,
    matrix_of: impl Fn(&str, [usize; 2]) -> Result<QuantizedMatrix, DecoderError>,
    write_beside: impl FnOnce(&Path) -> Result<(), DecoderError>,
    mut on_tensor: impl FnMut(usize, usize),
) -> Result<(), DecoderError> {
    let float = checkpoint.float_type(EMBEDDING)?;
    let model = model_config(checkpoint, float, config)?;
    let staging = StagedDir::new(output)?;
    let mut spool = TensorSpool::new(staging.path().join("model.safetensors"));
    let tensors = checkpoint.config().tensors();
    for (index, spec) in tensors.iter().enumerate() {
        let matrix = match spec.shape[..] {
            [rows, columns] if spec.projection => Some(matrix_of(&spec.name, [rows, columns])?),
            _ if spec.name == HEAD => stored_head(checkpoint)?,
            _ => None,
        };
        write_tensor(checkpoint, &mut spool, spec, float, matrix)?;
        on_tensor(index + 1, tensors.len());
    }
    spool.finish(Some(HashMap::from([("format".into(), "pt".into())])))?;
    staging.write("config.json", pretty(&model).as_bytes())?;
    write_companions(checkpoint, None, &staging)?;
    write_beside(staging.path())?;
    Ok(staging.publish()?)
}

fn write_tensor(
    checkpoint: &Checkpoint,
    spool: &mut TensorSpool,
    spec: &TensorSpec,
    float: FloatType,
    matrix: Option<QuantizedMatrix>,
) -> Result<(), DecoderError> {
    let Some(matrix) = matrix else {
        let kind = checkpoint.float_type(&spec.name)?;
        let values = checkpoint.read_f32(&spec.name, &spec.shape)?;
        let bytes = kind.encode(&values);
        spool.push(&spec.name, kind.dtype(), spec.shape.clone(), &bytes)?;
        return Ok(());
    };
    let entries = bitsandbytes::write(&spec.name, &matrix, float.torch_name())
        .map_err(refused(checkpoint, &spec.name))?;
    for (name, entry) in entries {
        let dtype = match entry.dtype {
            bitsandbytes::Dtype::F32 => Dtype::F32,
            _ => Dtype::U8,
        };
        spool.push(name, dtype, entry.shape, &entry.data)?;
    }
    Ok(())
}

/// Reads a head that is stored in 4 bits, which stays as it is; `None` where it is not, or is the embedding.
fn stored_head(checkpoint: &Checkpoint) -> Result<Option<QuantizedMatrix>, DecoderError> {
    let model = checkpoint.config();
    if model.tie_word_embeddings {
        return Ok(None);
    }
    checkpoint.read_quantized(HEAD, [model.vocab_size, model.hidden_size])
}

/// Returns the error that a format cannot be had for a tensor.
pub(super) fn refused(
    checkpoint: &Checkpoint,
    tensor: &str,
) -> impl Fn(FormatError) -> DecoderError {
    let (path, tensor) = (checkpoint.path().to_path_buf(), tensor.to_owned());
    move |source| DecoderError::Quantization {
        path: path.clone(),
        tensor: tensor.clone(),
        source,
    }
}

/// Returns config.json with the quantization in the words of transformers.
pub(super) fn model_config(
    checkpoint: &Checkpoint,
    float: FloatType,
    config: QuantConfig,
) -> Result<Value, DecoderError> {
    // Refuses a codebook that bitsandbytes lacks, and bad sizes, before anything is written.
    let refused = refused(checkpoint, "every projection");
    Layout::new([1, 1], config).map_err(&refused)?;
    if config.codebook == nf4::Codebook::Int4 {
        return Err(refused(FormatError::NotInBitsandbytes {
            format: config.codebook.name(),
        }));
    }
    let mut model = checkpoint
        .config()
        .to_hf_json(float.torch_name(), checkpoint.path())?;
    // Left out, it means the head and some others.
    let skipped = match stored_head(checkpoint)? {
        Some(_) => json!([]),
        None => Value::Null,
    };
    model["quantization_config"] = json!({
        "quant_method": "bitsandbytes",
        "load_in_4bit": true,
        "load_in_8bit": false,
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "bnb_4bit_quant_type": config.codebook.to_string(),
        "bnb_4bit_use_double_quant": config.double_quant,
        "bnb_4bit_compute_dtype": float.torch_name(),
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_threshold": 6.0,
        "llm_int8_skip_modules": skipped,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
    });
    Ok(model)
}
