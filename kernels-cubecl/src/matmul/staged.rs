//! The product of many rows through cubek-matmul: tiles of both operands are staged in shared memory, and the
//! weight is decoded by the loader that fills its tile.
//!
//! cubek reads its operands through views. Here the right operand is a view of the words, in which an
//! element is decoded as it is read; routine, tiling and the multiply-accumulate instructions are cubek's. A
//! decoded tile serves every row of the tile of `x`, and neither a dense weight nor its scales are ever
//! written to global memory.
//!
//! # Roofline
//!
//! Bytes: the weight once per tile of rows (0.52 an element, the second time from the L2 cache), `x` once per tile of columns, `y` once.
//! Operations: 2·m·n·k on matrix units, and about eight integer and f32 instructions for each weight and tile of
//! 128 rows: shift, mask, table, scale, conversion. LLaMA-7B's 11008 × 4096 in f16 (45.1 M weights, 23.3 MB packed), from data
//! sheets (RTX 4090: 1.01 TB/s, 165 TFLOP/s with f32 sums, 41 T instructions/s; H100 SXM: 3.35 TB/s, 989 TFLOP/s, 30 T
//! instructions/s), each alone, in µs:
//!
//! | m | RTX 4090: bytes, matrix, decode | H100: bytes, matrix, decode | bound by |
//! | --- | --- | --- | --- |
//! | 16 | 24, 9, 9 | 7, 1.5, 12 | bytes; decoding on the H100 |
//! | 512 | 38, 280, 35 | 12, 47, 49 | matrix units; evenly on the H100 |
//! | 2048 | 84, 1120, 140 | 25, 187, 195 | matrix units; decoding on the H100 |
//!
//! bitsandbytes decodes the whole weight first: 4.5 bytes a weight are read, written and read again, 202 µs and 61 µs before
//! the dense product of the same matrix time begins: 211, 482 and 1320 µs on an RTX 4090, 63, 108 and 248 µs on an
//! H100, and 90 MB for the dense weight. The shape 4096 × 4096 is 0.37 of all these. Predictions: none was run.
//! In f32 the plain units of both cards (83 and 67 TFLOP/s) need 560 and 690 µs for 512 rows and bound the time alone.

use cubecl::prelude::*;
use cubecl::quant::scheme::QuantScheme;
use cubecl::std::tensor::layout::{Coords1d, VirtualLayout};
use cubecl::std::tensor::{View, ViewMut, launch::ViewArg};
use cubecl::zspace::{Shape, Strides};
use cubek_matmul::definition::{
    AvailableVectorSizes, MatmulElems, MatmulProblem, MatmulSetupError,
};
use cubek_matmul::multi_level::BatchMatmulRoutine;
use cubek_matmul::multi_level::args::{BatchedCoords, MatmulArgs};
use cubek_matmul::multi_level::components::global::memory::{
    GlobalLayout, GlobalLayoutConfig, GlobalLayoutLaunch, NoopLayout,
};
use cubek_matmul::multi_level::definition::{BatchMatmulBlueprint, Blueprint, cube_mapping_launch};
use cubek_matmul::multi_level::routines::batch::simple::{SimpleAlgorithm, SimpleArgs};
use cubek_matmul::multi_level::routines::batch::simple_unit::SimpleUnitAlgorithm;
use cubek_matmul::routine::BlueprintStrategy;

use super::view::DecodedWeight;
use super::{Direction, Problem};
use crate::decode::{Words, fill_table};
use crate::error::KernelError;
use crate::format::CodeTable;

/// A word holds eight elements, so a vector of up to eight lies in one word and one block.
const WIDEST_READ: usize = 8;

/// Launches the routine that multiplies tiles with the device's matrix instructions.
///
/// # Errors
/// [`KernelError::Unavailable`].
pub(super) fn launch_matrix(
    client: &Client,
    problem: &Problem<'_>,
    direction: Direction,
) -> Result<(), KernelError> {
    launch::<SimpleAlgorithm>(client, problem, direction, SimpleArgs::default())
}

/// Launches the routine in which every unit multiplies tiles of its own.
///
/// # Errors
/// [`KernelError::Unavailable`].
pub(super) fn launch_units(
    client: &Client,
    problem: &Problem<'_>,
    direction: Direction,
) -> Result<(), KernelError> {
    launch::<SimpleUnitAlgorithm>(client, problem, direction, Default::default())
}

fn launch<A>(
    client: &Client,
    problem: &Problem<'_>,
    direction: Direction,
    strategy: A::Strategy,
) -> Result<(), KernelError>
where
    A: BatchMatmulRoutine<(), Blueprint = BatchMatmulBlueprint>,
{
    try_launch::<A>(client, problem, direction, strategy).map_err(|error| {
        KernelError::Unavailable {
            operation: "matmul",
            reason: format!("{error:?}"),
        }
    })
}

fn try_launch<A>(
    client: &Client,
    problem: &Problem<'_>,
    direction: Direction,
    strategy: A::Strategy,
) -> Result<(), MatmulSetupError>
where
    A: BatchMatmulRoutine<(), Blueprint = BatchMatmulBlueprint>,
{
    let (inner, outer) = (problem.inner, problem.outer);
    let dtype = problem.x.dtype;
    let in_features = problem.weight.in_features;
    let weight_strides = match direction {
        Direction::Forward => [1, in_features],
        Direction::Transposed => [in_features, 1],
    };
    let x = problem.x_tensor();
    let output = problem.output_tensor();
    let weight_shape: Shape = [inner, outer].into();
    let weight_strides: Strides = weight_strides.into();
    let elems = MatmulElems::from_single_dtype(dtype).as_global_elems();
    let mut product = MatmulProblem::from_shapes_and_strides(
        x.shape.clone(),
        weight_shape.clone(),
        output.shape.clone(),
        x.strides.clone(),
        weight_strides.clone(),
        output.strides.clone(),
        elems,
        AddressType::U32,
        None,
        None,
    )?;
    // Loaders that copy bytes or use tensor maps would take the words for elements; what is marked as quantized
    // they refuse.
    product.rhs_scheme = Some(QuantScheme::default());
    let vector_sizes =
        AvailableVectorSizes::from_type_sizes(client, dtype.size(), dtype.size(), dtype.size())
            .filter_lhs_with_tensor(&x.strides, &x.shape, product.lhs_layout)
            .filter_rhs(|&size| size <= WIDEST_READ)
            .filter_rhs_with_tensor(&weight_strides, &weight_shape, product.rhs_layout)
            .filter_out_with_tensor(&output.strides, &output.shape)
            .pick_max()?;

    let settings = A::device_settings(client, vector_sizes);
    let plan = A::expand_blueprint(&product, &settings, &BlueprintStrategy::Inferred(strategy))?;
    let plan = A::prepare(&product, &settings, plan)?;
    let words = problem
        .weight
        .launch_arg()
        .map_err(|error| MatmulSetupError::InvalidConfig(Box::new(error.to_string())))?;
    let blueprint = plan.blueprint;
    let input = PackedInputLaunch::new(
        ViewArg::new_tensor::<GlobalLayout>(
            x.clone().into_tensor_arg(),
            GlobalLayoutLaunch::from_handle(
                &x,
                plan.vector_sizes.lhs,
                blueprint.lhs_global_layout_config(),
            ),
        ),
        words,
        inner as u32,
        outer as u32,
        weight_strides[0],
        weight_strides[1],
        problem.weight.format.table,
    );
    let written = DenseOutputLaunch::new(ViewArg::new_tensor::<GlobalLayout>(
        output.clone().into_tensor_arg(),
        GlobalLayoutLaunch::from_handle(
            &output,
            plan.vector_sizes.out,
            blueprint.out_global_layout_config(),
        ),
    ));
    A::launch::<PackedArgs>(
        client,
        plan.cube_dim,
        plan.cube_count_plan.resolve(),
        plan.address_type,
        input,
        written,
        (),
        cube_mapping_launch(&plan.cube_count_plan),
        blueprint,
        &plan.dtypes,
        &plan.vector_sizes,
    )
}

/// cubek's arguments with a packed right operand.
#[derive(Clone)]
struct PackedArgs;

/// The operands: a dense left one, and the words of the right one with its shape and strides in elements.
#[derive(CubeLaunch, CubeType)]
struct PackedInput<Lhs: CubePrimitive> {
    x: View<'static, Lhs, BatchedCoords>,
    words: Words,
    rows: u32,
    columns: u32,
    row_stride: usize,
    column_stride: usize,
    #[cube(comptime)]
    codes: CodeTable,
}

#[derive(CubeLaunch, CubeType, Clone)]
#[expand(derive(Clone))]
struct DenseOutput<Out: CubePrimitive> {
    view: ViewMut<'static, Out, BatchedCoords>,
}

#[derive(CubeType)]
struct PackedState<Lhs: CubePrimitive, Out: CubePrimitive> {
    x: View<'static, Lhs, BatchedCoords>,
    words: Words,
    table: Shared<[f32]>,
    rows: u32,
    columns: u32,
    row_stride: usize,
    column_stride: usize,
    output: DenseOutput<Out>,
    #[cube(comptime)]
    weight_layout: GlobalLayoutConfig,
}

#[cube]
impl MatmulArgs for PackedArgs {
    type Input<Lhs: CubePrimitive, Rhs: CubePrimitive, EO: CubePrimitive> = PackedInput<Lhs>;
    type Output<EO: CubePrimitive> = DenseOutput<EO>;
    type Config = ();
    type State<Lhs: CubePrimitive, Rhs: CubePrimitive, EO: CubePrimitive> = PackedState<Lhs, EO>;

    fn init_state<Lhs: CubePrimitive, Rhs: CubePrimitive, EO: CubePrimitive>(
        input: &Self::Input<Lhs, Rhs, EO>,
        output: &mut Self::Output<EO>,
        _config: (),
        #[comptime] _lhs_layout_config: GlobalLayoutConfig,
        #[comptime] rhs_layout_config: GlobalLayoutConfig,
        #[comptime] _out_layout_config: GlobalLayoutConfig,
    ) -> Self::State<Lhs, Rhs, EO> {
        let mut table = Shared::<[f32]>::new_slice(16usize);
        fill_table(&mut table, comptime!(input.codes));
        sync_cube();
        PackedState::<Lhs, EO> {
            x: input.x,
            words: input.words.clone(),
            table,
            rows: input.rows,
            columns: input.columns,
            row_stride: input.row_stride,
            column_stride: input.column_stride,
            output: output.clone(),
            weight_layout: comptime!(rhs_layout_config),
        }
    }

    fn view_lhs<Lhs: CubePrimitive, Rhs: CubePrimitive, EO: CubePrimitive>(
        state: &Self::State<Lhs, Rhs, EO>,
    ) -> View<'_, Lhs, BatchedCoords> {
        state.x
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
        let layout = GlobalLayout::new(
            VirtualLayout::new::<NoopLayout>(NoopLayout::new()),
            state.rows,
            state.columns,
            state.row_stride,
            state.column_stride,
            Rhs::vector_size(),
            1u32,
            state.weight_layout,
        );
        View::new::<DecodedWeight<Rhs>, Coords1d>(
            DecodedWeight::<Rhs>::new(state.words.clone(), state.table.clone()),
            layout,
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
        _state: &Self::State<Lhs, Rhs, EO>,
    ) {
    }
}
