//! Words to a dense matrix.
//!
//! - `staged`, on a GPU: the units of a cube load 128 bits each into shared memory, from where neighbouring units decode
//!   neighbouring elements, so that loads and stores are both as wide as they can be and leave no gaps.
//! - `streamed`, on a CPU, and where the words are not a multiple of 128 bits: a unit decodes whole words, several elements
//!   at once by permutations or selections; no barrier.
//!
//! Roofline: reads 0.52 and writes 4 (f32) or 2 bytes an element; a shift, a mask, a table read and a product for each are
//! fewer than the writes take. Bound by the writes: a layer of 4096 × 11008 in f16 takes 0.11 ms on an RTX 4090 (1008 GB/s)
//! and 0.034 ms on an H100 (3350 GB/s).

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;
use nf4::Layout;

use crate::decode::{Words, fill_table, permute_values, select_values, value_of};
use crate::error::{KernelError, check_float, check_size};
use crate::format::CodeFormat;
use crate::launch::{LaunchConfig, is_cpu, is_rasterizer, lanes};
use crate::operand::{empty, tensor_buffer};
use crate::scales::{Scales, minimum_of, scale_of, scaled, scaled_lanes};
use crate::scattered::{scattered, scattered_len};
use crate::weight::Weight;

/// Units of a cube.
const UNITS: u32 = 256;
/// Words of a 128-bit load.
const WIDE: usize = 4;

/// The kernels that decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// `staged`: for matrices whose codes are a multiple of 128 bits.
    Staged,
    /// `streamed`.
    Streamed,
}

/// Returns the kernel for a matrix on this device.
pub fn choose(client: &Client, layout: Layout) -> Kernel {
    if fills_wide_loads(layout) && !is_cpu(client) && !is_rasterizer(client) {
        Kernel::Staged
    } else {
        Kernel::Streamed
    }
}

/// Returns whether the words can all be loaded 128 bits at a time.
fn fills_wide_loads(layout: Layout) -> bool {
    layout.elements().is_multiple_of(elements_per_load(layout))
}

/// Returns the elements of a load of 128 bits.
fn elements_per_load(layout: Layout) -> usize {
    layout.block_format().codes.per_word() * WIDE
}

/// Decodes `weight` to a contiguous `[out_features, in_features]` tensor of `dtype`.
///
/// f32 values have the bits of the host implementation (one product each and, with minima, a sum; a doubly quantized scale is
/// restored in two roundings), but for subnormal ones, which a device may take for 0; f16 and bf16 are those values rounded.
///
/// # Errors
/// [`KernelError::UnsupportedType`], [`KernelError::TooLarge`].
pub fn dequantize(
    client: &Client,
    weight: &Weight,
    dtype: ElemType,
) -> Result<TensorHandle, KernelError> {
    dequantize_with(client, weight, dtype, choose(client, weight.layout))
}

/// Decodes as [`dequantize()`] by a named kernel, for tests.
///
/// # Errors
/// As [`dequantize()`], and [`KernelError::Unavailable`].
pub fn dequantize_with(
    client: &Client,
    weight: &Weight,
    dtype: ElemType,
    kernel: Kernel,
) -> Result<TensorHandle, KernelError> {
    check_float(client, "dequantize", dtype)?;
    let elements = weight.layout.elements();
    check_size("weight", elements)?;
    let output = empty(client, weight.layout.shape(), dtype);
    if elements == 0 {
        return Ok(output);
    }
    match kernel {
        Kernel::Staged => launch_staged(client, weight, &output)?,
        Kernel::Streamed => launch_streamed(client, weight, &output),
    }
    Ok(output)
}

fn launch_staged(
    client: &Client,
    weight: &Weight,
    output: &TensorHandle,
) -> Result<(), KernelError> {
    let elements = weight.layout.elements();
    let run = elements_per_load(weight.layout);
    if !fills_wide_loads(weight.layout) {
        return Err(KernelError::Unavailable {
            operation: "dequantize",
            reason: format!(
                "the staged kernel takes elements in multiples of {run}, not {elements}"
            ),
        });
    }
    let loads = elements / run;
    let cube_dim = CubeDim::new_1d(UNITS);
    // SAFETY: the kernel guards every access by the number of loads, which are of all words and decode to all elements.
    unsafe {
        staged_kernel::launch_unchecked(
            client,
            cubecl::calculate_cube_count_elemwise(client, loads, cube_dim),
            cube_dim,
            lanes(client, weight.codes().per_word()),
            WIDE,
            weight.packed_arg(),
            weight.scales_arg(),
            tensor_buffer(output),
            loads as u32,
            weight.codes(),
            output.dtype,
        );
    }
    Ok(())
}

#[cube(launch_unchecked)]
fn staged_kernel<F: Float, N: Size, NW: Size>(
    packed: &[Vector<u32, NW>],
    scales: &Scales,
    output: &mut [Vector<F, N>],
    loads: u32,
    #[comptime] codes: CodeFormat,
    #[define(F)] _dtype: ElemType,
) {
    let size = N::value();
    let width = NW::value();
    let per_word = comptime!(codes.per_word());
    let (word_shift, word_mask) = comptime!((codes.word_shift(), codes.per_word() as u32 - 1));
    let run = comptime!((per_word * width) as u32);
    let mut table = Shared::<[f32]>::new_slice(16usize);
    let mut tile =
        Shared::<[u32]>::new_slice(comptime!(scattered_len(UNITS as usize * width, width)));
    fill_table(&mut table, codes);
    let first_load = CUBE_POS as u32 * UNITS;
    if first_load + UNIT_POS < loads {
        let read = packed[(first_load + UNIT_POS) as usize];
        #[unroll]
        for q in 0..width {
            let place = scattered(
                UNIT_POS * comptime!(width as u32),
                q,
                comptime!(UNITS as usize * width),
                width,
            );
            tile[place] = read.extract(q);
        }
    }
    sync_cube();
    #[unroll]
    for step in 0..comptime!(per_word * width / size) {
        let offset = (comptime!(step as u32 * UNITS).runtime() + UNIT_POS) * comptime!(size as u32);
        let element = first_load * run + offset;
        if element < loads * run {
            let scale = scale_of(scales, element);
            let minimum = minimum_of(scales, element);
            let place = scattered(
                offset >> word_shift,
                0usize,
                comptime!(UNITS as usize * width),
                width,
            );
            let codes_from = tile[place] >> ((offset & word_mask) * comptime!(codes.bits() as u32));
            let mut values = Vector::<F, N>::zeroed();
            #[unroll]
            for e in 0..size {
                let code = codes_from >> comptime!((codes.bits() * e) as u32);
                let value = value_of(&table, code, codes);
                values.insert(e, F::cast_from(scaled(value, scale, minimum, codes)));
            }
            output[(element / comptime!(size as u32)) as usize] = values;
        }
    }
}

fn launch_streamed(client: &Client, weight: &Weight, output: &TensorHandle) {
    let elements = weight.layout.elements();
    let per_word = weight.codes().per_word();
    let config = LaunchConfig::new(client, elements.div_ceil(per_word), UNITS);
    let vector = if elements.is_multiple_of(per_word) {
        lanes(client, per_word)
    } else {
        1
    };
    // SAFETY: the kernel guards every access by the element count.
    unsafe {
        streamed_kernel::launch_unchecked(
            client,
            config.cubes,
            config.cube_dim,
            vector,
            weight.words_arg(),
            tensor_buffer(output),
            elements as u32,
            config.per_unit,
            weight.codes(),
            is_cpu(client),
            output.dtype,
        );
    }
}

#[cube(launch_unchecked)]
fn streamed_kernel<F: Float, N: Size>(
    words: &Words,
    output: &mut [Vector<F, N>],
    elements: u32,
    per_unit: u32,
    #[comptime] codes: CodeFormat,
    #[comptime] permutes: bool,
    #[define(F)] _dtype: ElemType,
) {
    let size = N::value();
    let (per_word, bits) = comptime!((codes.per_word(), codes.bits()));
    let mut shifts = Vector::<u32, N>::zeroed();
    #[unroll]
    for i in 0..size {
        shifts.insert(i, comptime!((bits * i) as u32).runtime());
    }
    let runs = elements.div_ceil(comptime!(per_word as u32));
    let first = ABSOLUTE_POS as u32 * per_unit;
    let end = min(first + per_unit, runs);
    for run in first..end {
        let first_of_run = run * comptime!(per_word as u32);
        let scale = Vector::<f32, N>::new(scale_of(&words.scales, first_of_run));
        let minimum = Vector::<f32, N>::new(minimum_of(&words.scales, first_of_run));
        let word = words.packed[run as usize];
        #[unroll]
        for part in 0..comptime!(per_word / size) {
            let element = first_of_run + comptime!((part * size) as u32);
            if element < elements {
                let codes_of_part = Vector::<u32, N>::new(word)
                    >> (shifts + Vector::new(comptime!((bits * part * size) as u32).runtime()));
                let values = if permutes {
                    permute_values(codes_of_part, 0usize, codes)
                } else {
                    select_values(codes_of_part, 0usize, codes)
                };
                output[(element / comptime!(size as u32)) as usize] =
                    Vector::cast_from(scaled_lanes(values, scale, minimum, codes));
            }
        }
    }
}
