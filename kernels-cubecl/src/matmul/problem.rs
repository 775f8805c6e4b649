//! A product whose sizes and types have been checked.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;
use cubecl::std::tensor::TensorHandle;
use cubecl::zspace::Shape;
use nf4::Direction;

use crate::error::{KernelError, check_float, check_length, check_size};
use crate::format::CodeFormat;
use crate::operand::{buffer, contiguous, empty, zeros};
use crate::weight::Weight;

/// `x · Wᵀ` or `x · W`, checked. There is no other way to a kernel.
#[derive(Clone)]
pub struct Problem {
    pub(super) client: Client,
    pub(super) x: Rows,
    /// Elements from the first to the last of `x` that is read.
    pub(super) x_len: usize,
    pub(super) weight: Weight,
    pub(super) direction: Direction,
    /// Length of the contraction.
    pub(super) k: usize,
    /// Columns of the output.
    pub(super) n: usize,
    output_shape: Shape,
}

/// The left operand: `m` rows of contiguous elements, `stride` elements apart.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    pub(super) handle: Handle,
    pub(super) dtype: ElemType,
    pub(super) m: usize,
    pub(super) stride: usize,
}

impl Rows {
    /// Folds all dimensions of `x` but the last into one. Copies only what is laid out otherwise: a transposed tensor, or
    /// leading dimensions that do not fold.
    pub(super) fn new(client: &Client, x: TensorHandle) -> Self {
        let m = x.shape().iter().rev().skip(1).product();
        let (x, stride) = match row_stride(&x) {
            Some(stride) => (x, stride),
            None => {
                let x = contiguous(client, x);
                let stride = x.shape().last().copied().unwrap_or(1);
                (x, stride)
            }
        };
        Self {
            handle: x.handle,
            dtype: x.dtype,
            m,
            stride,
        }
    }

    /// Returns the elements from the first to the last of rows of `width`.
    fn len(&self, width: usize) -> usize {
        self.m.saturating_sub(1) * self.stride + width
    }

    /// Returns rows of `width` as a kernel argument.
    pub(super) fn arg(&self, width: usize) -> BufferArg {
        buffer(&self.handle, self.len(width))
    }
}

/// Returns the distance of the rows of `x`, if they lie an equal distance apart.
fn row_stride(x: &TensorHandle) -> Option<usize> {
    let (shape, strides) = (x.shape(), x.strides());
    let last = shape.num_dims().checked_sub(1)?;
    if strides[last] != 1 && shape[last] != 1 {
        return None;
    }
    // From the innermost leading dimension that has more than one entry outwards.
    let mut rows = (0..last).rev().filter(|&dim| shape[dim] != 1);
    let Some(innermost) = rows.next() else {
        return Some(shape[last]);
    };
    let stride = strides[innermost];
    let mut folded = stride * shape[innermost];
    for dim in rows {
        if strides[dim] != folded {
            return None;
        }
        folded *= shape[dim];
    }
    // Rows that overlap (a broadcast) would do, but their length says nothing of the buffer's.
    (stride >= shape[last]).then_some(stride)
}

/// The boundaries of the words on which every row of a weight begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alignment {
    /// At any element.
    Elements,
    /// On a word: all elements of a word have one scale.
    Words,
    /// On a block of this size.
    Blocks(usize),
}

impl Alignment {
    /// Returns whether the scale must be looked up anew `offset` elements into a row.
    pub(super) fn begins_block(self, offset: usize) -> bool {
        match self {
            Alignment::Elements => true,
            // Codes of 8 bits, which are fewer, are in whole blocks.
            Alignment::Words => offset.is_multiple_of(8),
            Alignment::Blocks(size) => offset.is_multiple_of(size),
        }
    }
}

/// The part of a weight's format that a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PackedFormat {
    pub(super) codes: CodeFormat,
    pub(super) alignment: Alignment,
}

/// The sizes that products of one `x` have in common in a kernel.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct RowSizes {
    pub(super) m: u32,
    pub(super) k: u32,
    pub(super) x_stride: u32,
}

/// The sizes of a product in a kernel.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) m: u32,
    pub(super) k: u32,
    pub(super) n: u32,
    pub(super) x_stride: u32,
}

impl Problem {
    /// Checks `x · Wᵀ` for `x: [.., in_features]`, or `x · W` for `x: [.., out_features]`, in f32, f16 or bf16.
    ///
    /// # Errors
    /// [`KernelError::UnsupportedType`], [`KernelError::ShapeMismatch`], [`KernelError::TooLarge`].
    pub fn new(
        client: &Client,
        x: TensorHandle,
        weight: Weight,
        direction: Direction,
    ) -> Result<Self, KernelError> {
        check_float(client, "matmul", x.dtype)?;
        let [k, n] = direction.widths(weight.layout.shape());
        let mut output_shape = x.shape().clone();
        let last = output_shape.last_mut();
        let columns = last.map_or(1, |last| std::mem::replace(last, n));
        check_length("matmul", "input's last dimension", columns, k)?;
        check_size("weight", weight.layout.elements())?;
        check_size("output", output_shape.iter().product())?;
        let x = Rows::new(client, x);
        check_size("input", x.m * x.stride.max(k))?;
        Ok(Self {
            client: client.clone(),
            x_len: x.len(k),
            x,
            weight,
            direction,
            k,
            n,
            output_shape,
        })
    }

    /// Returns whether there is nothing to compute.
    pub(super) fn is_empty(&self) -> bool {
        self.x.m * self.n * self.k == 0
    }

    /// Returns whether a launch can have this problem and `other`, of the same `x`: it is compiled for one format, and one width.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        let format = |problem: &Self| problem.weight.layout.block_format();
        format(self) == format(other) && self.k == other.k && self.direction == other.direction
    }

    pub(super) fn alignment(&self) -> Alignment {
        let row = self.weight.layout.in_features();
        let block = self.weight.block_size();
        if row.is_multiple_of(block) {
            Alignment::Blocks(block)
        } else if row.is_multiple_of(self.weight.codes().per_word()) {
            Alignment::Words
        } else {
            Alignment::Elements
        }
    }

    pub(super) fn format(&self) -> PackedFormat {
        PackedFormat {
            codes: self.weight.codes(),
            alignment: self.alignment(),
        }
    }

    pub(super) fn sizes_arg(&self) -> SizesLaunch {
        SizesLaunch::new(
            self.x.m as u32,
            self.k as u32,
            self.n as u32,
            self.x.stride as u32,
        )
    }

    pub(super) fn row_sizes_arg(&self) -> RowSizesLaunch {
        RowSizesLaunch::new(self.x.m as u32, self.k as u32, self.x.stride as u32)
    }

    pub(super) fn x_tensor(&self) -> TensorBinding {
        // SAFETY: `Problem::new` took rows and stride from the tensor's shape and strides.
        unsafe {
            TensorBinding::from_raw_parts(
                self.x.handle.clone(),
                [self.x.stride, 1].into(),
                [self.x.m, self.k].into(),
            )
        }
    }

    pub(super) fn output_tensor(&self, output: &Handle) -> TensorBinding {
        // SAFETY: `Problem::output` allocated the output in this shape.
        unsafe {
            TensorBinding::from_raw_parts(
                output.clone(),
                [self.n, 1].into(),
                [self.x.m, self.n].into(),
            )
        }
    }

    pub(super) fn x_arg(&self) -> BufferArg {
        self.x.arg(self.k)
    }

    pub(super) fn output_arg(&self, output: &Handle) -> BufferArg {
        buffer(output, self.x.m * self.n)
    }

    /// Returns the grid of a kernel whose cubes have `units` along the output's columns, each with `columns` of them and
    /// `rows` rows.
    ///
    /// # Errors
    /// [`KernelError::TooManyRows`] where the device has no such grid.
    pub(super) fn grid(
        &self,
        units: u32,
        columns: usize,
        rows: usize,
    ) -> Result<CubeCount, KernelError> {
        let cubes = self.tiles(rows)?;
        let tiles = self.n.div_ceil(columns) as u32;
        Ok(CubeCount::Static(tiles.div_ceil(units), cubes, 1))
    }

    /// Returns the tiles of `rows` rows, which are cubes of a grid's second dimension.
    ///
    /// # Errors
    /// [`KernelError::TooManyRows`] where the device has no such grid.
    pub(super) fn tiles(&self, rows: usize) -> Result<u32, KernelError> {
        let cubes = self.x.m.div_ceil(rows) as u32;
        let limit = self.client.properties().hardware.max_cube_count.1;
        if cubes > limit {
            return Err(KernelError::TooManyRows {
                rows: self.x.m,
                cubes,
                limit,
            });
        }
        Ok(cubes)
    }

    /// Allocates the output. That of an empty product is complete: it is zeros.
    pub(super) fn output(&self) -> TensorHandle {
        let allocate = if self.k == 0 { zeros } else { empty };
        allocate(&self.client, self.output_shape.clone(), self.x.dtype)
    }
}
