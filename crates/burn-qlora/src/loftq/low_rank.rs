//! The matrix of a rank that is closest to another one.

use nf4::Direction;
use qlora_cpu::Cpu;
use qlora_cpu::dense::{Beta, DenseRef};
use rand_chacha::ChaCha8Rng;

use super::eigen::Eigen;
use crate::branch::room_for;
use crate::error::LoraError;
use crate::model::unit;

/// The width up to which the shorter side of a matrix is taken whole, which makes the result exact.
const WHOLE: usize = 128;
/// Directions that are searched beside twice the rank: the error of 4-bit weights has no few large ones that stand out.
const MORE: usize = 16;
/// Products with the matrix and its transpose that the search takes. Of what the best matrix of the rank would take of the error of
/// 4-bit weights (its squares), six find 98 to 99.9 %; each costs as much as the search's first product.
const STEPS: usize = 6;
/// The share of the largest squared length below which a direction is noise of f32.
const NOISE: f64 = 1e-10;

/// A product `leftᵀ · right`, whose factors have the square roots of the singular values each.
pub(super) struct LowRank {
    /// `[found, out_features]`, of at most the rank asked for.
    pub(super) left: Vec<f32>,
    /// `[found, in_features]`.
    pub(super) right: Vec<f32>,
    singular: Vec<f64>,
}

impl LowRank {
    /// Returns the product of at most `rank` that is closest to `matrix`, of shape `[out_features, in_features]`.
    ///
    /// It is exact where one side is no wider than 128 or than twice the rank and 16; else the directions come from a
    /// randomized subspace iteration (Halko, Martinsson and Tropp, arXiv 0909.4061, Algorithm 4.4), which `rng` starts.
    ///
    /// # Errors
    /// [`LoraError::TooLarge`].
    pub(super) fn closest(
        matrix: &[f32],
        shape: [usize; 2],
        rank: usize,
        rng: &mut ChaCha8Rng,
    ) -> Result<Self, LoraError> {
        let shorter = shape[0].min(shape[1]);
        let width = width_of_search(rank);
        let matrix = Matrix {
            values: matrix,
            shape,
        };
        if shorter <= WHOLE.max(width) {
            return matrix.whole(rank);
        }
        matrix.searched(rank, width, rng)
    }

    /// Returns `matrix` less the product.
    pub(super) fn taken_from(&self, matrix: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
        let found = self.singular.len();
        let by_rows = (0..rows * found).map(|at| -self.left[at % found * rows + at / found]);
        let by_rows: Vec<f32> = by_rows.collect();
        let mut rest = combined(&by_rows, &self.right, [rows, found, columns]);
        for (rest, value) in rest.iter_mut().zip(matrix) {
            *rest += value;
        }
        rest
    }

    /// Returns the sum of the squares of its elements.
    pub(super) fn squares(&self) -> f64 {
        self.singular.iter().map(|value| value * value).sum()
    }
}

/// Returns the elements of what is there beside a matrix of `shape`: a second one, or the directions of a search and their images.
pub(super) fn workspace(shape: [usize; 2], rank: usize) -> [u64; 2] {
    let [rows, columns] = shape.map(|width| width as u64);
    let width = width_of_search(rank) as u64;
    let directions = width.saturating_mul(rows.saturating_add(columns));
    [rows.saturating_mul(columns), directions.saturating_mul(2)]
}

fn width_of_search(rank: usize) -> usize {
    rank.saturating_mul(2).saturating_add(MORE)
}

/// A dense matrix `[out_features, in_features]`, whose products have their operands row by row.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    values: &'a [f32],
    shape: [usize; 2],
}

impl Matrix<'_> {
    /// Returns the closest product by all directions of the shorter side.
    fn whole(self, rank: usize) -> Result<LowRank, LoraError> {
        let [rows, columns] = self.shape;
        if rows <= columns {
            return self.spanned(&identity(rows), self.values, rank);
        }
        let mut transposed = room_for(self.values.len(), rank, self.shape)?;
        transposed
            .extend((0..self.values.len()).map(|at| self.values[at % rows * columns + at / rows]));
        let turned = Matrix {
            values: &transposed,
            shape: [columns, rows],
        };
        let found = turned.spanned(&identity(columns), &transposed, rank)?;
        Ok(LowRank {
            left: found.right,
            right: found.left,
            ..found
        })
    }

    /// Returns the closest product among those whose left factor lies in the best `width` directions found.
    fn searched(
        self,
        rank: usize,
        width: usize,
        rng: &mut ChaCha8Rng,
    ) -> Result<LowRank, LoraError> {
        let [rows, columns] = self.shape;
        let mut start = room_for(width * columns, rank, self.shape)?;
        start.extend((0..width * columns).map(|_| 2.0 * unit(rng) - 1.0));
        let mut directions = self.times(&start, width, Direction::Forward)?;
        for _ in 0..STEPS {
            directions = orthonormal(&directions, [width, rows]);
            let back = self.times(&directions, width, Direction::Transposed)?;
            directions = self.times(&back, width, Direction::Forward)?;
        }
        // Once leaves them as orthogonal as f32 sums of squares are.
        for _ in 0..2 {
            directions = orthonormal(&directions, [width, rows]);
        }
        let image = self.times(&directions, width, Direction::Transposed)?;
        self.spanned(&directions, &image, rank)
    }

    /// Returns the closest product whose left factor is spanned by the orthonormal rows `basis: [width, out_features]`; `image` is
    /// `basis · matrix: [width, in_features]`.
    fn spanned(self, basis: &[f32], image: &[f32], rank: usize) -> Result<LowRank, LoraError> {
        let [rows, columns] = self.shape;
        let width = basis.len() / rows.max(1);
        let Eigen { values, vectors } = Eigen::of(gram(image, [width, columns]));
        let noise = values.first().copied().unwrap_or(0.0) * NOISE;
        let kept = values.iter().take(rank).take_while(|value| **value > noise);
        let singular: Vec<f64> = kept.map(|value| value.sqrt()).collect();
        let factor = |of: &[f32], columns: usize, scale: fn(f64) -> f64| {
            let pairs = singular.iter().zip(&vectors);
            let scaled = pairs.flat_map(|(value, vector)| {
                vector.iter().map(|x| (x * scale(value.sqrt())) as f32)
            });
            let scaled: Vec<f32> = scaled.collect();
            combined(&scaled, of, [singular.len(), width, columns])
        };
        Ok(LowRank {
            left: factor(basis, rows, |root| root),
            right: factor(image, columns, f64::recip),
            singular,
        })
    }

    /// Returns the product of `x`, of `width` rows, with the matrix.
    fn times(self, x: &[f32], width: usize, direction: Direction) -> Result<Vec<f32>, LoraError> {
        let [_, n] = direction.widths(self.shape);
        let mut y = room_for(width * n, width, self.shape)?;
        y.resize(width * n, 0.0);
        let matrix = DenseRef::new(self.values, self.shape);
        Cpu::default().dense_matmul(matrix, x, width, &mut y, direction, Beta::Zero);
        Ok(y)
    }
}

/// Returns orthonormal rows that span what `rows: [m, n]` span, zeros in place of those that the others span (Stathopoulos and
/// Wu's SVQB).
fn orthonormal(rows: &[f32], [m, n]: [usize; 2]) -> Vec<f32> {
    let Eigen { values, vectors } = Eigen::of(gram(rows, [m, n]));
    let noise = values.first().copied().unwrap_or(0.0) * NOISE;
    let pairs = values.iter().zip(&vectors);
    let scaled = pairs.flat_map(|(value, vector)| {
        let scale = if *value > noise {
            value.sqrt().recip()
        } else {
            0.0
        };
        vector.iter().map(move |x| (x * scale) as f32)
    });
    let scaled: Vec<f32> = scaled.collect();
    combined(&scaled, rows, [m, m, n])
}

/// Returns `factors · rows` for `factors: [m, k]` and `rows: [k, n]`.
fn combined(factors: &[f32], rows: &[f32], [m, k, n]: [usize; 3]) -> Vec<f32> {
    let mut sums = vec![0.0; m * n];
    let rows = DenseRef::new(rows, [k, n]);
    let direction = Direction::Transposed;
    Cpu::default().dense_matmul(rows, factors, m, &mut sums, direction, Beta::Zero);
    sums
}

/// Returns the products of the `rows: [m, n]` with each other, summed in f64.
fn gram(rows: &[f32], [m, n]: [usize; 2]) -> Vec<Vec<f64>> {
    let row = |at: usize| &rows[at * n..(at + 1) * n];
    let lower: Vec<Vec<f64>> = (0..m)
        .map(|a| (0..=a).map(|b| dot(row(a), row(b))).collect())
        .collect();
    let symmetric = |a: usize, b: usize| lower[a.max(b)][a.min(b)];
    (0..m)
        .map(|a| (0..m).map(|b| symmetric(a, b)).collect())
        .collect()
}

/// Sums in f64, in several chains so that one addition need not wait for the one before.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    const CHAINS: usize = 16;
    let mut sums = [0.0f64; CHAINS];
    let (a, b) = (a.chunks_exact(CHAINS), b.chunks_exact(CHAINS));
    let rest = a.remainder().iter().zip(b.remainder());
    let rest: f64 = rest.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    for (a, b) in a.zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += f64::from(*a) * f64::from(*b);
        }
    }
    sums.iter().sum::<f64>() + rest
}

fn identity(n: usize) -> Vec<f32> {
    let mut rows = vec![0.0; n * n];
    rows.iter_mut()
        .step_by(n + 1)
        .for_each(|value| *value = 1.0);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    fn rng() -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(7)
    }

    fn noise([rows, columns]: [usize; 2]) -> Vec<f32> {
        let mut rng = rng();
        (0..rows * columns).map(|_| unit(&mut rng) - 0.5).collect()
    }

    /// Returns the sum of squares of `matrix` less the product.
    fn left_of(matrix: &[f32], [rows, columns]: [usize; 2], product: &LowRank) -> f64 {
        let mut left = 0.0;
        for row in 0..rows {
            for column in 0..columns {
                let pairs = product.left.chunks(rows).zip(product.right.chunks(columns));
                let sum: f64 = pairs
                    .map(|(l, r)| f64::from(l[row]) * f64::from(r[column]))
                    .sum();
                left += (f64::from(matrix[row * columns + column]) - sum).powi(2);
            }
        }
        left
    }

    fn squares(values: &[f32]) -> f64 {
        values.iter().map(|value| f64::from(*value).powi(2)).sum()
    }

    /// Both ways of lying, each of which has its own side taken whole.
    #[test]
    fn a_matrix_of_the_rank_is_found_exactly() {
        for [rows, columns] in [[40, 70], [70, 40]] {
            let (left, right) = (noise([3, rows]), noise([3, columns + 1]));
            let element = |at: usize| {
                let (row, column) = (at / columns, at % columns);
                let terms =
                    (0..3).map(|i| left[i * rows + row] * right[i * (columns + 1) + column]);
                terms.sum::<f32>()
            };
            let matrix: Vec<f32> = (0..rows * columns).map(element).collect();
            let found = LowRank::closest(&matrix, [rows, columns], 5, &mut rng()).unwrap();
            assert_eq!(
                found.left.len(),
                3 * rows,
                "no more directions than there are"
            );
            let rest = left_of(&matrix, [rows, columns], &found) / squares(&matrix);
            assert!(rest < 1e-12, "{rest}");
        }
    }

    /// Noise has no direction that stands out, which is the worst case, and what the error of 4-bit weights is like.
    #[test]
    fn the_search_comes_near_the_best() {
        let shape = [300, 200];
        let matrix = noise(shape);
        let whole = Matrix {
            values: &matrix,
            shape,
        };
        for rank in [4, 16, 40] {
            let best = whole.whole(rank).unwrap();
            let found = LowRank::closest(&matrix, shape, rank, &mut rng()).unwrap();
            let share = found.squares() / best.squares();
            assert!((0.97..=1.0 + 1e-6).contains(&share), "rank {rank}: {share}");
            // What it says of itself is so.
            let left = left_of(&matrix, shape, &found);
            let said = squares(&matrix) - found.squares();
            assert!((left / said - 1.0).abs() < 1e-5, "{left}, not {said}");
        }
    }

    #[test]
    fn directions_that_stand_out_are_found() {
        let shape = [300, 200];
        let mut matrix = noise(shape);
        for (at, value) in matrix.iter_mut().enumerate() {
            let (row, column) = ((at / 200) as f32, (at % 200) as f32);
            *value = 0.1 * *value + (row * 0.1).sin() * (column * 0.3).cos();
        }
        let whole = Matrix {
            values: &matrix,
            shape,
        };
        let best = whole.whole(1).unwrap();
        let found = LowRank::closest(&matrix, shape, 1, &mut rng()).unwrap();
        assert!((found.squares() / best.squares() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn of_nothing_there_is_no_direction() {
        for shape in [[4, 3], [200, 300]] {
            let zeros = vec![0.0; shape[0] * shape[1]];
            let found = LowRank::closest(&zeros, shape, 2, &mut rng()).unwrap();
            assert!(found.left.is_empty() && found.right.is_empty());
            assert_eq!(found.squares(), 0.0);
        }
    }
}
