//! The gradients of the product with a quantized matrix and a low-rank one.

use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;
use nf4::{Direction, Layout};

use super::super::choice::multiply;
use super::super::problem::{Problem, Rows};
use super::accumulate::{Order, accumulate};
use super::expand::{Expansion, expand};
use super::factors::{F32, Factor, Factors, LowRank, OPERATION, Projected};
use super::project::project;
use crate::error::{KernelError, check_float, check_length, check_size};
use crate::operand::zeros;
use crate::weight::Weight;

/// The gradients of a layer.
pub struct Gradients {
    /// `dx: [.., in_features]`, in the dtype of `dy`.
    pub x: TensorHandle,
    /// `dA: [in_features, rank]`, f32.
    pub a: TensorHandle,
    /// `dB: [rank, out_features]`, f32.
    pub b: TensorHandle,
}

/// Returns the gradients of [`forward`](super::forward()) from `x` and the gradient of `y`, `dy: [.., out_features]`:
/// `dx = dy·W + s·(dy·Bᵀ)·Aᵀ`, `dA = s·xᵀ·(dy·Bᵀ)`, `dB = s·(x·A)ᵀ·dy`.
///
/// # Errors
/// As [`forward`](super::forward()).
pub fn backward(
    client: &Client,
    x: TensorHandle,
    weight: Weight,
    low_rank: LowRank,
    dy: TensorHandle,
) -> Result<Gradients, KernelError> {
    let layer = Layer::new(client, x, weight.layout, low_rank)?;
    let problem = Problem::new(client, dy, weight, Direction::Transposed)?;
    layer.check_rows(problem.x.m)?;
    let dx = problem.output();
    multiply(&problem, &dx.handle)?;
    if problem.is_empty() {
        let [a, b] = layer.no_gradients();
        return Ok(Gradients { x: dx, a, b });
    }
    let dxa = layer.project_gradient(&problem.x)?;
    expand(
        client,
        &[Expansion {
            projected: &dxa,
            factor: &layer.a_transposed,
            y: &dx,
        }],
    )?;
    let [a, b] = layer.factor_gradients(&problem.x, &dxa)?;
    Ok(Gradients { x: dx, a, b })
}

/// Returns the gradients of the factors alone, `[dA, dB]` of [`backward`], for a layer that nothing trainable feeds and whose
/// weight is in `layout`.
///
/// # Errors
/// As [`forward`](super::forward()).
pub fn backward_factors(
    client: &Client,
    x: TensorHandle,
    layout: Layout,
    low_rank: LowRank,
    dy: TensorHandle,
) -> Result<[TensorHandle; 2], KernelError> {
    let layer = Layer::new(client, x, layout, low_rank)?;
    let dy = rows(client, dy, layout.out_features())?;
    layer.check_rows(dy.m)?;
    if dy.m * layout.elements() == 0 {
        return Ok(layer.no_gradients());
    }
    let dxa = layer.project_gradient(&dy)?;
    layer.factor_gradients(&dy, &dxa)
}

/// The checked operands of the forward pass.
struct Layer<'a> {
    client: &'a Client,
    x: Rows,
    factors: Factors,
    a_transposed: Factor,
}

impl<'a> Layer<'a> {
    fn new(
        client: &'a Client,
        x: TensorHandle,
        layout: Layout,
        low_rank: LowRank,
    ) -> Result<Self, KernelError> {
        let factors = Factors::new(client, low_rank, layout.shape())?;
        Ok(Self {
            a_transposed: factors.a_transposed(client),
            factors,
            x: rows(client, x, layout.in_features())?,
            client,
        })
    }

    /// Refuses a gradient of another number of rows.
    fn check_rows(&self, m: usize) -> Result<(), KernelError> {
        check_length(OPERATION, "gradient's rows", m, self.x.m)
    }

    /// Returns `dxa = s·(dy·Bᵀ)`, the gradient of `x·A`.
    fn project_gradient(&self, dy: &Rows) -> Result<Projected, KernelError> {
        project(self.client, dy, &self.factors.b, self.factors.scale)
    }

    /// Returns `xᵀ·dxa` and `(s·(x·A))ᵀ·dy`.
    fn factor_gradients(
        &self,
        dy: &Rows,
        dxa: &Projected,
    ) -> Result<[TensorHandle; 2], KernelError> {
        let (a_transposed, Factors { b, scale, .. }) = (&self.a_transposed, &self.factors);
        let da = accumulate(self.client, dxa, &self.x, a_transposed.width, Order::OfA);
        let xa = project(self.client, &self.x, a_transposed, *scale)?;
        let db = accumulate(self.client, &xa, dy, b.width, Order::OfB);
        Ok([da, db])
    }

    /// Returns the gradients of no rows.
    fn no_gradients(&self) -> [TensorHandle; 2] {
        let (a, b) = (&self.a_transposed, &self.factors.b);
        [[a.width, a.rank], [b.rank, b.width]].map(|shape| zeros(self.client, shape, F32))
    }
}

/// Checks `[.., width]` and folds it to rows.
fn rows(client: &Client, tensor: TensorHandle, width: usize) -> Result<Rows, KernelError> {
    check_float(client, OPERATION, tensor.dtype)?;
    let last = tensor.shape().last().copied().unwrap_or(1);
    check_length(OPERATION, "operand's last dimension", last, width)?;
    let rows = Rows::new(client, tensor);
    check_size("operand", rows.m * rows.stride.max(width))?;
    Ok(rows)
}
