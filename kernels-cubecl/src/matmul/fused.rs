//! What a launch of products does besides them: before, the norm of their input, and after, a sum or a gate.
//!
//! Few rows are multiplied in the time of a few launches, and each operation between the products is one, so that they are worth
//! their while where the kernel for few rows has them on its way: it reads every element of a row of `x` anyway, and has what
//! becomes of a product in a register.
//!
//! The root mean square is that of what the kernel has read once it is through, and divides the sums: nothing waits for it. What
//! the operations would round to the type of `x` between them stays in f32.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;
use nf4::Direction;
use nf4::glu::Activation;
use nf4::rms_norm::RmsNormConfig;

use super::choice::launch_of_all;
use super::gemv::MAX_ROWS as GEMV_MAX_ROWS;
use super::problem::Problem;
use super::select::DeviceKind;
use crate::error::{KernelError, check_float, check_length, is_served};
use crate::fused::rms_norm::{Factors, FactorsLaunch};
use crate::operand::{contiguous, elements, tensor_buffer};
use crate::weight::Weight;

const OPERATION: &str = "matmul";

/// The root-mean-square norm of an input.
#[derive(Clone, Debug)]
pub struct Norm {
    /// `[in_features]`.
    pub weight: TensorHandle,
    /// What is added to the mean square, and whether the factors are 1 more than the weight.
    pub config: RmsNormConfig,
}

impl Norm {
    /// Returns whether kernels have norms by a weight of this type.
    pub(super) fn is_served(&self) -> bool {
        is_served(self.weight.dtype)
    }

    /// Checks the weight against rows of `k`, and lays it out as kernels read it.
    ///
    /// # Errors
    /// [`KernelError::UnsupportedType`], [`KernelError::ShapeMismatch`].
    pub(super) fn checked(self, client: &Client, k: usize) -> Result<Self, KernelError> {
        let Self { weight, config } = self;
        check_float(client, OPERATION, weight.dtype)?;
        check_length(OPERATION, "norm's weight", elements(&weight), k)?;
        let weight = contiguous(client, weight);
        Ok(Self { weight, config })
    }

    /// Returns the norm as an argument of a kernel that reads `x` in vectors.
    pub(super) fn arg<W: Float, N: Size>(&self) -> RmsNormLaunch<'static, W, N> {
        RmsNormLaunch::new(
            FactorsLaunch::new(tensor_buffer(&self.weight), self.config.unit_offset),
            self.config.eps as f32,
        )
    }
}

/// What becomes of products.
#[derive(Clone, Debug)]
pub enum Epilogue {
    /// They are the results.
    None,
    /// The result is the sum of the one product and this, of its shape and type.
    Add(TensorHandle),
    /// The result is `activation(gate) · up` of the two products, of one shape.
    Glu(Activation),
}

/// The operations beside the products of a launch.
#[derive(Clone, Debug)]
pub(super) struct Fusion {
    norm: Option<Norm>,
    epilogue: Epilogue,
}

/// What a kernel is compiled for of a [`Fusion`]; it also tells instances apart: see [`crate::fused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FusionKind {
    pub(super) normalizes: bool,
    pub(super) adds: bool,
    pub(super) gate: Option<Activation>,
}

impl FusionKind {
    /// Returns the activation of the gate, which there is.
    pub(super) fn activation(self) -> Activation {
        self.gate.expect("there is a gate")
    }
}

impl Fusion {
    /// Nothing but the products.
    pub(super) const NONE: Self = Self {
        norm: None,
        epilogue: Epilogue::None,
    };

    pub(super) fn kind(&self) -> FusionKind {
        FusionKind {
            normalizes: self.norm.is_some(),
            adds: matches!(self.epilogue, Epilogue::Add(_)),
            gate: match self.epilogue {
                Epilogue::Glu(activation) => Some(activation),
                Epilogue::None | Epilogue::Add(_) => None,
            },
        }
    }

    /// Returns the results of so many products.
    pub(super) fn results(&self, products: usize) -> usize {
        match self.epilogue {
            Epilogue::Glu(_) => products / 2,
            Epilogue::None | Epilogue::Add(_) => products,
        }
    }

    /// Returns the buffers that it reads.
    pub(super) fn buffers(&self) -> usize {
        let kind = self.kind();
        usize::from(kind.normalizes) + usize::from(kind.adds)
    }

    /// Returns the type of the norm's weight, or of `x` where there is none.
    pub(super) fn weight_dtype(&self, problem: &Problem) -> ElemType {
        let norm = self.norm.as_ref();
        norm.map_or(problem.x.dtype, |norm| norm.weight.dtype)
    }

    /// Returns the norm as an argument of a kernel that reads `x` in vectors.
    pub(super) fn norm_arg<W: Float, N: Size>(&self) -> ComptimeOptionArgs<RmsNorm<'static, W, N>> {
        self.norm.as_ref().map(Norm::arg).into()
    }

    /// Returns what is added as a kernel argument.
    pub(super) fn residual_arg(&self) -> Option<BufferArg> {
        match &self.epilogue {
            Epilogue::Add(residual) => Some(tensor_buffer(residual)),
            Epilogue::None | Epilogue::Glu(_) => None,
        }
    }

    /// Checks the operands against the products, and lays them out as kernels read them. Returns `None` for those of a type or a
    /// number that no kernel has.
    fn checked(self, client: &Client, problems: &[Problem]) -> Result<Option<Self>, KernelError> {
        let [first, ..] = problems else {
            return Ok(None);
        };
        if self.norm.as_ref().is_some_and(|norm| !norm.is_served()) {
            return Ok(None);
        }
        let norm = self.norm.map(|norm| norm.checked(client, first.k));
        let norm = norm.transpose()?;
        let epilogue = match (self.epilogue, problems) {
            (Epilogue::Add(residual), [problem]) => {
                let outputs = problem.x.m * problem.n;
                check_length(OPERATION, "residual", elements(&residual), outputs)?;
                if residual.dtype != problem.x.dtype {
                    return Ok(None);
                }
                Epilogue::Add(contiguous(client, residual))
            }
            (Epilogue::Glu(activation), [gate, up]) if gate.n == up.n => Epilogue::Glu(activation),
            (Epilogue::None, _) => Epilogue::None,
            _ => return Ok(None),
        };
        Ok(Some(Self { norm, epilogue }))
    }
}

/// Returns whether the device has [`fused_layers`] for so many rows.
pub fn fuses_layers(client: &Client, rows: usize) -> bool {
    match DeviceKind::of(client) {
        DeviceKind::Cpu => false,
        DeviceKind::Rasterizer => rows == 1,
        DeviceKind::Gpu => rows <= GEMV_MAX_ROWS,
    }
}

/// Returns the results of the `epilogue` of the products of `x: [.., in_features]`, normalized by `norm` before, with each of
/// `weights`: in one launch, or `None` where no kernel has all of that.
///
/// # Errors
/// As [`matmul`](super::matmul()).
pub fn fused_layers(
    client: &Client,
    x: TensorHandle,
    norm: Option<Norm>,
    weights: Vec<Weight>,
    epilogue: Epilogue,
) -> Result<Option<Vec<TensorHandle>>, KernelError> {
    let rows = x.shape().iter().rev().skip(1).product();
    if !fuses_layers(client, rows) {
        return Ok(None);
    }
    let problems = weights
        .into_iter()
        .map(|weight| Problem::new(client, x.clone(), weight, Direction::Forward));
    let problems = problems.collect::<Result<Vec<_>, _>>()?;
    let Some(fusion) = (Fusion { norm, epilogue }).checked(client, &problems)? else {
        return Ok(None);
    };
    let Some(launch) = launch_of_all(&problems, &fusion) else {
        return Ok(None);
    };
    let results = &problems[..fusion.results(problems.len())];
    let results: Vec<_> = results.iter().map(Problem::output).collect();
    let handles: Vec<_> = results.iter().map(|result| result.handle.clone()).collect();
    launch(&problems, &fusion, &handles)?;
    Ok(Some(results))
}

/// The norm of `x` in a kernel.
#[derive(CubeType, CubeLaunch)]
pub(super) struct RmsNorm<'a, W: Float, N: Size> {
    factors: Factors<'a, W, N>,
    eps: f32,
}

#[cube]
impl<'a, W: Float, N: Size> RmsNorm<'a, W, N> {
    /// Returns the factors of the vector of elements at `at`.
    pub(super) fn factors(&self, at: usize) -> Vector<f32, N> {
        self.factors.at(at)
    }

    /// Returns `1 / rms` of a row of `len` elements from the sum of their squares.
    pub(super) fn inverse(&self, squares: f32, len: u32) -> f32 {
        f32::new(1.0) / (squares / f32::cast_from(len) + self.eps).sqrt()
    }
}

/// Returns a product with what is added to it at `at`.
#[cube]
pub(super) fn added<F: Float>(product: f32, residual: &ComptimeOption<&[F]>, at: u32) -> f32 {
    #[comptime]
    match residual {
        ComptimeOption::Some(residual) => product + f32::cast_from(residual[at as usize]),
        ComptimeOption::None => product,
    }
}
