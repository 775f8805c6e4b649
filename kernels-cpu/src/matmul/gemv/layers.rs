//! The layers of one input, `y = x·Wᵀ + s·(x·A)·B` each: `x` is brought into the order of the words once, and the threads
//! share the rows of all matrices.
//!
//! A row of `x` has the same bits whatever other rows and layers stand beside it.

use std::ops::Range;
use std::sync::OnceLock;

use nf4::{Codes, MatrixRef};

use super::super::low_rank::{Layer, LowRank};
use super::{Columns, blocks, codebook, interleaved, interleaved_pairs, rows_per_task};
use crate::buffer::Line;
use crate::codebook::CodebookRef;
use crate::cpu::Cpu;
use crate::element::Element;
use crate::simd::math::mul_add;
use crate::simd::{Isa, kernel};

/// Returns the results of all layers, each `[m, out_features]`, for `x: [m, in_features]`, neither of them without values.
pub(in crate::matmul) fn forward<E: Element>(
    cpu: Cpu,
    layers: &[Layer<'_>],
    x: &[E],
    m: usize,
) -> Vec<Vec<E>> {
    let in_pairs = E::IN_PAIRS && cpu.isa.multiplies_pairs();
    let mut widened = Vec::new();
    let wide = E::read(cpu.isa, x, &mut widened);
    let products: Vec<_> = layers
        .iter()
        .map(|layer| Product::new(layer, wide, in_pairs))
        .collect();
    let operands = Operands::new(&products, x, wide);
    let mut ys: Vec<_> = products
        .iter()
        .map(|product| vec![0.0; m * product.shape()[0]])
        .collect();
    multiply(cpu, &products, &operands, m, &mut ys);
    ys.into_iter().map(|y| E::narrow_vec(cpu.isa, y)).collect()
}

/// Computes the results of the layers, `[m, n]` each.
fn multiply(
    cpu: Cpu,
    products: &[Product<'_>],
    operands: &Operands,
    m: usize,
    ys: &mut [Vec<f32>],
) {
    let Some([_, k]) = products.first().map(Product::shape) else {
        return;
    };
    let rows = rows_per_task(k);
    let results = products.iter().zip(ys);
    let results: Vec<_> = results
        .map(|(product, y)| (product, Columns::new(y, product.shape()[0], rows)))
        .collect();
    let projections: Vec<_> = products.iter().flat_map(|it| &it.projections).collect();
    let tasks: usize = results.iter().map(|(_, columns)| columns.tasks()).sum();
    let run = |numbers: Range<usize>| {
        // Projections first, so that they are there when the first rows are done.
        let of_projections = clipped(&numbers, 0..projections.len());
        for projection in &projections[of_projections] {
            projection.values(cpu.isa);
        }
        let mut first = projections.len();
        for (product, columns) in &results {
            let tasks = clipped(&numbers, first..first + columns.tasks());
            first += columns.tasks();
            if tasks.is_empty() {
                continue;
            }
            let x = operands.of(product.order);
            let dots = |first, out: &mut [f32]| product.dot_rows(cpu.isa, x, first, m, out);
            // SAFETY: every task comes once.
            unsafe { columns.fill(&tasks, m, dots) };
            for (i, projection) in product.projections.iter().enumerate() {
                // SAFETY: as above; there are as many projections as rows of `x`.
                let y = unsafe { columns.of(&tasks, i) };
                projection.add_product(cpu.isa, columns.rows(&tasks).start, y);
            }
        }
    };
    cpu.threads.share_ranges(projections.len() + tasks, run);
}

/// Returns which of the numbers `part` are among `numbers`, counted from the first of the part.
fn clipped(numbers: &Range<usize>, part: Range<usize>) -> Range<usize> {
    let place = |number: usize| number.clamp(part.start, part.end) - part.start;
    place(numbers.start)..place(numbers.end)
}

/// A row of `x` on its way through a low-rank matrix.
struct Projection<'a> {
    low_rank: LowRank<'a>,
    x: &'a [f32],
    values: OnceLock<Vec<f32>>,
}

impl Projection<'_> {
    /// Returns `s·(x·A)`: `[rank]`, which the first to ask computes.
    fn values(&self, isa: Isa) -> &[f32] {
        self.values.get_or_init(|| {
            let LowRank { a, rank, scale, .. } = self.low_rank;
            let mut values = vec![0.0; rank];
            project(isa, self.x, a, scale, &mut values);
            values
        })
    }

    /// Adds the product with `B` to columns `y` of a result from `first` on.
    fn add_product(&self, isa: Isa, first: usize, y: &mut [f32]) {
        let LowRank { b, rank, .. } = self.low_rank;
        add_projected(isa, self.values(isa), b, b.len() / rank, first, y);
    }
}

/// The product with a layer's matrix.
struct Product<'a> {
    matrix: Matrix<'a>,
    order: Order,
    /// Of every row of `x`, if the layer is adapted.
    projections: Vec<Projection<'a>>,
}

enum Matrix<'a> {
    Codebook(CodebookRef<'a>),
    Blocks(MatrixRef<'a>),
}

/// An order of the values of `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// That of words of eight codes.
    Nibbles,
    /// That of words of eight codes, the products being of pairs of bf16.
    NibblePairs,
    /// That of words of four codes.
    Bytes,
}

impl<'a> Product<'a> {
    fn new(layer: &Layer<'a>, x: &'a [f32], in_pairs: bool) -> Self {
        let codes = layer.w.layout().block_format().codes;
        let (matrix, order) = match (CodebookRef::of(layer.w), codes) {
            (Some(w), _) if in_pairs => (Matrix::Codebook(w), Order::NibblePairs),
            (Some(w), _) => (Matrix::Codebook(w), Order::Nibbles),
            (None, Codes::Table(_)) if in_pairs => (Matrix::Blocks(layer.w), Order::NibblePairs),
            (None, Codes::Table(_)) => (Matrix::Blocks(layer.w), Order::Nibbles),
            (None, Codes::Bytes { .. }) => (Matrix::Blocks(layer.w), Order::Bytes),
        };
        let low_rank = layer.low_rank.into_iter();
        let projections = low_rank.flat_map(|low_rank| {
            let rows = x.chunks_exact(layer.w.layout().in_features());
            rows.map(move |x| Projection {
                low_rank,
                x,
                values: OnceLock::new(),
            })
        });
        Self {
            matrix,
            order,
            projections: projections.collect(),
        }
    }

    fn shape(&self) -> [usize; 2] {
        match self.matrix {
            Matrix::Codebook(w) => w.shape(),
            Matrix::Blocks(w) => w.layout().shape(),
        }
    }

    fn has_minima(&self) -> bool {
        match self.matrix {
            Matrix::Codebook(_) => false,
            Matrix::Blocks(w) => w.layout().block_format().scales.has_minima(),
        }
    }

    /// Computes `out: [rows of W][m]` from `first` on.
    fn dot_rows(&self, isa: Isa, x: &Operand, first: usize, m: usize, out: &mut [f32]) {
        let values = bytemuck::cast_slice(&x.values);
        let in_pairs = self.order == Order::NibblePairs;
        match self.matrix {
            Matrix::Codebook(w) => codebook::dot_rows(isa, w, in_pairs, first, values, m, out),
            Matrix::Blocks(w) => blocks::dot_rows(isa, w, in_pairs, first, values, &x.sums, m, out),
        }
    }
}

/// The rows of `x` in an order.
struct Operand {
    order: Order,
    values: Vec<Line>,
    /// The sum of what meets each word, if a format has minima.
    sums: Vec<f32>,
}

/// The rows of `x` in every order that some matrix has.
struct Operands(Vec<Operand>);

impl Operands {
    /// Takes `x`, and its values in f32.
    fn new<E: Element>(products: &[Product<'_>], x: &[E], wide: &[f32]) -> Self {
        let mut operands: Vec<Operand> = Vec::new();
        for product in products {
            let [_, k] = product.shape();
            let order = product.order;
            let place = operands.iter().position(|operand| operand.order == order);
            let place = place.unwrap_or_else(|| {
                operands.push(Operand::new(order, x, wide, k));
                operands.len() - 1
            });
            let operand = &mut operands[place];
            if product.has_minima() && operand.sums.is_empty() {
                operand.sums = operand.word_sums();
            }
        }
        Self(operands)
    }

    fn of(&self, order: Order) -> &Operand {
        let mut operands = self.0.iter();
        let operand = operands.find(|operand| operand.order == order);
        operand.expect("x is in the order of every matrix")
    }
}

impl Operand {
    fn new<E: Element>(order: Order, x: &[E], wide: &[f32], k: usize) -> Self {
        let values = match order {
            Order::Nibbles => interleaved::<8>(wide, k),
            Order::NibblePairs => interleaved_pairs(x, k),
            Order::Bytes => interleaved::<4>(wide, k),
        };
        Self {
            order,
            values,
            sums: Vec::new(),
        }
    }

    /// Returns the sum of what meets each word.
    fn word_sums(&self) -> Vec<f32> {
        let values = bytemuck::cast_slice(&self.values);
        match self.order {
            Order::Nibbles => blocks::word_sums(values, 8, f32::from_bits),
            Order::Bytes => blocks::word_sums(values, 4, f32::from_bits),
            Order::NibblePairs => blocks::word_sums(values, 4, |pair| {
                f32::from_bits(pair << 16) + f32::from_bits(pair & 0xffff_0000)
            }),
        }
    }
}

kernel! {
    /// Computes `out = scale·(x·A): [rank]` for `a: [len of x, rank]`.
    fn project<S: Simd>(x: &[f32], a: &[f32], scale: f32, out: &mut [f32]) {
        let rank = out.len();
        let (fours, rest) = x.as_chunks::<4>();
        let (of_fours, of_rest) = a.split_at(4 * fours.len() * rank);
        // Four rows meet a sum between its load and its store.
        for (x, a) in fours.iter().zip(of_fours.chunks_exact(4 * rank)) {
            let (a0, a) = a.split_at(rank);
            let (a1, a) = a.split_at(rank);
            let (a2, a3) = a.split_at(rank);
            for ((((sum, a0), a1), a2), a3) in out.iter_mut().zip(a0).zip(a1).zip(a2).zip(a3) {
                let first = mul_add::<S>(x[1], *a1, mul_add::<S>(x[0], *a0, *sum));
                *sum = mul_add::<S>(x[3], *a3, mul_add::<S>(x[2], *a2, first));
            }
        }
        for (x, a) in rest.iter().zip(of_rest.chunks_exact(rank)) {
            for (sum, a) in out.iter_mut().zip(a) {
                *sum = mul_add::<S>(*x, *a, *sum);
            }
        }
        for value in out {
            *value *= scale;
        }
    }

    /// Adds `projected·B` to columns `y` from `first` on, for `b: [len of projected, n]`.
    fn add_projected<S: Simd>(projected: &[f32], b: &[f32], n: usize, first: usize, y: &mut [f32]) {
        for (factor, b) in projected.iter().zip(b.chunks_exact(n)) {
            let b = &b[first..][..y.len()];
            for (y, b) in y.iter_mut().zip(b) {
                *y = mul_add::<S>(*factor, *b, *y);
            }
        }
    }
}
