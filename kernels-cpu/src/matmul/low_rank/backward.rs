//! The gradients of the product with a quantized matrix and a low-rank one.

use std::ops::Range;

use nf4::{Direction, MatrixRef};

use super::super::check::assert_len;
use super::super::gemm::{MC, gemm, mr};
use super::super::output::Output;
use super::super::pack_b::{Blocks, DenseColumns, DenseRows, QuantizedColumns};
use super::super::packed_a::{PackedA, Packing};
use super::super::precision::{Precision, WordFormat, in_precisions_of};
use super::factors::{LowRank, SideBySide};
use super::forward::{Projected, Projection};
use super::layers::Layer;
use crate::buffer::as_uninit;
use crate::codebook::CodebookRef;
use crate::cpu::Cpu;
use crate::element::Element;

/// The gradients of a layer.
pub struct Gradients<E> {
    /// `dx: [m, in_features]`, if it was asked for.
    pub x: Option<Vec<E>>,
    /// `dA: [in_features, rank]`.
    pub a: Vec<f32>,
    /// `dB: [rank, out_features]`.
    pub b: Vec<f32>,
}

/// Returns the gradients of [`forward`](super::forward()) from `x` and the gradient of `y`, `dy: [m, out_features]`:
/// `dx = dy·W + s·(dy·Bᵀ)·Aᵀ` if `wants_dx`, `dA = s·xᵀ·(dy·Bᵀ)`, `dB = s·(x·A)ᵀ·dy`.
///
/// # Panics
/// If a length does not fit `m`, the rank and the matrix's shape.
pub fn backward<E: Element>(
    w: MatrixRef<'_>,
    low_rank: LowRank<'_>,
    x: &[E],
    dy: &[E],
    m: usize,
    wants_dx: bool,
) -> Gradients<E> {
    Cpu::default().low_rank_backward(w, low_rank, x, dy, m, wants_dx)
}

impl Cpu {
    /// Returns the gradients of [`Cpu::low_rank_forward`]: [`low_rank::backward`](crate::low_rank::backward).
    ///
    /// # Panics
    /// If a length does not fit `m`, the rank and the matrix's shape.
    pub fn low_rank_backward<E: Element>(
        self,
        w: MatrixRef<'_>,
        low_rank: LowRank<'_>,
        x: &[E],
        dy: &[E],
        m: usize,
        wants_dx: bool,
    ) -> Gradients<E> {
        let layer = Layer {
            w,
            low_rank: Some(low_rank),
        };
        let LayersGradients { x, factors } = self.layers_backward(&[layer], x, &[dy], m, wants_dx);
        let [a, b] = factors
            .into_iter()
            .flatten()
            .next()
            .expect("the layer has factors");
        Gradients { x, a, b }
    }

    /// Returns the gradients of [`Cpu::layers_forward`] from `x` and the gradients of its results, `[m, out_features]` each: what
    /// [`Cpu::low_rank_backward`] gives for each layer alone, but for the gradient of `x`, which is the sum of theirs.
    ///
    /// # Panics
    /// If a length does not fit `m`, the rank and a matrix's shape, or there are not as many gradients as layers.
    pub fn layers_backward<E: Element>(
        self,
        layers: &[Layer<'_>],
        x: &[E],
        dys: &[&[E]],
        m: usize,
        wants_dx: bool,
    ) -> LayersGradients<E> {
        assert_eq!(layers.len(), dys.len(), "dy: one for each layer");
        for (layer, dy) in layers.iter().zip(dys) {
            let [n, k] = layer.w.layout().shape();
            assert_len("x", x.len(), [m, k]);
            assert_len("dy", dy.len(), [m, n]);
            if let Some(low_rank) = layer.low_rank {
                low_rank.assert_fits([n, k]);
            }
        }
        let k = x.len().checked_div(m).unwrap_or(0);
        let factors = SideBySide::new(layers);
        let mut sums = Sums {
            a_transposed: vec![0.0; factors.a.len()],
            b: layers
                .iter()
                .map(|layer| vec![0.0; layer.low_rank.map_or(0, |low_rank| low_rank.b.len())])
                .collect(),
        };
        // Layers without results have nothing to say of `x`.
        let mut dx = wants_dx.then(|| vec![E::default(); x.len()]);
        if !x.is_empty() && !layers.is_empty() {
            for start in (0..m).step_by(MC) {
                let rows = start..(start + MC).min(m);
                let part = Rows {
                    cpu: self,
                    layers,
                    factors: &factors,
                    x: &x[rows.start * k..rows.end * k],
                    dys: dys
                        .iter()
                        .map(|dy| {
                            let n = dy.len() / m;
                            &dy[rows.start * n..rows.end * n]
                        })
                        .collect(),
                };
                let dx = dx.as_mut().map(|dx| &mut dx[rows.start * k..rows.end * k]);
                in_precisions_of!(self, E, P, Q => part.add::<P, Q>(dx, &mut sums));
            }
        }
        let gradients = layers.iter().zip(&factors.columns).zip(sums.b);
        let gradients = gradients.map(|((layer, columns), b)| {
            let rank = layer.low_rank?.rank;
            let k = layer.w.layout().in_features();
            let mut a = vec![0.0; k * rank];
            transpose(
                &sums.a_transposed[columns.start * k..columns.end * k],
                k,
                &mut a,
            );
            Some([a, b])
        });
        LayersGradients {
            factors: gradients.collect(),
            x: dx,
        }
    }
}

/// The gradients of layers of one input.
pub struct LayersGradients<E> {
    /// `dx: [m, in_features]`, if it was asked for.
    pub x: Option<Vec<E>>,
    /// `dA: [in_features, rank]` and `dB: [rank, out_features]` of each layer that is adapted.
    pub factors: Vec<Option<[Vec<f32>; 2]>>,
}

/// The sums of the gradients of the factors.
struct Sums {
    /// `dAᵀ: [ranks, in_features]`, those of all layers below each other.
    a_transposed: Vec<f32>,
    /// `dB: [rank, out_features]` of each layer.
    b: Vec<Vec<f32>>,
}

/// Some rows of the operands.
struct Rows<'a, E> {
    cpu: Cpu,
    layers: &'a [Layer<'a>],
    factors: &'a SideBySide<'a>,
    x: &'a [E],
    dys: Vec<&'a [E]>,
}

impl<E: Element> Rows<'_, E> {
    /// Adds what the rows contribute to the gradients of the factors, and writes their `dx`.
    fn add<P: WordFormat, Q: Precision>(&self, mut dx: Option<&mut [E]>, sums: &mut Sums) {
        let &Self {
            cpu, factors, x, ..
        } = self;
        let k = self.layers[0].w.layout().in_features();
        let ranks = factors.ranks();
        let m = x.len() / k;
        let onto_a = Projection {
            cpu,
            factor: DenseColumns::new(&factors.a, ranks),
            scales: &factors.scales,
            packing: Packing::<P>::new(mr(cpu.isa, m), k),
        };
        let mut projected_x = None;
        // `s·(dy·Bᵀ)` of all layers: `[m, ranks]`.
        let mut projected_dys = vec![0.0; m * ranks];
        let mut is_first = true;
        for ((layer, dy), (columns, b_sums)) in self
            .layers
            .iter()
            .zip(&self.dys)
            .zip(factors.columns.iter().zip(&mut sums.b))
        {
            let [n, _] = layer.w.layout().shape();
            if n == 0 || dx.is_none() && layer.low_rank.is_none() {
                continue;
            }
            let (b, scales) = match layer.low_rank {
                Some(low_rank) => (low_rank.b, &factors.scales[columns.clone()]),
                None => (&[][..], &[][..]),
            };
            let onto_b = Projection {
                cpu,
                factor: DenseRows::new(b, n),
                scales,
                packing: Packing::<P>::new(mr(cpu.isa, m), n),
            };
            let mut projected_dy = Projected::<Q>::unfilled(m, onto_b.packing, columns.len());
            cpu.threads.join(
                || onto_b.fill(dy, &mut projected_dy),
                || _ = projected_x.get_or_insert_with(|| onto_a.of_rows(x)),
            );
            let projected_x: &[f32] = projected_x.as_deref().unwrap_or(&[]);
            let rows = projected_dys.chunks_exact_mut(ranks.max(1));
            for (to, from) in rows.zip(projected_dy.values.chunks_exact(columns.len().max(1))) {
                to[columns.clone()].copy_from_slice(from);
            }
            // The thin product keeps the threads busy that the wide one leaves idle at its end.
            cpu.threads.join(
                || {
                    if let Some(dx) = dx.as_deref_mut() {
                        let dx = if is_first {
                            // SAFETY: products write nothing but values.
                            Output::New(unsafe { as_uninit(dx) })
                        } else {
                            Output::Add(dx)
                        };
                        add_dx::<P, Q, E>(cpu, layer, &projected_dy, dx);
                    }
                },
                || {
                    if layer.low_rank.is_some() {
                        add_thin::<P, E>(cpu, projected_x, ranks, columns.clone(), dy, b_sums);
                    }
                },
            );
            is_first = false;
        }
        if ranks > 0 {
            add_thin::<P, E>(
                cpu,
                &projected_dys,
                ranks,
                0..ranks,
                x,
                &mut sums.a_transposed,
            );
        }
    }
}

/// Writes or adds `dy·W + s·(dy·Bᵀ)·Aᵀ`.
fn add_dx<P: WordFormat, Q: Precision, E: Element>(
    cpu: Cpu,
    layer: &Layer<'_>,
    dy: &Projected<Q>,
    dx: Output<'_, E>,
) {
    let low_rank = layer
        .low_rank
        .map(|LowRank { a, rank, .. }| (dy.columns::<P>(cpu, 0..rank), DenseRows::new(a, rank)));
    match CodebookRef::of(layer.w) {
        Some(w) => dy.multiply(cpu, QuantizedColumns(w), low_rank, dx),
        None => {
            let w = Blocks::new(cpu, layer.w, Direction::Transposed);
            dy.multiply(cpu, w, low_rank, dx);
        }
    }
}

/// Adds `projectedᵀ·rows` to `sums: [columns, n]` for columns of `projected: [m, ranks]` and `rows: [m, n]`.
fn add_thin<P: WordFormat, E: Element>(
    cpu: Cpu,
    projected: &[f32],
    ranks: usize,
    columns: Range<usize>,
    rows: &[E],
    sums: &mut [f32],
) {
    let n = sums.len() / columns.len();
    let mr = mr(cpu.isa, columns.len());
    let packed = PackedA::<P>::of_columns(cpu.isa, projected, ranks, columns, mr);
    let rows = DenseColumns::new(rows, n);
    gemm(cpu, packed.as_ref(), rows, Output::Add(sums));
}

/// Writes the transpose of `from`, whose rows are `columns` long, to `to`.
fn transpose(from: &[f32], columns: usize, to: &mut [f32]) {
    let rows = from.len() / columns;
    for (i, row) in from.chunks_exact(columns).enumerate() {
        to[i..]
            .iter_mut()
            .step_by(rows)
            .zip(row)
            .for_each(|(to, from)| *to = *from);
    }
}
