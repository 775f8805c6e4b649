//! Weights to words, with the same bits as the host implementation on every device.
//!
//! For that, the reciprocal of a scale is the correctly rounded f32 one (computed in integers), sums are added up in a fixed
//! order, and no product is contracted with a sum. Comparisons with midpoints decide the codes, so nothing else can round.
//!
//! Launches: `blocks`, and with double quantization one `sum` per factor of 256 in the number of blocks, then `nested`.

mod blocks;
mod nested;
mod sum;

use cubecl::prelude::*;
use cubecl::server::Handle;
use cubecl::std::tensor::TensorHandle;
use nf4::{Layout, QuantConfig};

use crate::error::{KernelError, check_format, check_length, check_single, check_size};
use crate::operand::contiguous;
use crate::weight::Weight;

/// Quantizes an f32 `[out_features, in_features]` matrix, whose values must be finite.
///
/// With double quantization the scales' 8-bit map is [`nf4::dynamic_map`], stored with the weight.
///
/// # Errors
/// [`KernelError::NotSingle`], [`KernelError::UnservedFormat`], [`KernelError::ShapeMismatch`], [`KernelError::TooLarge`].
pub fn quantize(
    client: &Client,
    values: TensorHandle,
    layout: Layout,
) -> Result<Weight, KernelError> {
    check_single("quantize", values.dtype)?;
    let config = check_format("quantize", layout)?;
    let elements = layout.elements();
    check_length(
        "quantize",
        "matrix",
        values.shape().iter().product(),
        elements,
    )?;
    check_size("weight", elements)?;
    let weight = |packed, absmax| Weight {
        packed,
        absmax,
        layout,
    };
    let QuantConfig { double_quant, .. } = config;
    if elements == 0 {
        let absmax = if double_quant {
            empty_absmax(client)
        } else {
            client.empty(0)
        };
        return Ok(weight(client.empty(0), absmax));
    }
    let values = contiguous(client, values).handle;
    let packed = client.empty(4 * layout.packed_words());
    let scales = client.empty(4 * layout.blocks());
    blocks::launch(client, &values, &scales, &packed, (layout, config));
    if !double_quant {
        return Ok(weight(packed, scales));
    }
    let total = sum::launch(client, &scales, layout.blocks());
    let absmax = client.empty(4 * layout.absmax_words());
    nested::launch(client, &scales, &total, &absmax, layout);
    Ok(weight(packed, absmax))
}

/// Returns the scales of a matrix without elements under double quantization: an offset, 0, and the map.
fn empty_absmax(client: &Client) -> Handle {
    let mut words = vec![0.0];
    words.extend_from_slice(nf4::dynamic_map());
    client.create_from_slice(f32::as_bytes(&words))
}
