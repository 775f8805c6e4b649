//! Words to a dense matrix.
//!
//! Roofline: reads 0.52 and writes 4 (f32) or 2 bytes an element; the selection of a value is some 20 instructions
//! for a vector of elements, fewer than the writes take. Bound by the writes: a layer of 4096 × 11008 in f16 takes
//! 0.11 ms on an RTX 4090 (1008 GB/s) and 0.034 ms on an H100 (3350 GB/s). Launch: one packed word (eight elements) a
//! unit, or a share of them a thread.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::decode::{Words, scale_of, select_values};
use crate::error::KernelError;
use crate::format::{CodeTable, Weight};
use crate::launch::{Spread, lanes};
use crate::matmul::check_float;

/// Units of a cube.
const UNITS: u32 = 256;

/// Decodes `weight` to a contiguous `[out_features, in_features]` buffer of `dtype`.
///
/// f32 values have the bits of the host implementation (one product each, the scale restored in
/// two roundings); f16 and bf16 are those values rounded.
///
/// # Errors
/// [`KernelError::UnsupportedType`], [`KernelError::TooLarge`].
pub fn dequantize(
    client: &Client,
    weight: &Weight,
    dtype: ElemType,
) -> Result<Handle, KernelError> {
    check_float(client, "dequantize", dtype)?;
    let words = weight.launch_arg()?;
    let elements = weight.elements();
    let output = client.empty(elements * dtype.size());
    let runs = elements.div_ceil(8);
    if runs > 0 {
        let spread = Spread::new(client, runs, UNITS);
        let vector = if elements.is_multiple_of(8) {
            lanes(client, 8)
        } else {
            1
        };
        // SAFETY: the kernel guards every access by the element count, and the output was
        // allocated with that many elements.
        unsafe {
            dequantize_kernel::launch_unchecked(
                client,
                spread.cubes,
                spread.cube_dim,
                vector,
                words,
                BufferArg::from_raw_parts(output.clone(), elements),
                elements as u32,
                spread.per_unit,
                weight.format.table,
                dtype,
            );
        }
    }
    Ok(output)
}

#[cube(launch_unchecked)]
fn dequantize_kernel<F: Float, N: Size>(
    words: &Words,
    output: &mut [Vector<F, N>],
    elements: u32,
    per_unit: u32,
    #[comptime] codes: CodeTable,
    #[define(F)] _dtype: ElemType,
) {
    let size = N::value();
    let mut shifts = Vector::<u32, N>::zeroed();
    #[unroll]
    for i in 0..size {
        shifts.insert(i, comptime!(4 * i as u32).runtime());
    }
    let runs = elements.div_ceil(8u32);
    let first = ABSOLUTE_POS as u32 * per_unit;
    let end = min(first + per_unit, runs);
    for run in first..end {
        let scale = Vector::<f32, N>::new(scale_of(&words.scales, run * 8));
        let word = words.packed[run as usize];
        #[unroll]
        for part in 0..comptime!(8 / size) {
            let element = run * 8 + comptime!((part * size) as u32);
            if element < elements {
                let codes_of_part = Vector::<u32, N>::new(word)
                    >> (shifts + Vector::new(comptime!(4 * (part * size) as u32).runtime()));
                let values = select_values(codes_of_part, 0usize, codes) * scale;
                output[(element / comptime!(size as u32)) as usize] = Vector::cast_from(values);
            }
        }
    }
}
