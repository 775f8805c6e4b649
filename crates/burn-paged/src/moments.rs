//! [`Moments`], the state of one parameter outside its pages.

use nf4::adamw::{BLOCK, BLOCK_BYTES, CODES_2, SCALE_1, SCALE_2};

use crate::error::PagedError;
use crate::state_dtype::StateDtype;
use crate::table::Segment;

/// The two moments of one parameter, flattened, on the host: what a checkpoint holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Moments {
    /// f32 moments, as long as the parameter.
    F32 {
        /// The running mean of the gradient.
        moment_1: Vec<f32>,
        /// The running mean of its square.
        moment_2: Vec<f32>,
    },
    /// 8-bit moments (bitsandbytes `state1`, `absmax1`, `state2`, `absmax2`).
    Dynamic8 {
        /// Codes of the signed dynamic map, as many as the parameter has elements.
        moment_1: Vec<u8>,
        /// The scale of each 256 of them.
        absmax_1: Vec<f32>,
        /// Codes of the unsigned dynamic map.
        moment_2: Vec<u8>,
        /// The scale of each 256 of them.
        absmax_2: Vec<f32>,
    },
}

impl Moments {
    /// Returns how they are held.
    pub fn dtype(&self) -> StateDtype {
        match self {
            Self::F32 { .. } => StateDtype::F32,
            Self::Dynamic8 { .. } => StateDtype::Dynamic8,
        }
    }

    /// Returns the number of elements of the parameter.
    pub fn elements(&self) -> usize {
        match self {
            Self::F32 { moment_1, .. } => moment_1.len(),
            Self::Dynamic8 { moment_1, .. } => moment_1.len(),
        }
    }

    /// Checks that the parts fit each other.
    ///
    /// # Errors
    /// [`PagedError::Length`] when the parts are not as long as the first says.
    pub(crate) fn check(&self) -> Result<(), PagedError> {
        let elements = self.elements();
        let fits = |expected: usize, actual: usize| {
            if expected == actual {
                Ok(())
            } else {
                Err(PagedError::Length { expected, actual })
            }
        };
        match self {
            Self::F32 { moment_2, .. } => fits(elements, moment_2.len()),
            Self::Dynamic8 {
                absmax_1,
                moment_2,
                absmax_2,
                ..
            } => {
                fits(elements, moment_2.len())?;
                fits(elements.div_ceil(BLOCK), absmax_1.len())?;
                fits(elements.div_ceil(BLOCK), absmax_2.len())
            }
        }
    }

    /// Returns moments of 0, those of a parameter that was never updated.
    pub(crate) fn zeros(dtype: StateDtype, elements: usize) -> Self {
        match dtype {
            StateDtype::F32 => Self::F32 {
                moment_1: vec![0.0; elements],
                moment_2: vec![0.0; elements],
            },
            StateDtype::Dynamic8 => Self::Dynamic8 {
                moment_1: vec![0; elements],
                absmax_1: vec![0.0; elements.div_ceil(BLOCK)],
                moment_2: vec![0; elements],
                absmax_2: vec![0.0; elements.div_ceil(BLOCK)],
            },
        }
    }

    /// Takes a run from its bytes in a page.
    pub(crate) fn take(&mut self, segment: &Segment, bytes: &[u8]) {
        let range = segment.elements();
        match self {
            Self::F32 { moment_1, moment_2 } => {
                let (m, v) = bytes.split_at(bytes.len() / 2);
                let copy = |from: &[u8], to: &mut [f32]| {
                    let bytes: &mut [u8] = bytemuck::cast_slice_mut(to);
                    bytes.copy_from_slice(&from[..bytes.len()]);
                };
                copy(m, &mut moment_1[range.clone()]);
                copy(v, &mut moment_2[range]);
            }
            Self::Dynamic8 {
                moment_1,
                absmax_1,
                moment_2,
                absmax_2,
            } => {
                let first = segment.first / BLOCK;
                let codes = moment_1[range.clone()]
                    .chunks_mut(BLOCK)
                    .zip(moment_2[range].chunks_mut(BLOCK));
                let blocks = bytes.chunks_exact(BLOCK_BYTES);
                for (i, ((m, v), block)) in codes.zip(blocks).enumerate() {
                    m.copy_from_slice(&block[..m.len()]);
                    v.copy_from_slice(&block[CODES_2..CODES_2 + v.len()]);
                    absmax_1[first + i] = bytemuck::pod_read_unaligned(&block[SCALE_1..SCALE_2]);
                    absmax_2[first + i] =
                        bytemuck::pod_read_unaligned(&block[SCALE_2..BLOCK_BYTES]);
                }
            }
        }
    }

    /// Puts a run into its bytes in a page.
    pub(crate) fn put(&self, segment: &Segment, bytes: &mut [u8]) {
        let range = segment.elements();
        bytes.fill(0);
        match self {
            Self::F32 { moment_1, moment_2 } => {
                let (m, v) = bytes.split_at_mut(bytes.len() / 2);
                let copy = |from: &[f32], to: &mut [u8]| {
                    to[..4 * from.len()].copy_from_slice(bytemuck::cast_slice(from));
                };
                copy(&moment_1[range.clone()], m);
                copy(&moment_2[range], v);
            }
            Self::Dynamic8 {
                moment_1,
                absmax_1,
                moment_2,
                absmax_2,
            } => {
                let first = segment.first / BLOCK;
                let codes = moment_1[range.clone()]
                    .chunks(BLOCK)
                    .zip(moment_2[range].chunks(BLOCK));
                let blocks = bytes.chunks_exact_mut(BLOCK_BYTES);
                for (i, ((m, v), block)) in codes.zip(blocks).enumerate() {
                    block[..m.len()].copy_from_slice(m);
                    block[CODES_2..CODES_2 + v.len()].copy_from_slice(v);
                    block[SCALE_1..SCALE_2]
                        .copy_from_slice(bytemuck::bytes_of(&absmax_1[first + i]));
                    block[SCALE_2..].copy_from_slice(bytemuck::bytes_of(&absmax_2[first + i]));
                }
            }
        }
    }
}
