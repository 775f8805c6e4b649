//! The check that an operand fits its shape.

/// # Panics
/// Unless `len` is the number of values of a matrix `[rows, columns]`.
pub(super) fn assert_len(name: &str, len: usize, [rows, columns]: [usize; 2]) {
    assert_eq!(
        Some(len),
        rows.checked_mul(columns),
        "matmul: `{name}` must hold [{rows}, {columns}] values"
    );
}
