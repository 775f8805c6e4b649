//! The factors of a low-rank matrix.

use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;

use crate::error::{KernelError, check_length, check_single, check_size};
use crate::launch::lanes;
use crate::operand::{contiguous, empty, tensor_buffer};

pub(super) const OPERATION: &str = "low_rank";

pub(super) const F32: ElemType = ElemType::Float(FloatKind::F32);

/// The factors of a low-rank matrix, `scale · a · b`.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// `[in_features, rank]`, f32.
    pub a: TensorHandle,
    /// `[rank, out_features]`, f32.
    pub b: TensorHandle,
    /// The factor of their product.
    pub scale: f32,
}

/// The factors, checked.
pub(in crate::matmul) struct Factors {
    /// `A: [in_features, rank]`.
    pub(super) a: TensorHandle,
    /// `B: [rank, out_features]`.
    pub(super) b: Factor,
    pub(super) scale: f32,
}

impl Factors {
    /// # Errors
    /// [`KernelError::NotSingle`], [`KernelError::TooLarge`], and [`KernelError::ShapeMismatch`] unless the factors fit each
    /// other and a weight of shape `[out_features, in_features]`.
    pub(in crate::matmul) fn new(
        client: &Client,
        low_rank: LowRank,
        [out_features, in_features]: [usize; 2],
    ) -> Result<Self, KernelError> {
        let LowRank { a, b, scale } = low_rank;
        for factor in [&a, &b] {
            check_single(OPERATION, factor.dtype)?;
            check_length(OPERATION, "factor's dimensions", factor.shape().len(), 2)?;
        }
        let rank = a.shape()[1];
        check_length(OPERATION, "rank", rank, rank.max(1))?;
        check_length(OPERATION, "first factor's rows", a.shape()[0], in_features)?;
        check_length(OPERATION, "second factor's rows", b.shape()[0], rank)?;
        check_length(
            OPERATION,
            "second factor's columns",
            b.shape()[1],
            out_features,
        )?;
        check_size("first factor", in_features * rank)?;
        check_size("second factor", rank * out_features)?;
        Ok(Self {
            a,
            b: Factor::new(client, b),
            scale,
        })
    }

    /// Returns `Aᵀ: [rank, in_features]`, as rows of a width.
    pub(super) fn a_transposed(&self, client: &Client) -> Factor {
        let (shape, strides) = (self.a.shape(), self.a.strides());
        let transposed = TensorHandle::new(
            self.a.handle.clone(),
            [shape[1], shape[0]],
            [strides[1], strides[0]],
            self.a.dtype,
        );
        Factor::new(client, transposed)
    }
}

/// A factor `[rank, width]`, f32, contiguous.
pub(super) struct Factor {
    values: TensorHandle,
    pub(super) rank: usize,
    pub(super) width: usize,
}

impl Factor {
    pub(super) fn new(client: &Client, factor: TensorHandle) -> Self {
        Self {
            rank: factor.shape()[0],
            width: factor.shape()[1],
            values: contiguous(client, factor),
        }
    }

    pub(super) fn arg(&self) -> BufferArg {
        tensor_buffer(&self.values)
    }
}

/// Rows of the width of the rank, `[m, rank]`, f32: what lies between the factors.
pub(super) struct Projected {
    pub(super) values: TensorHandle,
    pub(super) m: usize,
    pub(super) rank: usize,
}

impl Projected {
    pub(super) fn empty(client: &Client, m: usize, rank: usize) -> Result<Self, KernelError> {
        check_size("projection", m * rank)?;
        Ok(Self {
            values: empty(client, [m, rank], F32),
            m,
            rank,
        })
    }

    pub(super) fn arg(&self) -> BufferArg {
        tensor_buffer(&self.values)
    }
}

/// The sizes of a thin product in a kernel.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct ThinSizes {
    pub(super) m: u32,
    pub(super) rank: u32,
    /// Vectors of a row of the layer's width.
    pub(super) vectors: u32,
    /// Vectors from one row of the wide operand to the next.
    pub(super) stride: u32,
}

/// The vectors that rows of a layer's width are read in.
pub(super) struct Vectors {
    /// Elements of a vector.
    pub(super) size: usize,
    /// Vectors of a row.
    pub(super) count: usize,
    /// Vectors from one row of the wide operand to the next.
    stride: usize,
}

impl Vectors {
    /// Returns the widest, up to `at_most` elements, that the device computes with and that divide both `width` and the
    /// distance of rows.
    pub(super) fn new(client: &Client, at_most: usize, width: usize, stride: usize) -> Self {
        let mut size = 1;
        let widest = lanes(client, at_most);
        while 2 * size <= widest && [width, stride].iter().all(|n| n.is_multiple_of(2 * size)) {
            size *= 2;
        }
        Self {
            size,
            count: width / size,
            stride: stride / size,
        }
    }

    pub(super) fn sizes_arg(&self, m: usize, rank: usize) -> ThinSizesLaunch {
        ThinSizesLaunch::new(m as u32, rank as u32, self.count as u32, self.stride as u32)
    }
}
