//! The state-dict form that bitsandbytes and transformers store 4-bit weights in, both ways.
//!
//! A weight `P` is the tensor `P` (two codes a byte, the first in the *high* nibble) and beside it `P.absmax`,
//! `P.quant_map`, with double quantization `P.nested_absmax` and `P.nested_quant_map`, and
//! `P.quant_state.bitsandbytes__nf4` (or `__fp4`), whose bytes are JSON.

mod quant_state;

use std::borrow::Cow;

use self::quant_state::{QuantState, parse_state, python_json};
use crate::codebook::Codebook;
use crate::config::QuantConfig;
use crate::error::FormatError;
use crate::format::Format;
use crate::layout::{Layout, NESTED_BLOCK, NESTED_MAP};
use crate::matrix::QuantizedMatrix;

const ABSMAX: &str = "absmax";
const QUANT_MAP: &str = "quant_map";
const NESTED_ABSMAX: &str = "nested_absmax";
const NESTED_QUANT_MAP: &str = "nested_quant_map";
const QUANT_STATE: &str = "quant_state.bitsandbytes__";

/// The codebooks that bitsandbytes has.
const CODEBOOKS: [Codebook; 2] = [Codebook::Nf4, Codebook::Fp4];

/// The dtype of a tensor in a state dict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// Bytes.
    U8,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// IEEE single precision.
    F32,
    /// Another dtype, by its name: never valid here, but shown in errors.
    Other(&'static str),
}

impl Dtype {
    /// Returns the name in safetensors headers.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::U8 => "U8",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
            Dtype::F32 => "F32",
            Dtype::Other(name) => name,
        }
    }
}

/// A tensor of a state dict: little-endian, contiguous.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<'a> {
    /// The dtype.
    pub dtype: Dtype,
    /// The dimensions.
    pub shape: Vec<usize>,
    /// The bytes.
    pub data: Cow<'a, [u8]>,
}

/// A weight read from a state dict.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// The quantized matrix, with the checkpoint's own 8-bit code map.
    pub matrix: QuantizedMatrix,
    /// The dtype of the weight before quantization, as torch names it (`float32`, `bfloat16`, …).
    pub dtype: String,
}

/// Returns the name of the tensor whose presence says that weight `name` is quantized with `codebook`.
pub fn quant_state_name(name: &str, codebook: Codebook) -> String {
    format!("{name}.{QUANT_STATE}{codebook}")
}

/// Returns whether a tensor of this name says that another one is quantized.
pub fn is_quant_state_name(name: &str) -> bool {
    name.contains(&format!(".{QUANT_STATE}"))
}

/// Returns the names of the tensors that may stand beside the codes of weight `name`: its scales, maps and quant_state, of
/// which a checkpoint has those of one codebook, with or without double quantization.
pub fn companion_names(name: &str) -> [String; 6] {
    let [nf4, fp4] = CODEBOOKS.map(|codebook| quant_state_name(name, codebook));
    let [absmax, map, nested_absmax, nested_map] =
        [ABSMAX, QUANT_MAP, NESTED_ABSMAX, NESTED_QUANT_MAP]
            .map(|suffix| format!("{name}.{suffix}"));
    [nf4, fp4, absmax, map, nested_absmax, nested_map]
}

/// Reads the weight `name`; `get` returns a tensor of the state dict by its full name.
///
/// The tensor of codes may have any dtype (`bnb_4bit_quant_storage`): only its bytes count. Nothing is
/// allocated before the sizes that the quant_state claims are those of the tensors.
///
/// # Errors
/// [`FormatError::MissingTensor`], [`FormatError::TensorDtype`], [`FormatError::TensorSize`], [`FormatError::QuantState`],
/// [`FormatError::QuantMap`], [`FormatError::TensorNotFinite`], and what [`Layout::new`] refuses.
pub fn read<'a>(
    name: &str,
    get: impl Fn(&str) -> Option<Entry<'a>>,
) -> Result<Weight, FormatError> {
    let find = |name: String| match get(&name) {
        Some(entry) => Ok((name, entry)),
        None => Err(FormatError::MissingTensor { name }),
    };
    let companion = |suffix: &str| find(format!("{name}.{suffix}"));
    let Described {
        state_name,
        state,
        codebook,
        layout,
    } = describe(name, &get)?;
    let broken = |reason: &str| FormatError::QuantState {
        name: state_name.clone(),
        reason: reason.to_owned(),
    };
    let double_quant = state.nested_blocksize.is_some();

    let (map_name, map) = companion(QUANT_MAP)?;
    let map = floats(&map_name, &map, 16)?;
    let differs = codebook
        .values()
        .iter()
        .zip(&map)
        .position(|(expected, found)| expected != found);
    if let Some(index) = differs {
        let (found, expected) = (map[index], codebook.values()[index]);
        return Err(FormatError::QuantMap {
            name: map_name,
            codebook,
            index,
            found,
            expected,
        });
    }

    let (codes_name, codes) = find(name.to_owned())?;
    let expected = layout.elements().div_ceil(2);
    if codes.data.len() != expected {
        return Err(FormatError::TensorSize {
            name: codes_name,
            found: codes.data.len(),
            expected,
        });
    }

    let (absmax_name, absmax) = companion(ABSMAX)?;
    let absmax = if double_quant {
        let offset = state
            .nested_offset
            .ok_or_else(|| broken("it has a nested_blocksize but no nested_offset"))?
            as f32;
        if !offset.is_finite() {
            return Err(broken("its nested_offset is not a finite f32"));
        }
        let (nested_name, nested) = companion(NESTED_ABSMAX)?;
        let nested = floats(&nested_name, &nested, layout.nested_blocks())?;
        let (map_name, map) = companion(NESTED_QUANT_MAP)?;
        let map = floats(&map_name, &map, NESTED_MAP)?;
        check(&absmax_name, &absmax, Dtype::U8, layout.blocks())?;
        let mut words = to_words(&absmax.data);
        words.reserve_exact(layout.absmax_words() - words.len());
        words.extend(
            nested
                .iter()
                .chain([&offset])
                .chain(&map)
                .map(|value| value.to_bits()),
        );
        words
    } else {
        floats(&absmax_name, &absmax, layout.blocks())?
            .into_iter()
            .map(f32::to_bits)
            .collect()
    };
    let packed = swap_nibbles(to_words(&codes.data));
    let packed = clear_padding(packed, layout.elements());
    Ok(Weight {
        matrix: QuantizedMatrix::from_parts(layout, packed, absmax)?,
        dtype: state.dtype,
    })
}

/// Reads the layout of the weight `name` by its quant_state, the only tensor that `get` is asked for; `len` returns the bytes of a
/// tensor of the state dict by its full name.
///
/// # Errors
/// As [`read`] has them for tensors that are missing or of another size, and for the quant_state.
pub fn layout<'a>(
    name: &str,
    get: impl Fn(&str) -> Option<Entry<'a>>,
    len: impl Fn(&str) -> Option<usize>,
) -> Result<Layout, FormatError> {
    let Described { state, layout, .. } = describe(name, &get)?;
    let check = |name: String, expected: usize| match len(&name) {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(FormatError::TensorSize {
            name,
            found,
            expected,
        }),
        None => Err(FormatError::MissingTensor { name }),
    };
    let companion = |suffix: &str, expected| check(format!("{name}.{suffix}"), expected);
    check(name.to_owned(), layout.elements().div_ceil(2))?;
    companion(QUANT_MAP, size_of::<[f32; 16]>())?;
    if state.nested_blocksize.is_some() {
        companion(ABSMAX, layout.blocks())?;
        companion(NESTED_ABSMAX, size_of::<f32>() * layout.nested_blocks())?;
        companion(NESTED_QUANT_MAP, size_of::<[f32; NESTED_MAP]>())?;
    } else {
        companion(ABSMAX, size_of::<f32>() * layout.blocks())?;
    }
    Ok(layout)
}

/// What a quant_state says.
struct Described {
    state_name: String,
    state: QuantState,
    codebook: Codebook,
    layout: Layout,
}

fn describe<'a>(
    name: &str,
    get: &impl Fn(&str) -> Option<Entry<'a>>,
) -> Result<Described, FormatError> {
    let state_of = |codebook| {
        let name = quant_state_name(name, codebook);
        get(&name).map(|entry| (codebook, name, entry))
    };
    let Some((codebook, state_name, entry)) = CODEBOOKS.into_iter().find_map(state_of) else {
        return Err(FormatError::MissingTensor {
            name: quant_state_name(name, Codebook::Nf4),
        });
    };
    let state = parse_state(&state_name, &entry, codebook)?;
    let broken = |reason: &str| FormatError::QuantState {
        name: state_name.clone(),
        reason: reason.to_owned(),
    };
    let [rows, columns] = state.shape[..] else {
        return Err(broken(
            "its shape is not a matrix's; only linear layers can be read",
        ));
    };
    if state
        .nested_blocksize
        .is_some_and(|size| size != NESTED_BLOCK)
    {
        return Err(broken(
            "its nested_blocksize is not 256, the only one that bitsandbytes writes",
        ));
    }
    let layout = Layout::new(
        [rows, columns],
        QuantConfig {
            codebook,
            block_size: state.blocksize,
            double_quant: state.nested_blocksize.is_some(),
        },
    )?;
    Ok(Described {
        state_name,
        state,
        codebook,
        layout,
    })
}

/// Returns the state dict of a weight `name`, whose unquantized dtype was `dtype` as torch names it (`float32`, `bfloat16`,
/// `float16`): full names and tensors, in bitsandbytes' order.
///
/// # Errors
/// [`FormatError::NotInBitsandbytes`] for a codebook that it does not have.
pub fn write(
    name: &str,
    matrix: &QuantizedMatrix,
    dtype: &str,
) -> Result<Vec<(String, Entry<'static>)>, FormatError> {
    let layout = matrix.layout();
    let QuantConfig {
        codebook,
        block_size,
        double_quant,
    } = match layout.format() {
        Format::Quantized(config) => config,
        Format::Gguf(format) => {
            let format = format.name();
            return Err(FormatError::NotInBitsandbytes { format });
        }
    };
    if !CODEBOOKS.contains(&codebook) {
        let format = codebook.name();
        return Err(FormatError::NotInBitsandbytes { format });
    }
    let words = matrix.absmax();
    let mut entries = vec![(
        name.to_owned(),
        bytes(
            vec![layout.elements().div_ceil(2), 1],
            codes_of(matrix, codebook),
        ),
    )];
    let mut push = |suffix: &str, entry| entries.push((format!("{name}.{suffix}"), entry));
    let mut state = QuantState {
        quant_type: codebook.name().to_owned(),
        blocksize: block_size,
        dtype: dtype.to_owned(),
        shape: layout.shape().to_vec(),
        nested_blocksize: None,
        nested_dtype: None,
        nested_offset: None,
    };
    if double_quant {
        let mut codes = to_bytes(&words[layout.scale_words()]);
        codes.truncate(layout.blocks());
        push(ABSMAX, bytes(vec![layout.blocks()], codes));
        push(NESTED_ABSMAX, f32s(&words[layout.nested_words()]));
        push(NESTED_QUANT_MAP, f32s(&words[layout.map_words()]));
        state.nested_blocksize = Some(NESTED_BLOCK);
        state.nested_dtype = Some("float32".to_owned());
        // An f32 is exact in f64, whose shortest decimal form parses back to it.
        state.nested_offset = Some(f32::from_bits(words[layout.offset_word()]).into());
    } else {
        push(ABSMAX, f32s(words));
    }
    push(QUANT_MAP, f32s(&codebook.values().map(f32::to_bits)));
    let json = python_json(&state);
    push(
        &format!("{QUANT_STATE}{codebook}"),
        bytes(vec![json.len()], json),
    );
    Ok(entries)
}

fn check(name: &str, entry: &Entry<'_>, dtype: Dtype, len: usize) -> Result<(), FormatError> {
    if entry.dtype != dtype {
        return Err(FormatError::TensorDtype {
            name: name.to_owned(),
            found: entry.dtype.name(),
            expected: dtype.name(),
        });
    }
    let expected = if dtype == Dtype::F32 { 4 * len } else { len };
    if entry.data.len() != expected {
        return Err(FormatError::TensorSize {
            name: name.to_owned(),
            found: entry.data.len(),
            expected,
        });
    }
    Ok(())
}

/// Returns the f32 values of a tensor of known length, all of them finite.
fn floats(name: &str, entry: &Entry<'_>, len: usize) -> Result<Vec<f32>, FormatError> {
    check(name, entry, Dtype::F32, len)?;
    let values: Vec<f32> = entry
        .data
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(FormatError::TensorNotFinite {
            name: name.to_owned(),
            index,
        }),
        None => Ok(values),
    }
}

/// Returns the little-endian words of bytes, the last one filled with zeros.
fn to_words(bytes: &[u8]) -> Vec<u32> {
    let (whole, rest) = bytes.as_chunks();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let last = (!rest.is_empty()).then_some(last);
    whole
        .iter()
        .copied()
        .chain(last)
        .map(u32::from_le_bytes)
        .collect()
}

fn to_bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Exchanges the two codes of every byte: device order is low nibble first, bitsandbytes' is high nibble first.
fn swap_nibbles(mut words: Vec<u32>) -> Vec<u32> {
    for word in &mut words {
        *word = *word >> 4 & 0x0f0f_0f0f | (*word & 0x0f0f_0f0f) << 4;
    }
    words
}

/// Zeroes the codes beyond the last element.
fn clear_padding(mut words: Vec<u32>, elements: usize) -> Vec<u32> {
    if let Some(last) = words.last_mut()
        && !elements.is_multiple_of(8)
    {
        *last &= !(u32::MAX << (4 * (elements % 8)));
    }
    words
}

/// Returns the bytes of codes as bitsandbytes has them; an odd matrix ends with the code of zero.
fn codes_of(matrix: &QuantizedMatrix, codebook: Codebook) -> Vec<u8> {
    let layout = matrix.layout();
    let elements = layout.elements();
    let mut bytes = to_bytes(&swap_nibbles(matrix.packed().to_vec()));
    bytes.truncate(elements.div_ceil(2));
    if let Some(last) = bytes.last_mut()
        && !elements.is_multiple_of(2)
    {
        *last = *last & 0xf0 | codebook.zero_code() as u8;
    }
    bytes
}

fn bytes(shape: Vec<usize>, data: Vec<u8>) -> Entry<'static> {
    Entry {
        dtype: Dtype::U8,
        shape,
        data: Cow::Owned(data),
    }
}

fn f32s(words: &[u32]) -> Entry<'static> {
    Entry {
        dtype: Dtype::F32,
        shape: vec![words.len()],
        data: Cow::Owned(to_bytes(words)),
    }
}
