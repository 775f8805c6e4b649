//! The loader of the dense left operand.
//!
//! As cubek's own cyclic loader: unit `u` of `units` copies vectors `u`, `u + units`, … of the stage. Here the vectors of a unit are
//! a constant distance apart for the compiler too, which then keeps one place of a unit rather than one a vector.

use cubecl::ir::{DeviceProperties, ElemType, VectorSize};
use cubecl::prelude::*;
use cubek_matmul::definition::{MatmulElems, MatmulProblem};
use cubek_matmul::multi_level::args::RuntimeConfig;
use cubek_matmul::multi_level::components::global::memory::GlobalIterator;
use cubek_matmul::multi_level::components::global::multi_stage::LoadMaxRoundPlaneCount;
use cubek_matmul::multi_level::components::global::read::sync::Synchronous;
use cubek_matmul::multi_level::components::global::read::{
    FullLoadingStrategy, LoadingJob, LoadingValidation, validate_swizzle_atom_size,
};
use cubek_matmul::multi_level::components::global::{GlobalReaderConfig, PlaneFlowPartition};
use cubek_matmul::multi_level::stage::{StageMemoryConfig, StridedStageFamily, StridedStageMemory};
use cubek_matmul::multi_level::tile::{
    ColMajorTilingOrder, ContiguousTilingLayout, TilingValidation,
};
use cubek_std::{InvalidConfigError, StageIdent};

use super::stored::{Place, store};

/// The order of tiles in the stage of the left operand.
type Order = ColMajorTilingOrder;

/// Loads the whole stage, every unit its vectors.
#[derive(CubeType, Clone, Copy)]
pub(super) struct DenseLoading {}

impl LoadingValidation for DenseLoading {
    fn validate_with_config(
        _device_props: &DeviceProperties,
        config: &GlobalReaderConfig,
    ) -> Result<(), InvalidConfigError> {
        let stage = config.smem_config;
        let column = elements_per_tile_column(stage);
        let width = stage.elements_per_tile_along_col;
        let round = config.loading_units_count() * config.gmem_config.vector_size as u32;
        let whole_rows = round.is_multiple_of(width);
        if !whole_rows || !(column.is_multiple_of(round) || round.is_multiple_of(column)) {
            return Err(Box::new(format!(
                "the {round} elements that are loaded at once are no whole rows, or no whole number or fraction of a column of tiles, \
                 which has {column} in rows of {width}"
            )));
        }
        validate_swizzle_atom_size(stage)?;
        ContiguousTilingLayout::<Order>::check(stage)
    }

    fn validate_with_problem(
        _problem: &MatmulProblem,
        _dtypes: &MatmulElems,
        _ident: StageIdent,
    ) -> Result<(), InvalidConfigError> {
        Ok(())
    }
}

impl LoadMaxRoundPlaneCount for DenseLoading {
    fn max_round_plane_count(
        elements_per_tile: u32,
        tiles_per_stage: u32,
        vector_size: VectorSize,
        plane_dim: u32,
        _dtype: ElemType,
    ) -> u32 {
        (elements_per_tile * tiles_per_stage / vector_size as u32).div_ceil(plane_dim)
    }
}

#[cube]
impl<RC: RuntimeConfig> FullLoadingStrategy<RC> for DenseLoading {
    type TilingLayout = ContiguousTilingLayout<Order>;
    type SyncStrategy = Synchronous;
    type Stage = StridedStageFamily;
    type Job<EG: Numeric, NG: Size, ES: Numeric, NS: Size> = DenseJob;

    fn new_job<EG: Numeric, NG: Size, ES: Numeric, NS: Size>(
        _runtime_config: RC,
        #[comptime] config: GlobalReaderConfig,
    ) -> DenseJob {
        let plane = PlaneFlowPartition::new(config.plane_flow_config.partition_rule)
            .load_index(config.input_load_flow);
        let vector = NG::value().comptime() as u32;
        let stage = config.smem_config;
        let first = (plane * config.plane_dim + UNIT_POS_X) * vector;
        let column = comptime!(elements_per_tile_column(stage));
        let width = comptime!(stage.elements_per_tile_along_col);
        DenseJob {
            first,
            row: first % column / width,
            column: first / column * width + first % width,
            round: comptime!(config.loading_units_count() * vector),
            stage,
        }
    }
}

/// A unit's share of the stage.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct DenseJob {
    /// Its first element, by the order of the stage.
    first: u32,
    /// Where that lies in the matrix that is staged.
    row: u32,
    column: u32,
    /// Elements that all units load at once.
    #[cube(comptime)]
    round: u32,
    #[cube(comptime)]
    stage: StageMemoryConfig,
}

#[cube]
impl<EG: Numeric, NG: Size, ES: Numeric, NS: Size>
    LoadingJob<EG, NG, ES, NS, ContiguousTilingLayout<Order>, Synchronous> for DenseJob
{
    type Stage = StridedStageFamily;

    fn execute_task(
        this: &mut Self,
        #[comptime] task_id: u32,
        global_iter: &GlobalIterator<Vector<EG, NG>>,
        stage: &mut StridedStageMemory<ES, NS, ContiguousTilingLayout<Order>>,
        _barrier: &(),
        #[comptime] _config: GlobalReaderConfig,
    ) {
        let (elements, round) = comptime!((this.stage.elements_per_stage(), this.round));
        if comptime!(elements.is_multiple_of(round)) {
            load_vector::<EG, NG, ES, NS>(&*this, task_id, global_iter, stage);
        } else {
            if this.first + comptime!(task_id * round) < elements {
                load_vector::<EG, NG, ES, NS>(&*this, task_id, global_iter, stage);
            }
        }
    }

    fn task_count(this: &Self) -> comptime_type!(u32) {
        comptime!(this.stage.elements_per_stage().div_ceil(this.round))
    }
}

/// Copies a unit's `nth` vector.
#[cube]
fn load_vector<EG: Numeric, NG: Size, ES: Numeric, NS: Size>(
    job: &DenseJob,
    #[comptime] nth: u32,
    global_iter: &GlobalIterator<Vector<EG, NG>>,
    stage: &mut StridedStageMemory<ES, NS, ContiguousTilingLayout<Order>>,
) {
    let column = comptime!(elements_per_tile_column(job.stage));
    let width = comptime!(job.stage.elements_per_tile_along_col);
    let ahead = comptime!(nth * job.round);
    let (rows, columns) = comptime!((ahead % column / width, ahead / column * width));
    let place = (job.row + rows, job.column + columns);
    let vector = global_iter.view().read_checked(place);
    let at = Place {
        element: job.first,
        ahead,
    };
    store::<ES, NS, ContiguousTilingLayout<Order>>(stage, at, Vector::cast_from(vector));
}

/// Returns the elements of a column of tiles, which lie side by side: row after row of all of them.
fn elements_per_tile_column(stage: StageMemoryConfig) -> u32 {
    stage.tiles_per_stage_along_row() * stage.elements_per_tile()
}
