//! The product of many rows through cubek-matmul: tiles of both operands are staged in shared memory, and the
//! weight is decoded by the loader that fills its tile.
//!
//! Routine and multiply-accumulate instructions are cubek's, the tiles are chosen here. The right operand's loader is
//! our own: it reads 32 elements with one load of 128 bits where rows of the weight begin on such a boundary, which
//! rows of a multiple of 32 do, and a word at a time where not. A decoded tile serves every row of the tile of `x`, and
//! neither a dense weight nor its scales are ever written to global memory.
//!
//! # Roofline
//!
//! Bytes: the weight (0.52 an element), `x` and `y` once from memory; again from the L2 cache the weight for each
//! 128 rows, and `x` for each 64 columns, which is more than all else: 2/64 of a byte a product. Operations: 2·m·n·k on
//! matrix units, of whole tiles (32, 64 or 128 rows). Instructions: for each weight and tile of rows 9 (32 rows) or 11
//! (128 rows) by `cuda-table.md`, of which shift, mask, address, table, scale and conversion are six, matrix
//! instructions two, fetching fragments one, and staging `x` the rest.
//!
//! `ROOFLINE.md` beside the table has the time that each would take alone on two cards, and bitsandbytes' way beside it:
//! by that the RTX 4090 is bound by memory at 16 rows and by its matrix units at 512, and the H100 by shared memory and by
//! the cache, for which its tiles should be larger; their sums would leave an A100 room for one block on a multiprocessor.
//! In f32 the plain units of both cards (83 and 67 TFLOP/s) need 560 and 690 µs for 512 rows of 11008 × 4096 and bound the time alone.

use std::marker::PhantomData;

use cubecl::features::MmaConfig;
use cubecl::ir::{ElemType, FloatKind, UIntKind};
use cubecl::prelude::*;
use cubecl::quant::scheme::QuantScheme;
use cubecl::server::Handle;
use cubecl::std::tensor::layout::{Coords1d, VirtualLayout};
use cubecl::std::tensor::{View, ViewMut, launch::ViewArg};
use cubecl::zspace::{Shape, Strides};
use cubek_matmul::definition::{
    AvailableVectorSizes, MatmulElems, MatmulProblem, MatmulSetupError, MatmulVectorSizes,
};
use cubek_matmul::multi_level::args::{BatchedCoords, MatmulArgs};
use cubek_matmul::multi_level::components::global::memory::{
    GlobalLayout, GlobalLayoutConfig, GlobalLayoutLaunch, NoopLayout,
};
use cubek_matmul::multi_level::components::stage::PartitionBuffering;
use cubek_matmul::multi_level::components::tile::TileMatmulKind;
use cubek_matmul::multi_level::definition::{
    BatchMatmulBlueprint, Blueprint, LoadingPrecomputeStrategy, TilingScheme, cube_mapping_launch,
};
use cubek_matmul::multi_level::routines::batch::simple::SimpleAlgorithm;
use cubek_matmul::multi_level::routines::batch::simple_unit::SimpleUnitAlgorithm;
use cubek_matmul::multi_level::stage::{SwizzleMode, SwizzleModes};
use cubek_matmul::multi_level::{BatchMatmulRoutine, TileSize};
use cubek_matmul::routine::BlueprintStrategy;
use cubek_std::cube_count::{CubeCountStrategy, GlobalOrder, HypercubeBlueprint};
use nf4::Direction;

use super::dense_loader::DenseLoading;
use super::loader::{DecodingLoading, PackedWeight, PackedWeightLaunch, WeightLoad};
use super::problem::{Alignment, Problem};
use super::sources::{Elements, Positions};
use crate::error::KernelError;

/// Words of a load of 128 bits.
type Wide = Const<4>;
/// Words of a load for rows of the weight that do not begin on such a boundary, or a stage with lines too short for it.
type Narrow = Const<1>;

type Matrix<W> = SimpleAlgorithm<DenseLoading, DecodingLoading<W>>;
type Units<W> = SimpleUnitAlgorithm<DenseLoading, DecodingLoading<W>>;

/// One of cubek's routines by either width of the weight's loads.
trait Routines {
    type Wide: BatchMatmulRoutine<PackedWeight<Wide>, Blueprint = BatchMatmulBlueprint>;
    type Narrow: BatchMatmulRoutine<PackedWeight<Narrow>, Blueprint = BatchMatmulBlueprint>;
}

/// Planes multiply tiles by matrix instructions.
struct MatrixRoutines;

impl Routines for MatrixRoutines {
    type Wide = Matrix<Wide>;
    type Narrow = Matrix<Narrow>;
}

/// Units multiply tiles of their own.
struct UnitRoutines;

impl Routines for UnitRoutines {
    type Wide = Units<Wide>;
    type Narrow = Units<Narrow>;
}

/// The part of the product that a cube computes from one stage to the next, in elements, and its planes' or units' shares.
struct Stage {
    rows: u32,
    columns: u32,
    k: u32,
    /// Planes or units along rows and columns.
    parts: (u32, u32),
}

/// Stages for matrix instructions, by the most rows of `x` each is for.
///
/// Few rows are a matter of reading the weight: narrow tiles of columns give every multiprocessor one. Many rows are a
/// matter of multiplying: a decoded element should meet as many rows, and an element of `x` as many columns, as leave
/// registers for two blocks on a multiprocessor. Every unit decodes one run of 32 elements a stage.
const MATRIX_STAGES: [(usize, Stage); 3] = [
    (32, Stage::new(32, 32, 128, (2, 2))),
    (64, Stage::new(64, 64, 64, (2, 2))),
    (usize::MAX, Stage::new(128, 64, 64, (2, 2))),
];

/// Stages for units, by the most rows of `x` each is for.
const UNIT_STAGES: [(usize, Stage); 2] = [
    (32, Stage::new(32, 64, 32, (8, 8))),
    (usize::MAX, Stage::new(64, 64, 32, (8, 8))),
];

impl Stage {
    const fn new(rows: u32, columns: u32, k: u32, parts: (u32, u32)) -> Self {
        Self {
            rows,
            columns,
            k,
            parts,
        }
    }

    fn for_rows(stages: &'static [(usize, Stage)], m: usize) -> &'static Stage {
        let fits = stages.iter().find(|(rows, _)| m <= *rows);
        &fits.unwrap_or(&stages[stages.len() - 1]).1
    }

    /// Returns the stage in the multiplier's tiles for cubek, for an `x` read in vectors of `x_vector`.
    fn tiling(
        &self,
        multiplier: Multiplier,
        x_vector: usize,
    ) -> Result<TilingScheme, MatmulSetupError> {
        let tile = multiplier.tile;
        let (parts_m, parts_n) = self.parts;
        let k = if x_vector == 1 {
            self.k.min(multiplier.elementwise_k)
        } else {
            self.k
        };
        TilingScheme::builder()
            .with_tile_size(tile)
            .with_partition_size(
                (
                    self.rows / (parts_m * tile.m),
                    self.columns / (parts_n * tile.n),
                    k / tile.k,
                )
                    .into(),
            )
            .with_stage_size((parts_m, parts_n, 1).into())
            .build()
            .map_err(|reason| MatmulSetupError::InvalidConfig(Box::new(reason)))
    }
}

/// Returns whether the device multiplies matrices of `dtype` by an instruction.
pub(super) fn has_matrix_instructions(client: &Client, dtype: ElemType) -> bool {
    matrix_multiplier(client, dtype).is_some()
}

/// Launches the routine that multiplies tiles with the device's matrix instructions.
///
/// # Errors
/// [`KernelError::Unavailable`].
pub(super) fn launch_matrix(problem: &Problem, output: &Handle) -> Result<(), KernelError> {
    let dtype = problem.x.dtype;
    let multiplier = matrix_multiplier(&problem.client, dtype)
        .ok_or_else(|| unavailable(format!("no matrix instruction multiplies {dtype:?}")))?;
    launch::<MatrixRoutines>(problem, output, &MATRIX_STAGES, multiplier)
}

/// Launches the routine in which every unit multiplies tiles of its own.
///
/// # Errors
/// [`KernelError::Unavailable`].
pub(super) fn launch_units(problem: &Problem, output: &Handle) -> Result<(), KernelError> {
    launch::<UnitRoutines>(problem, output, &UNIT_STAGES, UNIT)
}

fn launch<R: Routines>(
    problem: &Problem,
    output: &Handle,
    stages: &'static [(usize, Stage)],
    multiplier: Multiplier,
) -> Result<(), KernelError> {
    let stage = Stage::for_rows(stages, problem.x.m);
    let plan = Plan::new(problem, output, stage, multiplier);
    let launched = plan.and_then(|plan| {
        if plan.reads_wide() {
            plan.launch::<R::Wide, Wide>()
        } else {
            plan.launch::<R::Narrow, Narrow>()
        }
    });
    launched.map_err(|error| unavailable(format!("{error:?}")))
}

fn unavailable(reason: String) -> KernelError {
    KernelError::Unavailable {
        operation: "matmul",
        reason,
    }
}

/// The tile that a plane or unit multiplies at once.
#[derive(Clone, Copy)]
struct Multiplier {
    kind: TileMatmulKind,
    tile: TileSize,
    /// Whether it fetches rows of tiles from shared memory, for which stages are swizzled.
    swizzled: bool,
    /// The deepest stage where `x` is read element by element: each load takes a register until it has arrived.
    elementwise_k: u32,
}

/// A unit multiplies tiles a vector of f32 wide.
const UNIT: Multiplier = Multiplier {
    kind: TileMatmulKind::Register,
    tile: TileSize { m: 4, n: 4, k: 4 },
    swizzled: false,
    // Of few units with many sums each.
    elementwise_k: 8,
};

/// Returns the device's matrix instructions for `dtype` with sums in f32, if it has any.
///
/// NVIDIA's are used by registers: `ldmatrix` fetches from a swizzled stage what takes six loads where a fragment is
/// loaded as a whole.
fn matrix_multiplier(client: &Client, dtype: ElemType) -> Option<Multiplier> {
    let features = &client.properties().features.matmul;
    let instruction = |tile: TileSize| MmaConfig {
        a_type: dtype,
        b_type: dtype,
        cd_type: ElemType::Float(FloatKind::F32),
        m: tile.m,
        n: tile.n,
        k: tile.k,
    };
    let by_registers = TileSize { m: 16, n: 8, k: 16 };
    if features.ldmatrix.contains(&dtype) && features.mma.contains(&instruction(by_registers)) {
        return Some(Multiplier {
            kind: TileMatmulKind::Mma,
            tile: by_registers,
            swizzled: true,
            elementwise_k: 32,
        });
    }
    [16, 8]
        .map(|size| (size, size, size).into())
        .into_iter()
        .find(|&tile| features.cmma.contains(&instruction(tile)))
        .map(|tile| Multiplier {
            kind: TileMatmulKind::Cmma,
            tile,
            swizzled: false,
            elementwise_k: 32,
        })
}

/// A product in cubek's words.
struct Plan<'a> {
    problem: &'a Problem,
    x: TensorBinding,
    output: TensorBinding,
    weight_shape: Shape,
    weight_strides: Strides,
    product: MatmulProblem,
    stage: &'static Stage,
    multiplier: Multiplier,
}

impl<'a> Plan<'a> {
    fn new(
        problem: &'a Problem,
        output: &Handle,
        stage: &'static Stage,
        multiplier: Multiplier,
    ) -> Result<Self, MatmulSetupError> {
        let in_features = problem.weight.layout.in_features();
        let weight_strides: Strides = match problem.direction {
            Direction::Forward => [1, in_features].into(),
            Direction::Transposed => [in_features, 1].into(),
        };
        let x = problem.x_tensor();
        let output = problem.output_tensor(output);
        let weight_shape: Shape = [problem.k, problem.n].into();
        let mut product = MatmulProblem::from_shapes_and_strides(
            x.shape.clone(),
            weight_shape.clone(),
            output.shape.clone(),
            x.strides.clone(),
            weight_strides.clone(),
            output.strides.clone(),
            MatmulElems::from_single_dtype(problem.x.dtype).as_global_elems(),
            AddressType::U32,
            None,
            None,
        )?;
        // Loaders that copy bytes or use tensor maps would take the words for elements; what is marked as quantized
        // they refuse.
        product.rhs_scheme = Some(QuantScheme::default());
        Ok(Self {
            problem,
            x,
            output,
            weight_shape,
            weight_strides,
            product,
            stage,
            multiplier,
        })
    }

    /// Returns whether rows of the weight begin on 128 bits.
    fn reads_wide(&self) -> bool {
        self.problem.weight.layout.in_features().is_multiple_of(32)
    }

    fn vector_sizes(&self) -> Result<MatmulVectorSizes, MatmulSetupError> {
        let size = self.problem.x.dtype.size();
        let tile = self.multiplier.tile;
        let widest = tile.m.min(tile.n).min(tile.k).min(8) as usize;
        AvailableVectorSizes::from_type_sizes(&self.problem.client, size, size, size)
            .filter_lhs(|&vector| vector <= widest)
            .filter_rhs(|&vector| vector <= widest)
            .filter_out(|&vector| vector <= widest)
            .filter_lhs_with_tensor(&self.x.strides, &self.x.shape, self.product.lhs_layout)
            .filter_out_with_tensor(&self.output.strides, &self.output.shape)
            .pick_max()
    }

    /// Returns the swizzles of the stages of `x` and of the weight.
    ///
    /// The lines of their tiles are of 32 bytes, or of 16 where the weight is transposed: with either of these, eight rows of a tile
    /// lie in different banks. They differ in the addresses that are left to be kept in registers, and these leave ptxas fewest.
    fn swizzles(&self) -> [SwizzleMode; 2] {
        match self.problem.direction {
            _ if !self.multiplier.swizzled => [SwizzleMode::None; 2],
            Direction::Transposed if self.reads_wide() => [SwizzleMode::B128, SwizzleMode::B32],
            // Transposed, units that read narrow store to tiles side by side at the same time, which only this tells apart.
            _ => [SwizzleMode::B32, SwizzleMode::B128],
        }
    }

    fn blueprint(
        &self,
        vector_sizes: &MatmulVectorSizes,
        plane_dim: u32,
    ) -> Result<BatchMatmulBlueprint, MatmulSetupError> {
        let tiling = self.stage.tiling(self.multiplier, vector_sizes.lhs)?;
        let [lhs, rhs] = self.swizzles();
        let grid = HypercubeBlueprint::builder()
            .global_order(GlobalOrder::SwizzleRow(4))
            .cube_count_strategy(CubeCountStrategy::FromProblem)
            .build();
        let blueprint =
            BatchMatmulBlueprint::builder(self.multiplier.kind, tiling, plane_dim, &self.product)
                .partition_buffering(PartitionBuffering::Single)
                .loading_precompute_strategy(LoadingPrecomputeStrategy::Always)
                .hypercube_blueprint(grid)
                .shared_swizzle(SwizzleModes {
                    lhs,
                    rhs,
                    ..Default::default()
                })
                .build();
        Ok(blueprint)
    }

    fn launch<A, W>(self) -> Result<(), MatmulSetupError>
    where
        A: BatchMatmulRoutine<PackedWeight<W>, Blueprint = BatchMatmulBlueprint>,
        W: Size,
    {
        let client = &self.problem.client;
        let settings = A::device_settings(client, self.vector_sizes()?);
        let blueprint = self.blueprint(&settings.vector_sizes, settings.plane_dim)?;
        let forced = BlueprintStrategy::Forced(blueprint);
        let plan = A::expand_blueprint(&self.product, &settings, &forced)?;
        let plan = A::prepare(&self.product, &settings, plan)?;
        let weight = &self.problem.weight;
        let load = WeightLoad {
            whole_words: self.problem.alignment() != Alignment::Elements,
            block: weight.block_size(),
        };
        let packed = PackedWeightLaunch::new(
            weight.packed_arg(),
            weight.scales_arg(),
            weight.codes(),
            load,
        );
        let blueprint = plan.blueprint;
        let extent = |shape: &Shape, strides: &Strides| {
            ExtentLaunch::new(shape[0] as u32, shape[1] as u32, strides[0], strides[1])
        };
        let input = OperandsLaunch::new(
            self.problem.x_arg(),
            self.problem.x_len / plan.vector_sizes.lhs - 1,
            extent(&self.x.shape, &self.x.strides),
            extent(&self.weight_shape, &self.weight_strides),
            plan.vector_sizes.rhs,
        );
        let written = DenseOutputLaunch::new(ViewArg::new_tensor::<GlobalLayout>(
            self.output.clone().into_tensor_arg(),
            GlobalLayoutLaunch::from_handle(
                &self.output,
                plan.vector_sizes.out,
                blueprint.out_global_layout_config(),
            ),
        ));
        // The right operand's view is of positions.
        let mut dtypes = plan.dtypes;
        dtypes.rhs_global = ElemType::UInt(UIntKind::U32);
        let vector_sizes = MatmulVectorSizes {
            rhs: 1,
            ..plan.vector_sizes
        };
        A::launch::<PackedArgs<W>>(
            client,
            plan.cube_dim,
            plan.cube_count_plan.resolve(),
            plan.address_type,
            input,
            written,
            packed,
            cube_mapping_launch(&plan.cube_count_plan),
            blueprint,
            &dtypes,
            &vector_sizes,
        )
    }
}

/// cubek's arguments with a packed right operand.
#[derive(Clone)]
struct PackedArgs<W: Size> {
    _words: PhantomData<W>,
}

/// Rows and columns of an operand, and the elements from one to the next.
#[derive(CubeLaunch, CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Extent {
    rows: u32,
    columns: u32,
    row_stride: usize,
    column_stride: usize,
}

#[cube]
impl Extent {
    /// Returns the layout of a source of vectors of `vector` elements.
    fn layout(
        &self,
        #[comptime] vector: usize,
        #[comptime] config: GlobalLayoutConfig,
    ) -> GlobalLayout {
        GlobalLayout::new(
            VirtualLayout::new::<NoopLayout>(NoopLayout::new()),
            self.rows,
            self.columns,
            self.row_stride,
            self.column_stride,
            vector,
            1u32,
            config,
        )
    }
}

/// The operands: a dense left one, and of the right one the extent. Its words are in the configuration, where the
/// loader finds them.
#[derive(CubeLaunch, CubeType)]
struct Operands<Lhs: CubePrimitive> {
    x: Box<[Lhs]>,
    last: usize,
    x_extent: Extent,
    weight_extent: Extent,
    #[cube(comptime)]
    stage_vector: usize,
}

#[derive(CubeLaunch, CubeType, Clone)]
#[expand(derive(Clone))]
struct DenseOutput<Out: CubePrimitive> {
    view: ViewMut<'static, Out, BatchedCoords>,
}

#[derive(CubeType)]
struct PackedState<Lhs: CubePrimitive, Out: CubePrimitive, W: Size> {
    x: Box<[Lhs]>,
    last: usize,
    x_extent: Extent,
    weight: PackedWeight<W>,
    weight_extent: Extent,
    output: DenseOutput<Out>,
    #[cube(comptime)]
    stage_vector: usize,
    #[cube(comptime)]
    x_layout: GlobalLayoutConfig,
    #[cube(comptime)]
    weight_layout: GlobalLayoutConfig,
}

#[cube]
impl<W: Size> MatmulArgs for PackedArgs<W> {
    type Input<Lhs: CubePrimitive, Rhs: CubePrimitive, EO: CubePrimitive> = Operands<Lhs>;
    type Output<EO: CubePrimitive> = DenseOutput<EO>;
    type Config = PackedWeight<W>;
    type State<Lhs: CubePrimitive, Rhs: CubePrimitive, EO: CubePrimitive> = PackedState<Lhs, EO, W>;

    fn init_state<Lhs: CubePrimitive, Rhs: CubePrimitive, EO: CubePrimitive>(
        input: &Self::Input<Lhs, Rhs, EO>,
        output: &mut Self::Output<EO>,
        config: PackedWeight<W>,
        #[comptime] lhs_layout_config: GlobalLayoutConfig,
        #[comptime] rhs_layout_config: GlobalLayoutConfig,
        #[comptime] _out_layout_config: GlobalLayoutConfig,
    ) -> Self::State<Lhs, Rhs, EO> {
        PackedState::<Lhs, EO, W> {
            x: input.x.clone(),
            last: input.last,
            x_extent: input.x_extent,
            weight: config,
            weight_extent: input.weight_extent,
            output: output.clone(),
            stage_vector: comptime!(input.stage_vector),
            // Rows that `x` has not, and columns that the weight has not, end in places of the result that nobody writes.
            x_layout: comptime!(GlobalLayoutConfig {
                check_row_bounds: false,
                ..lhs_layout_config
            }),
            weight_layout: comptime!(GlobalLayoutConfig {
                check_col_bounds: false,
                ..rhs_layout_config
            }),
        }
    }

    fn view_lhs<Lhs: CubePrimitive, Rhs: CubePrimitive, EO: CubePrimitive>(
        state: &Self::State<Lhs, Rhs, EO>,
    ) -> View<'_, Lhs, BatchedCoords> {
        View::new::<Elements<Lhs>, Coords1d>(
            Elements::<Lhs>::new(state.x.clone(), state.last),
            state.x_extent.layout(Lhs::vector_size(), state.x_layout),
        )
    }

    fn batch_lhs<Lhs: CubePrimitive, Rhs: CubePrimitive, EO: CubePrimitive>(
        _state: &Self::State<Lhs, Rhs, EO>,
        batch: usize,
    ) -> usize {
        batch
    }

    fn view_rhs<Lhs: CubePrimitive, Rhs: CubePrimitive, EO: CubePrimitive>(
        state: &Self::State<Lhs, Rhs, EO>,
    ) -> View<'_, Rhs, BatchedCoords> {
        View::new::<Positions<Rhs>, Coords1d>(
            Positions::<Rhs>::new(state.stage_vector),
            state.weight_extent.layout(1usize, state.weight_layout),
        )
    }

    fn batch_rhs<Lhs: CubePrimitive, Rhs: CubePrimitive, EO: CubePrimitive>(
        _state: &Self::State<Lhs, Rhs, EO>,
        batch: usize,
    ) -> usize {
        batch
    }

    fn view_acc<Lhs: CubePrimitive, Rhs: CubePrimitive, EO: CubePrimitive>(
        _state: &Self::State<Lhs, Rhs, EO>,
    ) -> ComptimeOption<View<'_, EO, BatchedCoords>> {
        ComptimeOption::new_None()
    }

    fn batch_acc<Lhs: CubePrimitive, Rhs: CubePrimitive, EO: CubePrimitive>(
        _state: &Self::State<Lhs, Rhs, EO>,
        batch: usize,
    ) -> usize {
        batch
    }

    fn view_out<Lhs: CubePrimitive, Rhs: CubePrimitive, EO: CubePrimitive>(
        state: &Self::State<Lhs, Rhs, EO>,
    ) -> ViewMut<'_, EO, BatchedCoords> {
        state.output.view
    }

    fn batch_out<Lhs: CubePrimitive, Rhs: CubePrimitive, EO: CubePrimitive>(
        _state: &Self::State<Lhs, Rhs, EO>,
        batch: usize,
    ) -> usize {
        batch
    }

    fn runtime_config<Lhs: CubePrimitive, Rhs: CubePrimitive, EO: CubePrimitive>(
        state: &Self::State<Lhs, Rhs, EO>,
    ) -> PackedWeight<W> {
        state.weight.clone()
    }
}
