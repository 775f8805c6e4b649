//! The product of a matrix of signed bytes, a scale a row, with vectors.
//!
//! Where the machine sums up products of bytes, vectors are rounded to 15 bits, and the sums of a lane over a whole row are exact: a
//! row costs its bytes, two instructions for 64 of them and a vector, and one conversion. Elsewhere the bytes become f32.

use super::dot::{FAR_AHEAD, GroupScales, Single, WordRows};
use super::{MAX_ROWS, by_rows, group_words, interleaved};
use crate::blocks::codes;
use crate::cpu::Cpu;
use crate::simd::math::ROUNDING;
use crate::simd::{CacheLevel, Simd, kernel, prefetch};

/// What each byte of the matrix is more than what it stands for, so that none is negative.
pub(in crate::matmul) const ZERO: u8 = 128;
/// The most columns: so many products of bytes fit the sum of a lane.
pub(in crate::matmul) const MAX_COLUMNS: usize = 1 << 20;

/// Values in a group of 16 words.
const GROUP: usize = 64;
/// The largest number that a value is rounded to: `128 · high + low` with both of them signed bytes.
const LARGEST: f32 = 127.0 * 128.0;
/// Rows of the matrix that are taken up together.
const ROWS: usize = 4;

/// A matrix `[rows, k]` of bytes.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct ByteRows<'a> {
    /// Four codes a word.
    pub(in crate::matmul) codes: &'a [u32],
    /// What the codes of each row are multiplied by.
    pub(in crate::matmul) scales: &'a [f32],
}

impl<'a> ByteRows<'a> {
    fn row_words(self) -> usize {
        self.codes.len() / self.scales.len()
    }

    fn words(self, row: usize) -> &'a [u32] {
        &self.codes[row * self.row_words()..][..self.row_words()]
    }
}

/// Returns `x·Wᵀ: [m, rows]` for `x: [m, k]` and a matrix that is not empty, and the norm of what rounding took off each vector: not
/// finite where a value is not.
pub(in crate::matmul) fn multiply(
    cpu: Cpu,
    w: ByteRows<'_>,
    x: &[f32],
    m: usize,
) -> (Vec<f32>, Vec<f64>) {
    let k = 4 * w.row_words();
    let shape = [w.scales.len(), k];
    let mut y = vec![0.0; m * w.scales.len()];
    if y.is_empty() {
        return (y, Vec::new());
    }
    if cpu.isa.multiplies_bytes() {
        let x: Vec<_> = x.chunks_exact(k).map(Rounded::new).collect();
        by_rows(cpu, shape, m, &mut y, |first, out| {
            dot_rows(cpu.isa, w, first, &x, out);
        });
        (y, x.iter().map(|x| x.residual).collect())
    } else {
        let of_few = x.chunks(MAX_ROWS * k);
        for (x, y) in of_few.zip(y.chunks_mut(MAX_ROWS * w.scales.len())) {
            let m = x.len() / k;
            let x = interleaved::<4>(x, k);
            by_rows(cpu, shape, m, y, |first, out| {
                dot_float_rows(cpu.isa, w, first, bytemuck::cast_slice(&x), m, out);
            });
        }
        (y, vec![0.0; m])
    }
}

/// A vector as whole numbers of 15 bits, in units of a scale.
struct Rounded {
    scale: f32,
    groups: Vec<Group>,
    /// What the sum of each lane begins with, to take back what [`ZERO`] adds to it.
    start: Group,
    residual: f64,
}

/// The high and the low bytes of 64 values, four signed bytes a word; or what the sums of their products begin with.
#[derive(Clone, Copy)]
struct Group {
    high: [u32; 16],
    low: [u32; 16],
}

impl Group {
    const NONE: Self = Self {
        high: [0; 16],
        low: [0; 16],
    };
}

impl Rounded {
    fn new(x: &[f32]) -> Self {
        let largest = x.iter().fold(0f32, |most, x| most.max(x.abs()));
        let scale = largest / LARGEST;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let mut groups = Vec::with_capacity(x.len().div_ceil(GROUP));
        let mut start = Group::NONE;
        let mut square = 0f64;
        for x in x.chunks(GROUP) {
            let mut bytes = [[0i8; GROUP]; 2];
            for (i, x) in x.iter().enumerate() {
                let code = (x * inverse).clamp(-LARGEST, LARGEST) + ROUNDING - ROUNDING;
                square += (f64::from(*x) - f64::from(scale) * f64::from(code)).powi(2);
                // The code is a whole number of that range, or 0 for a NaN.
                let code = code as i32;
                let high = (code + 64) >> 7;
                bytes[0][i] = high as i8;
                bytes[1][i] = (code - 128 * high) as i8;
            }
            let [high, low] = bytes;
            groups.push(Group {
                high: words(&high, &mut start.high),
                low: words(&low, &mut start.low),
            });
        }
        Self {
            scale,
            groups,
            start,
            residual: square.sqrt(),
        }
    }
}

/// Returns the words of a group's bytes, and takes from `start` what [`ZERO`] adds to their products.
fn words(bytes: &[i8; GROUP], start: &mut [u32; 16]) -> [u32; 16] {
    let mut words = [0; 16];
    let (fours, _) = bytes.as_chunks::<4>();
    for ((word, start), bytes) in words.iter_mut().zip(start).zip(fours) {
        let sum: i32 = bytes.iter().copied().map(i32::from).sum();
        *start = start.wrapping_add_signed(-i32::from(ZERO) * sum);
        *word = u32::from_le_bytes(bytes.map(i8::cast_unsigned));
    }
    words
}

kernel! {
    /// Computes `out: [rows of W][m]` from `first` on.
    fn dot_rows(w: ByteRows<'_>, first: usize, x: &[Rounded], out: &mut [f32]) = dot;
}

#[inline(always)]
fn dot<S: Simd>(s: S, w: ByteRows<'_>, first: usize, x: &[Rounded], out: &mut [f32]) {
    let m = x.len();
    let mut row = first;
    let mut together = out.chunks_exact_mut(ROWS * m);
    for out in &mut together {
        dot_together::<S, ROWS>(s, w, row, x, out);
        row += ROWS;
    }
    for out in together.into_remainder().chunks_exact_mut(m) {
        dot_together::<S, 1>(s, w, row, x, out);
        row += 1;
    }
}

/// Computes the products of `R` rows from `row` on, with two vectors at a time.
#[inline(always)]
fn dot_together<S: Simd, const R: usize>(
    s: S,
    w: ByteRows<'_>,
    row: usize,
    x: &[Rounded],
    out: &mut [f32],
) {
    let mut words: [&[u32]; R] = [&[]; R];
    for (r, words) in words.iter_mut().enumerate() {
        *words = w.words(row + r);
    }
    let scales = w.scales[row..].first_chunk::<R>();
    let scales = scales.expect("there are so many rows");
    let (pairs, last) = x.as_chunks::<2>();
    let m = x.len();
    for (i, x) in (0..).step_by(2).zip(pairs) {
        put(scales, m, i, x, dot_with(s, words, x), out);
    }
    if let [x] = last {
        let x = std::array::from_ref(x);
        put(scales, m, m - 1, x, dot_with(s, words, x), out);
    }
}

/// Puts the scaled sums of `R` rows with vectors from `first` on where they belong.
#[inline(always)]
fn put<const R: usize, const M: usize>(
    scales: &[f32; R],
    m: usize,
    first: usize,
    x: &[Rounded; M],
    sums: [[f32; R]; M],
    out: &mut [f32],
) {
    for (i, (x, sums)) in (first..).zip(x.iter().zip(sums)) {
        for ((out, sum), scale) in out.chunks_exact_mut(m).zip(sums).zip(scales) {
            out[i] = sum * x.scale * scale;
        }
    }
}

/// Returns the sums of the products of `R` rows of `words` with `M` vectors.
#[inline(always)]
fn dot_with<S: Simd, const R: usize, const M: usize>(
    s: S,
    words: [&[u32]; R],
    x: &[Rounded; M],
) -> [[f32; R]; M] {
    let whole = words[0].len() / 16;
    let mut totals = [[[s.splat_u(0); 2]; R]; M];
    for (totals, x) in totals.iter_mut().zip(x) {
        *totals = [[s.load_u(&x.start.high), s.load_u(&x.start.low)]; R];
    }
    let mut codes = [s.splat_u(0); R];
    for at in 0..whole {
        for (codes, words) in codes.iter_mut().zip(words) {
            prefetch(CacheLevel::Second, words, 16 * at + FAR_AHEAD);
            let (groups, _) = words.as_chunks();
            *codes = s.load_u(&groups[at]);
        }
        add_products(s, codes, x, at, &mut totals);
    }
    if !words[0].len().is_multiple_of(16) {
        for (codes, words) in codes.iter_mut().zip(words) {
            *codes = group_words(s, words, whole);
        }
        add_products(s, codes, x, whole, &mut totals);
    }
    let mut sums = [[0.0; R]; M];
    for (sums, totals) in sums.iter_mut().zip(totals) {
        let mut lanes = [s.splat(0.0); R];
        for (lanes, [high, low]) in lanes.iter_mut().zip(totals) {
            *lanes = s.mul_add(s.splat(128.0), s.converted(high), s.converted(low));
        }
        *sums = s.sums(lanes);
    }
    sums
}

/// Adds the products of a group of words of each of `R` rows with the high and the low bytes that meet it.
#[inline(always)]
fn add_products<S: Simd, const R: usize, const M: usize>(
    s: S,
    codes: [S::U; R],
    x: &[Rounded; M],
    at: usize,
    totals: &mut [[[S::U; 2]; R]; M],
) {
    for (totals, x) in totals.iter_mut().zip(x) {
        let Group { high, low } = &x.groups[at];
        let (high, low) = (s.load_u(high), s.load_u(low));
        for ([of_high, of_low], codes) in totals.iter_mut().zip(codes) {
            *of_high = s.dot_bytes(codes, high, *of_high);
            *of_low = s.dot_bytes(codes, low, *of_low);
        }
    }
}

kernel! {
    /// Does [`dot_rows`] in f32, with `m` interleaved rows `x`.
    fn dot_float_rows(w: ByteRows<'_>, first: usize, x: &[u32], m: usize, out: &mut [f32]) = dot_floats;
}

#[inline(always)]
fn dot_floats<S: Simd>(s: S, w: ByteRows<'_>, first: usize, x: &[u32], m: usize, out: &mut [f32]) {
    let codes = Single(codes::Bytes::new(ZERO));
    let scales = &w.scales[first..];
    let rows = WordRows::new::<S>(codes, scales, w.codes, 4 * w.row_words(), first);
    rows.dot::<false, S>(s, x, &[], m, out);
}

/// One scale a row.
impl<S: Simd> GroupScales<S> for &[f32] {
    #[inline(always)]
    fn of_group<const MINIMA: bool>(&self, s: S, row: usize, _group: usize) -> [S::F; 2] {
        [s.splat(self[row]), s.splat(0.0)]
    }
}
