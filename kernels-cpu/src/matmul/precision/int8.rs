//! Integers of 8 bits.
//!
//! Both operands are scaled by groups of 64 values along k, each row of A and each column of B by itself, so that the largest
//! magnitude of a group is 127, as the codes of LLM.int8() (arXiv:2208.07339, section 3) are a row. Four products a lane are
//! summed in 32 bits, which for a group is exact, and the sums of the groups in f32.

use super::{F32, Precision, put_rows};
use crate::element::Element;
use crate::matmul::pack_b::{MatrixB, MicroPanel};
use crate::matmul::packed_a::Packing;
use crate::simd::Simd;
use crate::simd::math::ROUNDING;

/// Values of a group: with 32 or 64 of them, a block of NF4 along a row has the one scale that it had before.
const GROUP: usize = 64;
/// Words of the codes of a group.
const WORDS: usize = GROUP / 4;
/// Words along k of a group of A: its codes, its scale, and [`what the codes of B are too large by`](Int8).
const A_WORDS: usize = WORDS + 2;
/// Words along k of a group of B: its codes and its scale.
const B_WORDS: usize = WORDS + 1;

/// The largest code.
const LARGEST: f32 = 127.0;
/// The magnitude below which a group counts as zeros: its inverse times [`LARGEST`] is a number.
const SMALLEST: f32 = 1e-36;

/// Groups of 64 codes of 8 bits, four a word, the earliest along k lowest; codes of A are signed, and those of B have
/// [`Simd::BYTES_ZERO`] added, 128 where the instructions multiply unsigned numbers by signed ones. A row of A knows the sum of its codes
/// times -128 then, where sums begin.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct Int8;

/// Returns what a value of a group is multiplied by to be a code, and what a code is multiplied by to be a value, given the bits
/// of the largest magnitude. Of a group that holds what is no number, the latter is none either.
#[inline(always)]
fn scales(largest: u32) -> [f32; 2] {
    let largest = f32::from_bits(largest);
    if largest < SMALLEST {
        return [0.0; 2];
    }
    [LARGEST / largest, largest / LARGEST]
}

impl Precision for Int8 {
    const KC: usize = super::MAX_KC;
    const GROUP: usize = GROUP;

    fn a_words(k: usize) -> usize {
        k.div_ceil(GROUP) * A_WORDS
    }

    fn b_words(k: usize) -> usize {
        k.div_ceil(GROUP) * B_WORDS
    }

    #[inline(always)]
    fn pack_a<S: Simd, E: Element>(s: S, packing: Packing<Self>, x: &[E], words: &mut [u32]) {
        let (mr, k) = (packing.mr(), packing.k());
        for (at, out) in words.chunks_exact_mut(A_WORDS * mr).enumerate() {
            let mut rows = [s.splat_u(0); 16];
            let mut of_rows = [[0; 16]; 2];
            let begin = at * GROUP;
            let end = (begin + GROUP).min(k);
            for (i, row) in x.chunks_exact(k).enumerate() {
                let group = Group::of(s, &row[begin..end]);
                rows[i] = s.load_u(&group.words);
                of_rows[0][i] = group.scale.to_bits();
                of_rows[1][i] = (-i32::from(S::BYTES_ZERO) * group.sum) as u32;
            }
            let (codes, rest) = out.split_at_mut(WORDS * mr);
            put_rows(s, rows, mr, codes);
            for (out, of_rows) in rest.chunks_exact_mut(mr).zip(of_rows) {
                out.copy_from_slice(&of_rows[..mr]);
            }
        }
    }

    #[inline(always)]
    fn pack_b<S: Simd, B: MatrixB>(s: S, b: B, panel: MicroPanel, out: &mut [[u32; 16]]) {
        let vectors = panel.vectors();
        let mut decoded = [[0; 16]; GROUP * 2];
        let decoded = &mut decoded[..GROUP * vectors];
        for (at, out) in out.chunks_exact_mut(B_WORDS * vectors).enumerate() {
            let p = at * GROUP;
            let kc = GROUP.min(panel.kc - p);
            let p = panel.p + p;
            b.pack::<S, F32>(s, MicroPanel { p, kc, ..panel }, decoded);
            decoded[kc * vectors..].fill([0; 16]);
            for v in 0..vectors {
                encode_columns(s, &decoded[v..], &mut out[v..], vectors);
            }
        }
    }

    #[inline(always)]
    fn multiply<S: Simd, const MR: usize, const VECTORS: usize>(
        s: S,
        a: &[u32],
        b: &[[u32; 16]],
        sums: &mut [[u32; 16]],
        accumulate: bool,
    ) {
        let (sums, _) = sums.as_chunks_mut::<VECTORS>();
        let groups = a
            .as_chunks::<MR>()
            .0
            .as_chunks::<A_WORDS>()
            .0
            .iter()
            .zip(b.as_chunks::<VECTORS>().0.as_chunks::<B_WORDS>().0);
        for (group, (a, b)) in groups.enumerate() {
            let [a @ .., row_scales, offsets] = a;
            let [b @ .., column_scales] = b;
            // Loops here and below: a closure would be compiled on its own, without the instructions that are enabled here.
            let mut totals = [[s.splat_u(0); VECTORS]; MR];
            for (totals, offset) in totals.iter_mut().zip(offsets) {
                *totals = [s.splat_u(*offset); VECTORS];
            }
            for (a, b) in a.iter().zip(b) {
                s.add_byte_products(a, b, &mut totals);
            }
            let add = accumulate || group > 0;
            for ((sums, totals), scale) in sums.iter_mut().zip(totals).zip(row_scales) {
                let row_scale = s.splat(f32::from_bits(*scale));
                let columns = totals.into_iter().zip(column_scales);
                for (sum, (total, scale)) in sums.iter_mut().zip(columns) {
                    let scale = s.mul(s.float(s.load_u(scale)), row_scale);
                    let before = if add {
                        s.float(s.load_u(sum))
                    } else {
                        s.splat(0.0)
                    };
                    let total = s.mul_add(s.converted(total), scale, before);
                    s.store_u(s.bits(total), sum);
                }
            }
        }
    }
}

/// The codes of a group of a row.
struct Group {
    words: [u32; WORDS],
    scale: f32,
    sum: i32,
}

impl Group {
    /// Encodes up to 64 values; those that there are not count as zeros.
    #[inline(always)]
    fn of<S: Simd, E: Element>(s: S, values: &[E]) -> Self {
        let mut padded = [E::default(); GROUP];
        let values = values.first_chunk().unwrap_or_else(|| {
            padded[..values.len()].copy_from_slice(values);
            &padded
        });
        let (vectors, _) = values.as_chunks::<16>();
        let mut largest = s.splat_u(0);
        for values in vectors {
            largest = s.max_magnitude(largest, E::load_16(s, values));
        }
        let [to_code, scale] = scales(s.max_lane(largest));
        let (to_code, rounding) = (s.splat(to_code), s.splat(ROUNDING));
        let mut codes = [[0; 16]; GROUP / 16];
        let mut sums = s.splat_u(0);
        for (codes, values) in codes.iter_mut().zip(vectors) {
            let code = s.bits(s.add(s.mul(E::load_16(s, values), to_code), rounding));
            s.store_u(code, codes);
            sums = s.add_u(sums, code);
        }
        let mut bytes = [0; GROUP];
        for (byte, code) in bytes.iter_mut().zip(codes.as_flattened()) {
            *byte = *code as u8;
        }
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        let mut lanes = [0; 16];
        s.store_u(sums, &mut lanes);
        // Every code came with the bits of what it was rounded by.
        let mut sum = 0u32.wrapping_sub((GROUP as u32).wrapping_mul(ROUNDING.to_bits()));
        for lane in lanes {
            sum = sum.wrapping_add(lane);
        }
        let sum = sum.cast_signed();
        Self { words, scale, sum }
    }
}

/// Encodes a group of 16 columns: `decoded: [GROUP][vectors]` to `out: [B_WORDS][vectors]`, the first vector of each.
#[inline(always)]
fn encode_columns<S: Simd>(s: S, decoded: &[[u32; 16]], out: &mut [[u32; 16]], vectors: usize) {
    let mut largest = s.splat_u(0);
    for values in decoded.iter().step_by(vectors) {
        largest = s.max_magnitude(largest, s.float(s.load_u(values)));
    }
    let mut lanes = [0; 16];
    s.store_u(largest, &mut lanes);
    let mut to_code = [0.0; 16];
    let of_columns = &mut out[WORDS * vectors];
    for ((to_code, scale), largest) in to_code.iter_mut().zip(of_columns).zip(lanes) {
        let [code, value] = scales(largest);
        *to_code = code;
        *scale = value.to_bits();
    }
    let rounding = s.splat(ROUNDING + f32::from(S::BYTES_ZERO));
    let to_code = s.load(&to_code);
    for word in 0..WORDS {
        let mut codes = [s.splat_u(0); 4];
        for (i, codes) in codes.iter_mut().enumerate() {
            let values = s.float(s.load_u(&decoded[(4 * word + i) * vectors]));
            let code = s.bits(s.add(s.mul(values, to_code), rounding));
            *codes = s.and_u(code, s.splat_u(0xff));
        }
        let low = with_high_byte(s, codes[0], codes[1]);
        let high = s.shift_left(with_high_byte(s, codes[2], codes[3]), 16);
        s.store_u(s.or_u(low, high), &mut out[word * vectors]);
    }
}

/// Returns bytes `low` and, above them, bytes `high`.
#[inline(always)]
fn with_high_byte<S: Simd>(s: S, low: S::U, high: S::U) -> S::U {
    s.or_u(low, s.shift_right(s.shift_left(high, 16), 8))
}

#[cfg(test)]
mod tests {
    use nf4::{QuantConfig, QuantizedMatrix};
    use qlora_test_support::random::uniform;

    use super::*;
    use crate::buffer::as_uninit;
    use crate::codebook::CodebookRef;
    use crate::cpu::{Cpu, Threads};
    use crate::matmul::gemm::{gemm, pack};
    use crate::matmul::output::Output;
    use crate::matmul::pack_b::{QuantizedColumns, QuantizedRows};
    use crate::simd::Isa;

    /// Rounds a vector to 255 steps in groups of 64.
    fn rounded(values: impl Iterator<Item = f32>) -> Vec<f64> {
        let values: Vec<f32> = values.collect();
        let groups = values.chunks(GROUP).flat_map(|group| {
            let largest = group.iter().fold(0f32, |max, value| max.max(value.abs()));
            group.iter().map(move |value| {
                if largest < 1e-37 {
                    return 0.0;
                }
                f64::from((value * (127.0 / largest)).round_ties_even()) * f64::from(largest)
                    / 127.0
            })
        });
        groups.collect()
    }

    /// Multiplies `x` by W, transposed or not.
    fn product(
        isa: Isa,
        w: &QuantizedMatrix,
        x: &[f32],
        [k, n]: [usize; 2],
        rows: bool,
    ) -> Vec<f32> {
        let cpu = Cpu::new(isa, Threads::All);
        let packed = pack::<Int8, f32>(cpu, x, k);
        let mut y = vec![f32::NAN; x.len() / k * n];
        // SAFETY: products write nothing but values.
        let out = Output::New(unsafe { as_uninit(&mut y) });
        let w = CodebookRef::of(w.as_ref()).expect("NF4 has a codebook");
        if rows {
            gemm(cpu, packed.as_ref(), QuantizedRows(w), out);
        } else {
            gemm(cpu, packed.as_ref(), QuantizedColumns(w), out);
        }
        y
    }

    #[test]
    fn products_are_those_of_operands_rounded_by_groups() {
        for shape in [
            [1, 1],
            [3, 5],
            [33, 50],
            [65, 136],
            [130, 257],
            [64, 128],
            [20, 1304],
            [1300, 9],
        ] {
            let [out_features, in_features] = shape;
            let values = uniform(1, out_features * in_features);
            let w = crate::quantize(&values, shape, QuantConfig::default()).expect("finite");
            let mut dense = vec![0.0; values.len()];
            crate::dequantize(w.as_ref(), &mut dense);
            for rows in [true, false] {
                let [k, n] = if rows {
                    [in_features, out_features]
                } else {
                    shape
                };
                let column = |j: usize| {
                    let at = move |p: usize| {
                        if rows {
                            j * in_features + p
                        } else {
                            p * in_features + j
                        }
                    };
                    rounded((0..k).map(|p| dense[at(p)]))
                };
                let columns: Vec<Vec<f64>> = (0..n).map(column).collect();
                for m in [6, 13, 40] {
                    let mut x = uniform(2, m * k);
                    // A group of zeros, and one that counts as zeros.
                    x[..k.min(GROUP)].fill(0.0);
                    x[k..][..k.min(GROUP)].fill(1e-38);
                    for isa in Isa::available() {
                        let y = product(*isa, &w, &x, [k, n], rows);
                        for (x, y) in x.chunks(k).zip(y.chunks(n)) {
                            let x = rounded(x.iter().copied());
                            for (y, column) in y.iter().zip(&columns) {
                                let terms = x.iter().zip(column).map(|(x, w)| x * w);
                                let (sum, magnitude) = terms
                                    .fold((0.0, 0.0), |(sum, all), term| {
                                        (sum + term, all + f64::abs(term))
                                    });
                                // Sums of up to 21 groups, and their scales, in f32.
                                let error = (f64::from(*y) - sum).abs();
                                assert!(
                                    error <= 1e-6 * magnitude,
                                    "{isa:?} {shape:?} m={m}: {y} for {sum}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}
