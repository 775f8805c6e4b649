//! Words to a dense matrix.
//!
//! Roofline: reads 0.52 and writes 4 (f32) or 2 bytes an element, one multiply each: bound by the
//! writes. Launch: one unit a packed word (eight elements), cubes of 256.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::decode::{Words, decode_run, fill_table};
use crate::error::KernelError;
use crate::format::{CodeTable, Weight};
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
    let (words, elements) = weight.launch_arg()?;
    let output = client.empty(weight.elements() * dtype.size());
    let runs = elements.div_ceil(8);
    if runs > 0 {
        let cube_dim = CubeDim::new_1d(UNITS);
        // SAFETY: the kernel guards every access by the element count, and the output was
        // allocated with that many elements.
        unsafe {
            dequantize_kernel::launch_unchecked(
                client,
                cubecl::calculate_cube_count_elemwise(client, runs as usize, cube_dim),
                cube_dim,
                words,
                BufferArg::from_raw_parts(output.clone(), weight.elements()),
                elements,
                weight.format.table,
                dtype,
            );
        }
    }
    Ok(output)
}

#[cube(launch_unchecked)]
fn dequantize_kernel<F: Float>(
    words: &Words,
    output: &mut [F],
    elements: u32,
    #[comptime] codes: CodeTable,
    #[define(F)] _dtype: ElemType,
) {
    let mut table = Shared::<[f32]>::new_slice(16usize);
    fill_table(&mut table, codes);
    sync_cube();
    let first = ABSOLUTE_POS as u32 * 8;
    if first < elements {
        let count = elements - first;
        let mut run = Array::<f32>::new(8usize);
        decode_run(words, &table, first, count, &mut run, true);
        #[unroll]
        for i in 0..8usize {
            if count > comptime!(i as u32) {
                output[first as usize + i] = F::cast_from(run[i]);
            }
        }
    }
}
