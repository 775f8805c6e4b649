//! A lane's part of rows, in registers.

use cubecl::prelude::*;

use super::grid::LanePart;

/// Returns this lane's vectors of a row, times `factor`.
#[cube]
pub(super) fn load_row<F: Float, N: Size>(
    rows: &[Vector<F, N>],
    row: u32,
    factor: f32,
    #[comptime] part: LanePart,
) -> Array<Vector<f32, N>> {
    let mut loaded = Array::<Vector<f32, N>>::new(part.vectors);
    #[unroll]
    for i in 0..part.vectors {
        loaded[i] = load::<F, N>(rows, row, i, part) * Vector::new(factor);
    }
    loaded
}

/// Returns this lane's `i`-th vector of a row.
#[cube]
fn load<F: Float, N: Size>(
    rows: &[Vector<F, N>],
    row: u32,
    #[comptime] i: usize,
    #[comptime] part: LanePart,
) -> Vector<f32, N> {
    let at = row * comptime!((part.lanes * part.vectors) as u32)
        + comptime!((i * part.lanes) as u32)
        + UNIT_POS_X;
    Vector::cast_from(rows[at as usize])
}

/// Writes this lane's vectors of a row, times `factor`.
#[cube]
pub(super) fn store_row<F: Float, N: Size>(
    rows: &mut [Vector<F, N>],
    row: u32,
    values: &Array<Vector<f32, N>>,
    factor: f32,
    #[comptime] part: LanePart,
) {
    #[unroll]
    for i in 0..part.vectors {
        let at = row * comptime!((part.lanes * part.vectors) as u32)
            + comptime!((i * part.lanes) as u32)
            + UNIT_POS_X;
        rows[at as usize] = Vector::cast_from(values[i] * Vector::new(factor));
    }
}

/// Returns the product of two rows, one of them in registers.
#[cube]
pub(super) fn dot<F: Float, N: Size>(
    values: &Array<Vector<f32, N>>,
    rows: &[Vector<F, N>],
    row: u32,
    #[comptime] part: LanePart,
) -> f32 {
    let mut products = Vector::<f32, N>::zeroed();
    #[unroll]
    for i in 0..part.vectors {
        products += values[i] * load::<F, N>(rows, row, i, part);
    }
    total(products, part.lanes)
}

/// Returns the product of two rows in registers.
#[cube]
pub(super) fn dot_loaded<N: Size>(
    a: &Array<Vector<f32, N>>,
    b: &Array<Vector<f32, N>>,
    #[comptime] part: LanePart,
) -> f32 {
    let mut products = Vector::<f32, N>::zeroed();
    #[unroll]
    for i in 0..part.vectors {
        products += a[i] * b[i];
    }
    total(products, part.lanes)
}

/// Adds a row times `factor`.
#[cube]
pub(super) fn add_row<F: Float, N: Size>(
    sums: &mut Array<Vector<f32, N>>,
    factor: f32,
    rows: &[Vector<F, N>],
    row: u32,
    #[comptime] part: LanePart,
) {
    #[unroll]
    for i in 0..part.vectors {
        sums[i] += Vector::new(factor) * load::<F, N>(rows, row, i, part);
    }
}

/// Returns the sum over the elements of a vector and over the lanes of the row.
#[cube]
fn total<N: Size>(partial: Vector<f32, N>, #[comptime] lanes: usize) -> f32 {
    let size = N::value();
    let mut sum = partial.extract(0usize);
    #[unroll]
    for e in 1..size {
        sum += partial.extract(e);
    }
    let steps = comptime!(lanes.ilog2());
    #[unroll]
    for step in 0..steps {
        sum += plane_shuffle_xor(sum, comptime!(1u32 << step).runtime());
    }
    sum
}

/// Returns sums of nothing yet, as many as a lane has vectors.
#[cube]
pub(super) fn zeroed<N: Size>(#[comptime] vectors: usize) -> Array<Vector<f32, N>> {
    let mut values = Array::<Vector<f32, N>>::new(vectors);
    #[unroll]
    for i in 0..vectors {
        values[i] = Vector::zeroed();
    }
    values
}
