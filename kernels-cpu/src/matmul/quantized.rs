//! Products with a quantized matrix.

use std::mem::MaybeUninit;

use nf4::{Direction, MatrixRef};

use super::check::assert_len;
use super::gemm::{self, MC, gemm, pack};
use super::gemv;
use super::low_rank::Layer;
use super::output::Output;
use super::pack_b::{Blocks, QuantizedColumns, QuantizedRows};
use super::precision::{Precision, in_precisions_of};
use crate::buffer::{as_uninit, written};
use crate::codebook::CodebookRef;
use crate::cpu::Cpu;
use crate::element::Element;

/// Multiplies `x` (`m` rows, possibly none) by a quantized matrix, accumulating in f32.
///
/// `x: [m, in_features]` and `y: [m, out_features]` for [`Direction::Forward`], the other way round for
/// [`Direction::Transposed`]. For more than eight rows of bf16 the decoded weights are rounded to bf16, as tensor cores
/// take them, and forward for up to eight the values of a codebook's codes are, where the machine multiplies pairs of bf16 (as in
/// bitsandbytes' `kgemv_4bit_inference_naive`); f16 is multiplied in f32. The order in which an element of `y` is summed depends on the shapes alone: any
/// number of threads gives the same bits.
///
/// # Panics
/// If the length of `x` or `y` does not fit `m` and the matrix's shape.
pub fn matmul<E: Element>(w: MatrixRef<'_>, x: &[E], m: usize, y: &mut [E], direction: Direction) {
    Cpu::default().matmul(w, x, m, y, direction);
}

/// Returns the product that [`matmul`] writes, as a new vector.
///
/// # Panics
/// If the length of `x` does not fit `m` and the matrix's shape.
pub fn matmul_vec<E: Element>(w: MatrixRef<'_>, x: &[E], m: usize, direction: Direction) -> Vec<E> {
    Cpu::default().matmul_vec(w, x, m, direction)
}

impl Cpu {
    /// Multiplies `x` by a quantized matrix: [`matmul`](fn@matmul).
    ///
    /// # Panics
    /// If the length of `x` or `y` does not fit `m` and the matrix's shape.
    pub fn matmul<E: Element>(
        self,
        w: MatrixRef<'_>,
        x: &[E],
        m: usize,
        y: &mut [E],
        direction: Direction,
    ) {
        // SAFETY: `write_product` writes nothing but values.
        write_product(self, w, x, m, unsafe { as_uninit(y) }, direction);
    }

    /// Returns the product of `x` and a quantized matrix: [`matmul_vec`].
    ///
    /// # Panics
    /// If the length of `x` does not fit `m` and the matrix's shape.
    pub fn matmul_vec<E: Element>(
        self,
        w: MatrixRef<'_>,
        x: &[E],
        m: usize,
        direction: Direction,
    ) -> Vec<E> {
        let shape = w.layout().shape();
        let [k, n] = direction.widths(shape);
        if direction == Direction::Forward && gemv::serves(shape, m) && m * n * k > 0 {
            assert_len("x", x.len(), [m, k]);
            return few_rows(self, w, x, m);
        }
        // SAFETY: `write_product` writes every value of `y`.
        unsafe { written(m * n, |y| write_product(self, w, x, m, y, direction)) }
    }

    /// Returns the bytes that [`Cpu::matmul`] of `m` rows of `E` and a matrix `[out_features, in_features]` holds while it
    /// runs, beside its operands and its result.
    ///
    /// With `[k, n]` the widths of `x` and `y`, these are `min(m, 1024)·k` packed values of x (2 bytes each if they are
    /// bf16, else 4) and for each thread a block of packed weights and one of sums in f32, at most 256 KiB each. Up to eight
    /// rows take f32 copies of `x` and `y` and, transposed, up to 32 partial results.
    pub fn matmul_workspace<E: Element>(
        self,
        m: usize,
        shape: [usize; 2],
        direction: Direction,
    ) -> usize {
        let [k, n] = direction.widths(shape);
        if gemv::serves(shape, m) {
            return gemv::workspace::<E>(m, shape, direction);
        }
        in_precisions_of!(self, E, P, Q => {
            gemm::packed_bytes::<Q>(self, m, k) + self.threads.count() * gemm::task_bytes::<Q, P>(self, [m, n, k], 0)
        })
    }
}

/// Writes every value of `y`.
fn write_product<E: Element>(
    cpu: Cpu,
    w: MatrixRef<'_>,
    x: &[E],
    m: usize,
    y: &mut [MaybeUninit<E>],
    direction: Direction,
) {
    let [k, n] = direction.widths(w.layout().shape());
    assert_len("x", x.len(), [m, k]);
    assert_len("y", y.len(), [m, n]);
    if y.is_empty() {
        return;
    }
    if k == 0 {
        return y.fill(MaybeUninit::new(E::default()));
    }
    if gemv::serves(w.layout().shape(), m) {
        return match direction {
            Direction::Forward => {
                let values = few_rows(cpu, w, x, m);
                y.iter_mut()
                    .zip(values)
                    .for_each(|(y, value)| _ = y.write(value));
            }
            Direction::Transposed => gemv::transposed(cpu, w, x, m, y),
        };
    }
    for (x, y) in x.chunks(MC * k).zip(y.chunks_mut(MC * n)) {
        in_precisions_of!(cpu, E, P, Q => multiply_rows::<Q, E>(cpu, w, x, y, direction));
    }
}

/// Returns `x·Wᵀ` for rows that are few.
fn few_rows<E: Element>(cpu: Cpu, w: MatrixRef<'_>, x: &[E], m: usize) -> Vec<E> {
    gemv::forward(cpu, &[Layer { w, low_rank: None }], x, m).remove(0)
}

fn multiply_rows<P: Precision, E: Element>(
    cpu: Cpu,
    w: MatrixRef<'_>,
    x: &[E],
    y: &mut [MaybeUninit<E>],
    direction: Direction,
) {
    let [k, _] = direction.widths(w.layout().shape());
    let packed = pack::<P, E>(cpu, x, k);
    let (a, y) = (packed.as_ref(), Output::New(y));
    match (CodebookRef::of(w), direction) {
        (Some(w), Direction::Forward) => gemm(cpu, a, QuantizedRows(w), y),
        (Some(w), Direction::Transposed) => gemm(cpu, a, QuantizedColumns(w), y),
        (None, _) => gemm(cpu, a, Blocks::new(cpu, w, direction), y),
    }
}
