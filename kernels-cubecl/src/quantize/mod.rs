//! Weights to words, with the same bits as the host implementation on every device.
//!
//! What has to be guarded for that: the reciprocal of a scale is the correctly rounded f32 one
//! (computed in integers), sums are added up in a fixed order, and no product is contracted with a sum.
//! Comparisons with midpoints decide the codes, so nothing else can round.
//!
//! Launches: `blocks`, and with double quantization one `sum` per factor of 256 in the
//! number of blocks, then `nested`.

mod blocks;
mod nested;
mod sum;

use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::error::{KernelError, check_size};
use crate::format::{Format, NESTED_MAP, Sections, Weight};

/// Quantizes a contiguous f32 `[out_features, in_features]` matrix.
///
/// `map` is the 8-bit map of double quantization, rising; it is stored with the weight. Values must
/// be finite.
///
/// # Errors
/// [`KernelError::TooLarge`].
pub fn quantize(
    client: &Client,
    values: Handle,
    [out_features, in_features]: [usize; 2],
    format: Format,
    map: &[f32; NESTED_MAP],
) -> Result<Weight, KernelError> {
    let elements = out_features * in_features;
    check_size("weight", elements)?;
    let sections = Sections::new(elements, &format);
    let weight = |packed, absmax| Weight {
        packed,
        absmax,
        out_features,
        in_features,
        format,
    };
    if elements == 0 {
        return Ok(weight(client.empty(0), empty_absmax(client, &format, map)));
    }
    let packed = client.empty(4 * sections.packed_words);
    let scales = client.empty(4 * sections.blocks);
    blocks::launch(client, &values, &scales, &packed, elements, &format);
    if !format.double_quant {
        return Ok(weight(packed, scales));
    }
    let total = sum::launch(client, &scales, sections.blocks);
    let absmax = client.empty(4 * sections.absmax_words);
    nested::launch(client, &scales, &total, map, &absmax, &sections);
    Ok(weight(packed, absmax))
}

/// The scales of a matrix without elements: with double quantization still an offset, 0, and the map.
fn empty_absmax(client: &Client, format: &Format, map: &[f32; NESTED_MAP]) -> Handle {
    if format.double_quant {
        let mut words = vec![0.0];
        words.extend_from_slice(map);
        client.create_from_slice(f32::as_bytes(&words))
    } else {
        client.empty(0)
    }
}

/// A buffer argument over the whole of `handle`.
pub(crate) fn buffer(handle: &Handle, len: usize) -> BufferArg {
    // SAFETY: every caller passes the length that it allocated, or that the format defines.
    unsafe { BufferArg::from_raw_parts(handle.clone(), len) }
}
