//! Which rows of a matrix may have the largest product with a vector, found without reading the matrix.
//!
//! The head of a model is its widest matrix by far, and a greedy choice asks it for nothing but the row of the largest product.
//! Of a copy in 8 bits, and of vectors rounded to 15, products are known up to a bound:
//! `|w·x − ŵ·x̂| ≤ ‖w − ŵ‖·‖x‖ + ‖ŵ‖·‖x − x̂‖` (Cauchy-Schwarz), of which the norms of the rows are computed when the copy is
//! made. Rows whose product cannot reach that of another are left out; the others are to be multiplied as they are. Bound by
//! reading the copy: a quarter of an f32 matrix, half of one in bf16.

use nf4::{Direction, GgufFormat, Layout, MatrixRef};
use rayon::prelude::*;

use super::gemv::bytes::{self, Rounded};
use crate::cpu::Cpu;
use crate::simd::kernel;
use crate::simd::math::{LANES, ROUNDING, fold};

/// Values that share a scale.
const BLOCK: usize = 32;

/// What rounding adds to the norm of a residual, which is computed in f64 and kept in f32.
const ROUNDED_UP: f64 = 1.0 + 1e-6;

/// A copy of a matrix `[rows, k]` in 8 bits (Q8_0), with how far it is off.
#[derive(Debug)]
pub struct Shortlist {
    layout: Layout,
    codes: Vec<u32>,
    scales: Vec<u32>,
    rows: Vec<Norms>,
}

/// The norms that bounds are made of, of a row or of a vector.
#[derive(Clone, Copy, Debug, Default)]
struct Norms {
    /// Of a row, that of its copy; of a vector, that of itself.
    whole: f32,
    /// That of what copying or rounding took off.
    residual: f32,
}

impl Norms {
    /// Returns how far the product of a row and a vector can be off.
    #[inline(always)]
    fn bound(row: Self, vector: Self) -> f32 {
        row.residual * vector.whole + row.whole * vector.residual
    }
}

impl Shortlist {
    /// Returns the copy of a matrix of `shape`, `[rows, k]`, of which `read` gives the values of some rows from a first one on: as
    /// many as it likes, at least one. `None` for values that are not finite, and where `k` is no multiple of 32.
    ///
    /// # Errors
    /// What `read` has to say.
    pub fn new<E>(
        cpu: Cpu,
        shape @ [rows, k]: [usize; 2],
        mut read: impl FnMut(usize) -> Result<Vec<f32>, E>,
    ) -> Result<Option<Self>, E> {
        let Ok(layout) = Layout::new(shape, GgufFormat::Q8_0) else {
            return Ok(None);
        };
        let mut list = Self {
            layout,
            codes: vec![0; layout.packed_words()],
            scales: vec![0; layout.absmax_words()],
            rows: vec![Norms::default(); rows],
        };
        let mut scales = vec![0u16; rows * k / BLOCK];
        let mut first = 0;
        while first < rows {
            let values = read(first)?;
            let count = values.len() / k;
            assert!(
                count > 0 && values.len() == count * k && first + count <= rows,
                "shortlist: {} values are not rows of {k}",
                values.len()
            );
            let range = first..first + count;
            values
                .par_chunks(k)
                .zip(list.codes[first * k / 4..].par_chunks_mut(k / 4))
                .zip(scales[first * k / BLOCK..].par_chunks_mut(k / BLOCK))
                .zip(&mut list.rows[range])
                .with_min_len(cpu.threads.min_len(64))
                .for_each(|(((values, codes), scales), bound)| {
                    *bound = encode(values, codes, scales);
                });
            first += count;
        }
        for (i, scale) in scales.into_iter().enumerate() {
            list.scales[i / 2] |= u32::from(scale) << (16 * (i % 2));
        }
        let finite = |row: &Norms| row.residual.is_finite() && row.whole.is_finite();
        let finite = list.rows.iter().all(finite);
        Ok(finite.then_some(list))
    }

    /// Returns the bytes that the copy of a matrix `[rows, k]` takes.
    pub fn bytes([rows, k]: [usize; 2]) -> u128 {
        rows as u128 * (k as u128 + (k / BLOCK) as u128 * 2 + size_of::<Norms>() as u128)
    }

    /// Returns what is known of the products with each of the `m` vectors `x: [m, k]`; `None` where one is not finite.
    ///
    /// # Panics
    /// If `x` is not `m` vectors.
    pub fn estimates(&self, cpu: Cpu, x: &[f32], m: usize) -> Option<Estimates<'_>> {
        let [rows, k] = self.layout.shape();
        let (products, residuals) = if cpu.isa.multiplies_bytes() {
            let rounded: Vec<_> = x.chunks_exact(k).map(Rounded::new).collect();
            let products = bytes::multiply(cpu, self.copy(), &rounded);
            (products, rounded.iter().map(Rounded::residual).collect())
        } else {
            let products = cpu.matmul_vec(self.copy(), x, m, Direction::Forward);
            (products, vec![0.0; m])
        };
        let mut vectors = Vec::with_capacity(m);
        let rounded_up = |norm: f64| (norm * ROUNDED_UP) as f32;
        let of_vectors = x.chunks_exact(k).zip(residuals);
        for ((x, residual), products) in of_vectors.zip(products.chunks_exact(rows)) {
            let norm = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            let norms = Norms {
                whole: rounded_up(norm),
                residual: rounded_up(residual),
            };
            let [reached, highest] = limits(cpu.isa, products, &self.rows, norms);
            if !(reached.is_finite() && highest.is_finite()) {
                return None;
            }
            vectors.push(Known {
                norms,
                reached,
                highest,
            });
        }
        Some(Estimates {
            products,
            rows: &self.rows,
            vectors,
        })
    }

    fn copy(&self) -> MatrixRef<'_> {
        MatrixRef::new(self.layout, &self.codes, &self.scales)
            .expect("the words were made for the layout")
    }
}

/// The products of a [`Shortlist`]'s matrix with some vectors, as far as they are known.
#[derive(Debug)]
pub struct Estimates<'a> {
    /// `[m, rows]`.
    products: Vec<f32>,
    rows: &'a [Norms],
    vectors: Vec<Known>,
}

/// What is known of a vector and of its products together.
#[derive(Clone, Copy, Debug)]
struct Known {
    norms: Norms,
    /// What the largest product is at least.
    reached: f32,
    /// What no product exceeds.
    highest: f32,
}

impl Estimates<'_> {
    /// Returns the row whose product with vector `i` is the largest as far as is known.
    ///
    /// # Panics
    /// If there is no such vector.
    pub fn likeliest(&self, i: usize) -> u32 {
        let mut most = (0, f32::NEG_INFINITY);
        for (row, product) in (0u32..).zip(self.of_vector(i)) {
            if *product > most.1 {
                most = (row, *product);
            }
        }
        most.0
    }

    /// Returns the rows that may have the largest product with vector `i`, ascending, where products may then be rounded by up to
    /// `rounding` of themselves: rows that could come out alike are all among them. `product` is that of some row, so rounded; the
    /// larger it is, the fewer remain.
    ///
    /// # Panics
    /// If there is no such vector.
    pub fn candidates(&self, i: usize, product: f32, rounding: f32) -> Vec<u32> {
        let Known {
            norms,
            reached,
            highest,
        } = self.vectors[i];
        let rounding = rounding * reached.abs().max(highest.abs());
        let reached = reached.max(product - rounding) - rounding;
        let places = (0u32..).zip(self.of_vector(i).iter().zip(self.rows));
        places
            .filter(|(_, (product, row))| *product + Norms::bound(**row, norms) >= reached)
            .map(|(row, _)| row)
            .collect()
    }

    fn of_vector(&self, i: usize) -> &[f32] {
        let rows = self.rows.len();
        &self.products[i * rows..][..rows]
    }
}

kernel! {
    /// Returns what the largest product with a vector is at least, and at most; NaN where a product is not finite.
    fn limits<S: Simd>(products: &[f32], rows: &[Norms], vector: Norms) -> [f32; 2] {
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        let mut least = [f32::NEG_INFINITY; LANES];
        let mut most = least;
        let mut bad = [0f32; LANES];
        for (products, rows) in products.chunks(LANES).zip(rows.chunks(LANES)) {
            for (i, (product, row)) in products.iter().zip(rows).enumerate() {
                let off = Norms::bound(*row, vector);
                least[i] = larger(least[i], product - off);
                most[i] = larger(most[i], product + off);
                bad[i] += product * 0.0;
            }
        }
        let bad = fold(bad, |a, b| a + b);
        [least, most].map(|lanes| fold(lanes, larger) + bad)
    }
}

/// Writes a row's codes, four a word, and the bits of its scales in f16; returns its norms, the residual with the rounding
/// of both products.
fn encode(values: &[f32], codes: &mut [u32], scales: &mut [u16]) -> Norms {
    let (mut residual, mut square, mut copied) = (0f64, 0f64, 0f64);
    let blocks = values
        .chunks_exact(BLOCK)
        .zip(codes.chunks_exact_mut(BLOCK / 4));
    for ((values, codes), scale) in blocks.zip(scales) {
        let largest = values
            .iter()
            .fold(0f32, |most, value| most.max(value.abs()));
        let rounded = half::f16::from_f32(largest / 127.0);
        *scale = rounded.to_bits();
        let step = rounded.to_f32();
        let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
        let mut bytes = [0u8; BLOCK];
        for (byte, value) in bytes.iter_mut().zip(values) {
            let code = (value * inverse).clamp(-127.0, 127.0) + ROUNDING - ROUNDING;
            // The code is a whole number of that range, or 0 for a NaN.
            *byte = (code as i32 + 128) as u8;
            let copy = f64::from(step) * f64::from(i32::from(*byte) - 128);
            residual += (f64::from(*value) - copy).powi(2);
            square += f64::from(*value).powi(2);
            copied += copy.powi(2);
        }
        for (word, bytes) in codes.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
    }
    // Each of two sums of k terms in f32 rounds by less than k · 2^-24 of the terms' magnitudes.
    let rounding = values.len() as f64 * 2f64.powi(-23);
    let rounded_up = |norm: f64| (norm * ROUNDED_UP) as f32;
    Norms {
        whole: rounded_up(copied.sqrt()),
        residual: rounded_up(residual.sqrt() + rounding * square.sqrt()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Threads;
    use crate::dense::DenseRef;
    use crate::simd::Isa;
    use std::convert::Infallible;

    fn wave(len: usize, step: f32) -> Vec<f32> {
        (0..len)
            .map(|i| (i as f32 * step).sin() * (i % 13) as f32)
            .collect()
    }

    fn list(values: &[f32], shape @ [rows, k]: [usize; 2]) -> Option<Shortlist> {
        let read = |first: usize| -> Result<Vec<f32>, Infallible> {
            Ok(values[first * k..(first + 30).min(rows) * k].to_vec())
        };
        let Ok(list) = Shortlist::new(Cpu::default(), shape, read);
        list
    }

    /// Estimates are within the bound, which is a hundredth of what the products are; few rows are left, and the largest is one.
    #[test]
    fn the_largest_is_among_the_candidates() {
        let shape @ [rows, k] = [1001, 96];
        let mut w = wave(rows * k, 0.37);
        // Two rows that are nearly one.
        w.copy_within(7 * k..8 * k, 900 * k);
        w[900 * k] += 1e-6;
        let list = list(&w, shape).unwrap();
        let x = [wave(k, 1.1), wave(k, 0.2), w[7 * k..8 * k].to_vec()].concat();
        let mut exact = vec![0.0; 3 * rows];
        Cpu::default().dense_matmul_few_rows(DenseRef::new(&w, shape), &x, 3, &mut exact);
        for isa in Isa::available() {
            let cpu = Cpu::new(*isa, Threads::All);
            let found = list.estimates(cpu, &x, 3).unwrap();
            check(&list, &found, &exact);
        }
    }

    /// `exact: [3, rows]`, of which the last has two rows that are alike.
    fn check(list: &Shortlist, found: &Estimates<'_>, exact: &[f32]) {
        let rows = list.rows.len();
        let mut alike = Vec::new();
        for i in 0..3 {
            let exact = &exact[i * rows..][..rows];
            for (row, (exact, estimate)) in exact.iter().zip(found.of_vector(i)).enumerate() {
                let bound = Norms::bound(list.rows[row], found.vectors[i].norms);
                assert!(
                    (exact - estimate).abs() <= bound,
                    "{row}: {exact} {estimate}"
                );
            }
            let best = (0..rows)
                .max_by(|a, b| exact[*a].total_cmp(&exact[*b]))
                .unwrap();
            let few = found.candidates(i, exact[found.likeliest(i) as usize], 0.0);
            let candidates = found.candidates(i, f32::NEG_INFINITY, 0.0);
            assert!(few.len() <= candidates.len() && candidates.len() < rows / 10);
            for candidates in [&few, &candidates] {
                assert!(candidates.contains(&(best as u32)) && candidates.is_sorted());
            }
            alike.push(few);
        }
        assert!(alike[2].contains(&900) && alike[2].len() < 5);
        let all = found.candidates(0, f32::NEG_INFINITY, 3.0);
        assert!(all.len() > rows / 2);
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        for bad in [f32::NAN, f32::INFINITY, f32::MAX] {
            let mut w = wave(64 * 32, 0.37);
            w[700] = bad;
            assert!(list(&w, [64, 32]).is_none(), "{bad}");
        }
        let list = list(&wave(64 * 32, 0.37), [64, 32]).unwrap();
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = wave(32, 1.1);
            x[5] = bad;
            assert!(list.estimates(Cpu::default(), &x, 1).is_none(), "{bad}");
        }
    }
}
