//! The kernels for a product, and which of them are candidates.

use std::fmt;

use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use cubecl::server::Handle;
use cubecl::std::tensor::TensorHandle;
use nf4::Direction;

use super::fused::Fusion;
use super::problem::{Alignment, Problem};
use super::{dots, gemv, panels, register_tiled, staged};
use crate::error::KernelError;
use crate::launch::{is_cpu, is_rasterizer};

/// The kernels for a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "autotune", derive(serde::Serialize, serde::Deserialize))]
pub enum Kernel {
    /// `gemv`: up to eight rows, each row of the weight beginning on a word.
    Gemv,
    /// `dots`: up to four rows forward on a CPU, each row of the weight beginning on a block.
    Dots,
    /// `panels`.
    Panels,
    /// `staged` on matrix instructions, for f16 and bf16.
    StagedMatrix,
    /// `staged` on plain units.
    StagedUnits,
    /// `register_tiled`.
    RegisterTiled,
}

/// The launch of a kernel: writes every element of the output of a problem that is not empty.
pub(super) type Launch = fn(&Problem, &Handle) -> Result<(), KernelError>;

/// The launch of a kernel for products of one `x` that it [takes together](Kernel::launch_together), and what is fused with them:
/// writes every element of the results.
pub(super) type LaunchTogether = fn(&[Problem], &Fusion, &[Handle]) -> Result<(), KernelError>;

impl Kernel {
    /// All kernels.
    pub const ALL: [Kernel; 6] = [
        Kernel::Gemv,
        Kernel::Dots,
        Kernel::Panels,
        Kernel::StagedMatrix,
        Kernel::StagedUnits,
        Kernel::RegisterTiled,
    ];

    /// Returns the launch for several products of one `x`, of `m` rows, in one direction, whose weights have one format; `None` if
    /// the kernel takes them one by one.
    ///
    /// The code is that of all products behind one another. For several rows `register_tiled` is so long that Mesa's rasterizer
    /// would compile SmolLM2's for a second, and gain nothing: a launch is cheap there.
    pub(super) fn launch_together(self, direction: Direction, m: usize) -> Option<LaunchTogether> {
        match (self, direction) {
            (Kernel::Gemv, Direction::Forward) => Some(gemv::launch_rows),
            (Kernel::RegisterTiled, _) if m == 1 => Some(register_tiled::launch_each),
            _ => None,
        }
    }

    pub(super) fn launch(self) -> Launch {
        match self {
            Kernel::Gemv => gemv::launch,
            Kernel::Dots => dots::launch,
            Kernel::Panels => panels::launch,
            Kernel::StagedMatrix => staged::launch_matrix,
            Kernel::StagedUnits => staged::launch_units,
            Kernel::RegisterTiled => register_tiled::launch,
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The kinds of devices that want kernels of different designs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// CubeCL's CPU runtime: units are threads.
    Cpu,
    /// A software rasterizer: planes are a CPU's vectors.
    Rasterizer,
    /// A graphics card.
    Gpu,
}

impl DeviceKind {
    /// Returns the kind of the client's device.
    pub fn of(client: &Client) -> Self {
        if is_cpu(client) {
            DeviceKind::Cpu
        } else if is_rasterizer(client) {
            DeviceKind::Rasterizer
        } else {
            DeviceKind::Gpu
        }
    }
}

/// The traits of a product and its device that decide which kernels are candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProductClass {
    /// The kind of device.
    pub device: DeviceKind,
    /// The device multiplies matrices of x's dtype, f16 or bf16, by an instruction.
    pub has_matrix_instructions: bool,
    /// The product.
    pub direction: Direction,
    /// Rows of `x`.
    pub m: usize,
    /// Length of the contraction.
    pub k: usize,
    /// The boundaries on which rows of the weight begin.
    pub alignment: Alignment,
    /// Rows of `x` begin on the vectors that `dots` reads.
    pub x_is_vectors: bool,
}

impl Problem {
    /// Returns the kernels that may be the fastest, the likeliest first.
    pub fn candidates(&self) -> Vec<Kernel> {
        self.class().candidates()
    }

    /// Returns the traits that decide which kernels are candidates.
    pub fn class(&self) -> ProductClass {
        ProductClass {
            device: DeviceKind::of(&self.client),
            has_matrix_instructions: self.x.dtype != ElemType::Float(FloatKind::F32)
                && staged::has_matrix_instructions(&self.client, self.x.dtype),
            direction: self.direction,
            m: self.x.m,
            k: self.k,
            alignment: self.alignment(),
            x_is_vectors: dots::reads_vectors(&self.client, self.x.stride),
        }
    }

    /// Multiplies by a named kernel, accumulating in f32, into a new contiguous tensor of `x`'s dtype.
    ///
    /// # Errors
    /// [`KernelError::Unavailable`], [`KernelError::TooManyRows`].
    pub fn multiply(&self, kernel: Kernel) -> Result<TensorHandle, KernelError> {
        let y = self.output();
        if !self.is_empty() {
            kernel.launch()(self, &y.handle)?;
        }
        Ok(y)
    }
}

impl ProductClass {
    /// Returns the kernels that may be the fastest, the likeliest first; at least one.
    ///
    /// - A CPU takes `dots` for a few rows forward and `panels` for all else. On two cores with AVX-512 a 4096 × 4096 layer takes
    ///   0.7 to 1.1 ms for one row, 92 ms for 512 (187 GFLOP/s); the kernels with barriers would have the cores wait for
    ///   each other.
    /// - A software rasterizer takes `register_tiled`: on Mesa's, the same layer takes 1.6 ms for one row, where `gemv` takes
    ///   14, and for 512 rows half the time of `staged`.
    /// - A GPU takes `gemv` while reading the weight bounds the time; beyond, matrix instructions where it has them for the
    ///   type, and units where not. Reasoned, not measured: see the rooflines.
    /// - Rows that begin within a word are too rare for a `gemv` of their own.
    pub fn candidates(&self) -> Vec<Kernel> {
        let mut kernels = self.by_preference();
        kernels.retain(|kernel| kernel.is_candidate(self));
        kernels
    }

    /// Returns all kernels; of those that can run, the first is the likeliest to be the fastest.
    fn by_preference(&self) -> Vec<Kernel> {
        use Kernel::{Dots, Gemv, Panels, RegisterTiled, StagedMatrix, StagedUnits};
        match self.device {
            DeviceKind::Cpu if dots::keeps_rows_cached(self.m, self.k) => {
                vec![Dots, Panels, RegisterTiled]
            }
            DeviceKind::Cpu => vec![Panels, Dots, RegisterTiled],
            DeviceKind::Rasterizer => vec![RegisterTiled, Gemv, StagedMatrix, StagedUnits],
            DeviceKind::Gpu => vec![Gemv, RegisterTiled, StagedMatrix, StagedUnits],
        }
    }
}

impl Kernel {
    /// Returns whether the kernel runs on the class, in a time worth measuring.
    fn is_candidate(self, class: &ProductClass) -> bool {
        let few_rows = class.m <= gemv::MAX_ROWS;
        match self {
            Kernel::Gemv => few_rows && class.alignment != Alignment::Elements,
            Kernel::Dots => dots::serves(
                class.direction,
                class.m,
                class.alignment,
                class.x_is_vectors,
            ),
            // Many rows might keep a card longer than its driver waits.
            Kernel::RegisterTiled => few_rows || class.device == DeviceKind::Rasterizer,
            Kernel::StagedMatrix => class.has_matrix_instructions,
            Kernel::Panels | Kernel::StagedUnits => true,
        }
    }
}
