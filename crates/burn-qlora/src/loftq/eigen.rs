//! Eigenvectors of a small symmetric matrix.

/// Sweeps over all pairs of rows; in practice fewer than ten are taken.
const MOST_SWEEPS: usize = 40;
/// The cosine between two rows below which they are orthogonal, and the length below which a row is none, both beside 1.
const EPSILON: f64 = 1e-14;

/// The eigenvectors of a symmetric matrix without negative eigenvalues, by these, the largest first.
pub(super) struct Eigen {
    pub(super) values: Vec<f64>,
    /// Of length 1.
    pub(super) vectors: Vec<Vec<f64>>,
}

impl Eigen {
    /// Takes the rows of the matrix apart, by one-sided Jacobi rotations (Hestenes): rotated until they are orthogonal, its
    /// rows are the eigenvectors, as long as the eigenvalues.
    pub(super) fn of(mut rows: Vec<Vec<f64>>) -> Self {
        let n = rows.len();
        let unit = |at: usize| (0..n).map(move |column| f64::from(u8::from(at == column)));
        let mut vectors: Vec<Vec<f64>> = (0..n).map(|at| unit(at).collect()).collect();
        let longest = rows.iter().map(|row| dot(row, row)).fold(0.0, f64::max);
        let nothing = longest * EPSILON * EPSILON;
        for _ in 0..MOST_SWEEPS {
            let mut orthogonal = true;
            for q in 1..n {
                for p in 0..q {
                    let [p_squares, q_squares] = [p, q].map(|at| dot(&rows[at], &rows[at]));
                    let product = dot(&rows[p], &rows[q]);
                    let lengths = (p_squares * q_squares).sqrt();
                    if lengths <= nothing || product.abs() <= EPSILON * lengths {
                        continue;
                    }
                    orthogonal = false;
                    let rotation = Rotation::between(p_squares, q_squares, product);
                    rotation.apply(&mut rows, p, q);
                    rotation.apply(&mut vectors, p, q);
                }
            }
            if orthogonal {
                break;
            }
        }
        let length = |row: &Vec<f64>| dot(row, row).sqrt();
        let mut pairs: Vec<_> = rows.iter().map(length).zip(vectors).collect();
        pairs.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let (values, vectors) = pairs.into_iter().unzip();
        Self { values, vectors }
    }
}

/// A rotation of two rows in their plane.
struct Rotation {
    cosine: f64,
    sine: f64,
}

impl Rotation {
    /// Returns the one that makes two rows orthogonal whose squares and product these are.
    fn between(p_squares: f64, q_squares: f64, product: f64) -> Self {
        let cotangent = (q_squares - p_squares) / (2.0 * product);
        let tangent = cotangent.signum() / (cotangent.abs() + cotangent.hypot(1.0));
        let cosine = 1.0 / tangent.hypot(1.0);
        Self {
            cosine,
            sine: cosine * tangent,
        }
    }

    /// Rotates the rows `p` and `q`, of which `p` is the first.
    fn apply(&self, rows: &mut [Vec<f64>], p: usize, q: usize) {
        let (before, from) = rows.split_at_mut(q);
        for (a, b) in before[p].iter_mut().zip(&mut from[0]) {
            (*a, *b) = (
                self.cosine * *a - self.sine * *b,
                self.sine * *a + self.cosine * *b,
            );
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-12
    }

    #[test]
    fn a_matrix_is_the_sum_of_its_eigenvectors() {
        // Of rank 3, with two equal eigenvalues.
        let parts = [
            (9.0, [1.0, 2.0, 2.0, 0.0]),
            (9.0, [2.0, 1.0, -2.0, 0.0]),
            (0.5, [0.0, 0.0, 0.0, 3.0]),
        ];
        let element = |row: usize, column: usize| {
            let parts = parts.iter();
            parts
                .map(|(value, v)| value * v[row] * v[column] / 9.0)
                .sum()
        };
        let matrix: Vec<Vec<f64>> = (0..4)
            .map(|row| (0..4).map(|column| element(row, column)).collect())
            .collect();
        let eigen = Eigen::of(matrix.clone());
        for (found, expected) in eigen.values.iter().zip([9.0, 9.0, 0.5, 0.0]) {
            assert!(close(*found, expected), "{:?}", eigen.values);
        }
        for (row, expected) in matrix.iter().enumerate() {
            for (column, expected) in expected.iter().enumerate() {
                let pairs = eigen.values.iter().zip(&eigen.vectors);
                let found: f64 = pairs.map(|(value, v)| value * v[row] * v[column]).sum();
                assert!(close(found, *expected), "{found} for {expected}");
            }
        }
        for (at, a) in eigen.vectors.iter().enumerate() {
            for (other, b) in eigen.vectors.iter().enumerate() {
                assert!(close(dot(a, b), f64::from(u8::from(at == other))));
            }
        }
    }

    #[test]
    fn nothing_has_no_direction() {
        assert_eq!(Eigen::of(vec![vec![0.0; 2]; 2]).values, [0.0, 0.0]);
        assert!(Eigen::of(Vec::new()).values.is_empty());
    }
}
