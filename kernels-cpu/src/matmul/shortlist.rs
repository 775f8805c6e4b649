//! Which rows of a matrix may have the largest product with a vector, found without reading the matrix.
//!
//! The head of a model is its widest matrix by far, and a greedy choice asks it for nothing but the row of the largest product.
//! Of a copy in 8 bits, and of vectors rounded to 15, products are known up to a bound:
//! `|w·x − ŵ·x̂| ≤ ‖w − ŵ‖·‖x‖ + ‖ŵ‖·‖x − x̂‖` (Cauchy-Schwarz), of which the norms of the rows are computed when the copy is
//! made. Rows whose product cannot reach that of another are left out; the others are to be multiplied as they are. Bound by
//! reading the copy: a quarter of an f32 matrix, half of one in bf16.

use super::gemv::bytes::{self, ByteRows, MAX_COLUMNS, ZERO};
use crate::cpu::Cpu;
use crate::simd::math::{LANES, ROUNDING, fold, max, mul_add};
use crate::simd::{Isa, kernel};

/// Values of a row that are copied at a time.
const BLOCK: usize = 32;

/// Rows that a task copies.
const TASK: usize = 32;

/// The bits of an f32 that a step keeps: 16 of its significand.
const STEP_BITS: u32 = 0xffff_ff00;

/// What rounding adds to the norm of a residual, which is computed in f64 and kept in f32.
const ROUNDED_UP: f64 = 1.0 + 1e-6;

/// A copy of a matrix `[rows, k]` in 8 bits, with how far it is off.
#[derive(Debug)]
pub struct Shortlist {
    /// Four a word.
    codes: Vec<u32>,
    /// That of each row.
    scales: Vec<f32>,
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
    /// many as it likes, at least one. `None` for values that are not finite, and where there are none or `k` is no multiple of 32
    /// or more than a million.
    ///
    /// # Errors
    /// What `read` has to say.
    pub fn new<E>(
        cpu: Cpu,
        [rows, k]: [usize; 2],
        mut read: impl FnMut(usize) -> Result<Vec<f32>, E>,
    ) -> Result<Option<Self>, E> {
        if rows * k == 0 || !k.is_multiple_of(BLOCK) || k > MAX_COLUMNS {
            return Ok(None);
        }
        let mut list = Self {
            codes: vec![0; rows * k / 4],
            scales: vec![0.0; rows],
            rows: vec![Norms::default(); rows],
        };
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
            let tasks = values
                .chunks(TASK * k)
                .zip(list.codes[first * k / 4..].chunks_mut(TASK * k / 4))
                .zip(list.scales[range.clone()].chunks_mut(TASK))
                .zip(list.rows[range].chunks_mut(TASK));
            let tasks = tasks.collect();
            cpu.threads
                .share(tasks, |(((values, codes), scales), norms)| {
                    let rows = values
                        .chunks_exact(k)
                        .zip(codes.chunks_exact_mut(k / 4))
                        .zip(scales);
                    for (((values, codes), scale), norms) in rows.zip(norms) {
                        *norms = encode(cpu.isa, values, codes, scale);
                    }
                });
            first += count;
        }
        let finite = |row: &Norms| row.residual.is_finite() && row.whole.is_finite();
        let finite = list.rows.iter().all(finite);
        Ok(finite.then_some(list))
    }

    /// Returns the bytes that the copy of a matrix `[rows, k]` takes.
    pub fn bytes([rows, k]: [usize; 2]) -> u128 {
        rows as u128 * (k + size_of::<f32>() + size_of::<Norms>()) as u128
    }

    /// Returns what is known of the products with each of the `m` vectors `x: [m, k]`; `None` where one is not finite.
    ///
    /// # Panics
    /// If `x` is not `m` vectors.
    pub fn estimates(&self, cpu: Cpu, x: &[f32], m: usize) -> Option<Estimates<'_>> {
        let (rows, k) = (self.rows.len(), 4 * self.codes.len() / self.rows.len());
        assert_eq!(x.len(), m * k, "shortlist: the values of {m} vectors");
        let copy = ByteRows {
            codes: &self.codes,
            scales: &self.scales,
        };
        let (products, residuals) = bytes::multiply(cpu, copy, x, m);
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
            isa: cpu.isa,
            products,
            rows: &self.rows,
            vectors,
        })
    }
}

/// The products of a [`Shortlist`]'s matrix with some vectors, as far as they are known.
#[derive(Debug)]
pub struct Estimates<'a> {
    isa: Isa,
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
        let products = self.of_vector(i);
        let most = largest(self.isa, products);
        let place = products.iter().position(|product| *product == most);
        place.map_or(0, |row| row as u32)
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
        let mut found = Vec::new();
        reaching(
            self.isa,
            self.of_vector(i),
            self.rows,
            norms,
            reached,
            &mut found,
        );
        found
    }

    fn of_vector(&self, i: usize) -> &[f32] {
        let rows = self.rows.len();
        &self.products[i * rows..][..rows]
    }
}

/// Returns what the root of a sum of `k` squares in f32 is at most, given the sum in f32 of [`BLOCK`] sums.
fn norm_at_most(sum: f64, k: usize) -> f64 {
    let rounding = (k / BLOCK + BLOCK) as f64 * 2f64.powi(-24);
    // Squares below the smallest number are lost.
    let lost = k as f64 * f64::from(f32::MIN_POSITIVE);
    ((1.0 + 2.0 * rounding) * sum + lost).sqrt()
}

kernel! {
    /// Returns the largest product.
    fn largest<S: Simd>(products: &[f32]) -> f32 {
        max(f32::NEG_INFINITY, products)
    }

    /// Appends the rows whose product with a vector may be `reached` or more.
    fn reaching<S: Simd>(
        products: &[f32],
        rows: &[Norms],
        vector: Norms,
        reached: f32,
        found: &mut Vec<u32>,
    ) {
        let runs = products.chunks(LANES).zip(rows.chunks(LANES));
        for (first, (products, rows)) in (0..).step_by(LANES).zip(runs) {
            let mut reach = [false; LANES];
            for ((reaches, product), row) in reach.iter_mut().zip(products).zip(rows) {
                *reaches = product + Norms::bound(*row, vector) >= reached;
            }
            if reach.contains(&true) {
                let places = (first..).zip(reach).filter(|(_, reaches)| *reaches);
                found.extend(places.map(|(row, _)| row));
            }
        }
    }

    /// Writes a row's codes, four a word, and their scale; returns the row's norms, the residual with the rounding of both
    /// products. They are not finite where a value is not.
    fn encode<S: Simd>(values: &[f32], codes: &mut [u32], scale: &mut f32) -> Norms {
        let (blocks, _) = values.as_chunks::<BLOCK>();
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        let mut magnitudes = [0f32; BLOCK];
        for values in blocks {
            for (magnitude, value) in magnitudes.iter_mut().zip(values) {
                *magnitude = larger(*magnitude, value.abs());
            }
        }
        let largest = fold(magnitudes, larger);
        let step = f32::from_bits((largest / 127.0).to_bits() & STEP_BITS);
        let step = if step.is_normal() { step } else { 0.0 };
        let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
        *scale = step;
        let [mut residual, mut square, mut copied] = [[0f32; BLOCK]; 3];
        let (codes, _) = codes.as_chunks_mut::<{ BLOCK / 4 }>();
        for (values, codes) in blocks.iter().zip(codes) {
            let mut bytes = [0u8; BLOCK];
            for (lane, (byte, value)) in bytes.iter_mut().zip(values).enumerate() {
                // The lowest bits are those of the code.
                let code = (value * inverse).clamp(-127.0, 127.0) + ROUNDING;
                *byte = (code.to_bits() as u8).wrapping_add(ZERO);
                // Both exact: 7 bits times 16, and what two numbers so near differ by.
                let copy = (code - ROUNDING) * step;
                let off = value - copy;
                residual[lane] = mul_add::<S>(off, off, residual[lane]);
                square[lane] = mul_add::<S>(*value, *value, square[lane]);
                copied[lane] = mul_add::<S>(copy, copy, copied[lane]);
            }
            for (word, bytes) in codes.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *word = u32::from_le_bytes(*bytes);
            }
        }
        let [residual, square, copied] = [residual, square, copied].map(|lanes| {
            norm_at_most(f64::from(fold(lanes, |a, b| a + b)), values.len())
        });
        // Each of two sums of k terms in f32 rounds by less than k · 2^-24 of the terms' magnitudes; one of whole numbers nine
        // times, of terms three times as large at most.
        let rounding = values.len() as f64 * 2f64.powi(-23);
        Norms {
            whole: (copied * ROUNDED_UP) as f32,
            residual: ((residual + rounding * square) * ROUNDED_UP) as f32,
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Threads;
    use crate::dense::DenseRef;
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

    /// Also of more vectors than a kernel takes at once, of rows that end within a group, and of no vectors.
    #[test]
    fn a_vector_has_the_products_that_it_has_alone() {
        let shape @ [rows, k] = [70, 224];
        let list = list(&wave(rows * k, 0.37), shape).unwrap();
        let x = wave(11 * k, 0.9);
        for isa in Isa::available() {
            let cpu = Cpu::new(*isa, Threads::All);
            let together = list.estimates(cpu, &x, 11).unwrap();
            for (i, x) in x.chunks(k).enumerate() {
                let alone = list.estimates(cpu, x, 1).unwrap();
                assert_eq!(together.of_vector(i), alone.of_vector(0), "{isa:?} {i}");
            }
            assert!(list.estimates(cpu, &[], 0).unwrap().products.is_empty());
        }
    }

    /// A row of the widest range is as far off as its norms say, and one of the smallest numbers is copied as zeros.
    #[test]
    fn rows_of_any_range_are_within_the_bound() {
        let k = 64;
        let mut w = wave(3 * k, 0.37);
        w[5] = 1e15;
        w[k..2 * k].iter_mut().for_each(|w| *w *= 1e-40);
        let list = list(&w, [3, k]).unwrap();
        assert_eq!(list.scales[1], 0.0);
        let x = wave(k, 1.1);
        let found = list.estimates(Cpu::default(), &x, 1).unwrap();
        for (row, w) in w.chunks(k).enumerate() {
            let exact: f64 = w
                .iter()
                .zip(&x)
                .map(|(w, x)| f64::from(*w) * f64::from(*x))
                .sum();
            let bound = Norms::bound(list.rows[row], found.vectors[0].norms);
            let off = (exact - f64::from(found.products[row])).abs();
            assert!(off <= f64::from(bound), "{row}: {off} {bound}");
        }
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
