//! The loader that decodes a weight into the stage of the right operand.
//!
//! A unit takes a run of a row of the weight: 32 elements (16 of codes of 8 bits), which it reads with one load of 128 bits, or
//! 8. It looks their scale up once, decodes them, and writes them to shared memory in vectors of the stage.

use std::marker::PhantomData;

use cubecl::ir::{DeviceProperties, ElemType, VectorSize};
use cubecl::prelude::*;
use cubek_matmul::definition::{MatmulElems, MatmulProblem};
use cubek_matmul::multi_level::components::global::memory::GlobalIterator;
use cubek_matmul::multi_level::components::global::multi_stage::LoadMaxRoundPlaneCount;
use cubek_matmul::multi_level::components::global::read::sync::Synchronous;
use cubek_matmul::multi_level::components::global::read::{
    FullLoadingStrategy, LoadingJob, LoadingValidation, validate_swizzle_atom_size,
};
use cubek_matmul::multi_level::components::global::{GlobalReaderConfig, PlaneFlowPartition};
use cubek_matmul::multi_level::stage::{StageMemoryConfig, StridedStageFamily, StridedStageMemory};
use cubek_matmul::multi_level::tile::{
    ContiguousTilingLayout, RowMajorTilingOrder, TilingOrder, TilingValidation,
};
use cubek_std::{InvalidConfigError, MatrixLayout, StageIdent};

use super::stored::{Place, store};
use super::straddling::{TwoBlocks, codes_from};
use crate::decode::{fill_table, value_of};
use crate::format::CodeFormat;
use crate::scales::{Scales, minimum_of, scale_of, scaled};

/// The most elements of a word. A line of the stage and a unit's share of it are whole runs of so many, and of fewer too.
const WORD: usize = 8;

/// Elements that a unit decodes before it stores them: all 32 at once would take registers that ptxas then spills.
const DECODED: usize = 16;

/// Units that store 128 bits each to shared memory at the same time.
const STORING: u32 = 8;

/// The run of a weight's row that a unit loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct WeightLoad {
    /// Rows begin on a word, so that a run is whole words.
    pub(super) whole_words: bool,
    /// Elements from one lookup of the scale to the next.
    pub(super) block: usize,
}

/// A weight as the loader reads it, `W` words at a time.
#[derive(CubeType, CubeLaunch, Clone)]
#[expand(derive(Clone))]
pub(super) struct PackedWeight<W: Size> {
    pub(super) packed: Box<[Vector<u32, W>]>,
    pub(super) scales: Scales,
    #[cube(comptime)]
    pub(super) codes: CodeFormat,
    #[cube(comptime)]
    pub(super) load: WeightLoad,
}

/// cubek's name for its own order of tiles in the stage of a right operand.
type Order = RowMajorTilingOrder;

/// Loads the whole stage, every plane its share.
#[derive(CubeType, Clone, Copy)]
pub(super) struct DecodingLoading<W: Size> {
    #[cube(comptime)]
    _words: PhantomData<W>,
}

impl<W: Size> LoadingValidation for DecodingLoading<W> {
    fn validate_with_config(
        _device_props: &DeviceProperties,
        config: &GlobalReaderConfig,
    ) -> Result<(), InvalidConfigError> {
        let stage = config.smem_config;
        let line = stage.elements_per_stage_along_contiguous_dim() as usize;
        let run = WORD * W::try_value_const().unwrap_or(1);
        if !line.is_multiple_of(run) {
            return Err(Box::new(format!(
                "a line of the stage has {line} elements, which is no multiple of {run}"
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

impl<W: Size> LoadMaxRoundPlaneCount for DecodingLoading<W> {
    fn max_round_plane_count(
        elements_per_tile: u32,
        tiles_per_stage: u32,
        _vector_size: VectorSize,
        plane_dim: u32,
        _dtype: ElemType,
    ) -> u32 {
        let run = (WORD * W::try_value_const().unwrap_or(1)) as u32;
        (elements_per_tile * tiles_per_stage / run).div_ceil(plane_dim)
    }
}

#[cube]
impl<W: Size> FullLoadingStrategy<PackedWeight<W>> for DecodingLoading<W> {
    type TilingLayout = ContiguousTilingLayout<Order>;
    type SyncStrategy = Synchronous;
    type Stage = StridedStageFamily;
    type Job<EG: Numeric, NG: Size, ES: Numeric, NS: Size> = DecodingJob<W>;

    /// Fills the table of values: the job must be made once, ahead of a barrier, as a precomputed one is.
    fn new_job<EG: Numeric, NG: Size, ES: Numeric, NS: Size>(
        weight: PackedWeight<W>,
        #[comptime] config: GlobalReaderConfig,
    ) -> DecodingJob<W> {
        let mut table = Shared::<[f32]>::new_slice(16usize);
        fill_table(&mut table, comptime!(weight.codes));
        let plane = PlaneFlowPartition::new(config.plane_flow_config.partition_rule)
            .load_index(config.input_load_flow);
        DecodingJob::<W> {
            weight,
            table,
            unit: plane * config.plane_dim + UNIT_POS_X,
            config,
        }
    }
}

/// A unit's share of the stage.
#[derive(CubeType, Clone)]
#[expand(derive(Clone))]
pub(super) struct DecodingJob<W: Size> {
    weight: PackedWeight<W>,
    table: Shared<[f32]>,
    unit: u32,
    #[cube(comptime)]
    config: GlobalReaderConfig,
}

#[cube]
impl<EG: Numeric, NG: Size, ES: Numeric, NS: Size, W: Size>
    LoadingJob<EG, NG, ES, NS, ContiguousTilingLayout<Order>, Synchronous> for DecodingJob<W>
{
    type Stage = StridedStageFamily;

    fn execute_task(
        this: &mut Self,
        #[comptime] task_id: u32,
        global_iter: &GlobalIterator<Vector<EG, NG>>,
        stage: &mut StridedStageMemory<ES, NS, ContiguousTilingLayout<Order>>,
        _barrier: &(),
        #[comptime] config: GlobalReaderConfig,
    ) {
        let units = config.loading_units_count();
        let run_elements = comptime!(this.weight.codes.per_word() * W::value());
        let runs = comptime!(config.smem_config.elements_per_stage() / run_elements as u32);
        let run = this.unit + comptime!(task_id * units);
        if comptime!(runs.is_multiple_of(units)) {
            load_run::<EG, NG, ES, NS, W>(&*this, run, global_iter, stage, config);
        } else {
            if run < runs {
                load_run::<EG, NG, ES, NS, W>(&*this, run, global_iter, stage, config);
            }
        }
    }

    fn task_count(this: &Self) -> comptime_type!(u32) {
        let config = this.config;
        let codes = this.weight.codes;
        comptime!(
            (config.smem_config.elements_per_stage() / (codes.per_word() * W::value()) as u32)
                .div_ceil(config.loading_units_count())
        )
    }
}

/// Decodes the `run`-th run of the stage, line by line.
#[cube]
fn load_run<EG: Numeric, NG: Size, ES: Numeric, NS: Size, W: Size>(
    job: &DecodingJob<W>,
    run: u32,
    global_iter: &GlobalIterator<Vector<EG, NG>>,
    stage: &mut StridedStageMemory<ES, NS, ContiguousTilingLayout<Order>>,
    #[comptime] reader: GlobalReaderConfig,
) {
    let config = comptime!(reader.smem_config);
    let codes = comptime!(job.weight.codes);
    let (per_word, bits) = comptime!((codes.per_word(), codes.bits()));
    let elements = comptime!(per_word * W::value());
    let (line, start) = place_of_run(run, elements, config);

    if comptime!(job.weight.load.whole_words) {
        let (first, in_bounds) = element_at::<EG, NG, W>(job, global_iter, line, start, reader);
        let words = job.weight.packed[(first / comptime!(elements as u32)) as usize];
        let part = comptime!(elements.min(DECODED));
        let mut scale = f32::new(0.0);
        let mut minimum = f32::new(0.0);
        #[unroll]
        for p in 0..comptime!(elements / part) {
            let mut values = Array::<f32>::new(part);
            #[unroll]
            for v in 0..part {
                let i = comptime!(p * part + v);
                if comptime!(i.is_multiple_of(job.weight.load.block)) {
                    let element = first + comptime!(i as u32);
                    scale = scale_in_bounds(&job.weight.scales, element, in_bounds);
                    if comptime!(codes.has_minima()) {
                        minimum = minimum_in_bounds(&job.weight.scales, element, in_bounds);
                    }
                }
                let code = words.extract(comptime!(i / per_word))
                    >> comptime!((bits * (i % per_word)) as u32);
                let value = value_of(&job.table, code, codes);
                values[v] = scaled(value, scale, minimum, codes);
            }
            store_values::<ES, NS>(
                stage,
                &values,
                line,
                start,
                comptime!(p * part),
                part,
                config,
            );
        }
    } else {
        let (first, _) = element_at::<EG, NG, W>(job, global_iter, line, start, reader);
        let word = codes_from(&job.weight, first);
        let scales = TwoBlocks::scales(&job.weight, first);
        let minima = TwoBlocks::minima(&job.weight, first);
        let mut values = Array::<f32>::new(elements);
        #[unroll]
        for i in 0..elements {
            let code = word >> comptime!((bits * i) as u32);
            let along = start + comptime!(i as u32);
            let in_bounds = is_in_bounds::<EG, NG>(global_iter, line, along, config);
            let scale = select(in_bounds, scales.of(comptime!(i as u32)), f32::new(0.0));
            let mut minimum = f32::new(0.0);
            if comptime!(codes.has_minima()) {
                minimum = select(in_bounds, minima.of(comptime!(i as u32)), f32::new(0.0));
            }
            let value = value_of(&job.table, code, codes);
            values[i] = scaled(value, scale, minimum, codes);
        }
        store_values::<ES, NS>(stage, &values, line, start, 0usize, elements, config);
    }
}

/// Writes so many values to the stage, `ahead` elements after element `start` of a line, where a unit's run begins.
#[cube]
fn store_values<ES: Numeric, NS: Size>(
    stage: &mut StridedStageMemory<ES, NS, ContiguousTilingLayout<Order>>,
    values: &Array<f32>,
    line: u32,
    start: u32,
    #[comptime] ahead: usize,
    #[comptime] elements: usize,
    #[comptime] config: StageMemoryConfig,
) {
    let vector = NS::value().comptime();
    #[unroll]
    for v in 0..comptime!(elements / vector) {
        let mut staged = Vector::<f32, NS>::zeroed();
        #[unroll]
        for i in 0..vector {
            staged.insert(i, values[comptime!(v * vector + i)]);
        }
        let place = place_in_stage(line, start, comptime!((ahead + v * vector) as u32), config);
        store::<ES, NS, ContiguousTilingLayout<Order>>(stage, place, Vector::cast_from(staged));
    }
}

/// Returns the line of the stage that the `run`-th run of so many elements is of, and where in the line it begins.
///
/// Units that store to shared memory at the same time, eight of a plane, take the same run of neighbouring lines, which lie
/// in different banks, where runs of one line lie in the same. The units after them take the next run, so that the words of a
/// line are loaded together.
#[cube]
fn place_of_run(
    run: u32,
    #[comptime] elements: usize,
    #[comptime] config: StageMemoryConfig,
) -> (u32, u32) {
    let line_elements = config.elements_per_stage_along_contiguous_dim();
    let lines = comptime!(config.elements_per_stage() / line_elements);
    let runs = comptime!(line_elements / elements as u32);
    let group = comptime!(if elements > WORD && lines.is_multiple_of(STORING) {
        STORING
    } else {
        1
    });
    let line = run / comptime!(group * runs) * group + run % group;
    let nth = run / group % runs;
    (line, nth * comptime!(elements as u32))
}

/// Returns whether the matrix has an element at a place of the stage.
#[cube]
fn is_in_bounds<EG: Numeric, NG: Size>(
    global_iter: &GlobalIterator<Vector<EG, NG>>,
    line: u32,
    along: u32,
    #[comptime] config: StageMemoryConfig,
) -> bool {
    let place = match config.matrix_layout {
        MatrixLayout::RowMajor => (line, along),
        MatrixLayout::ColMajor => (along, line),
    };
    global_iter.view().is_in_bounds(place)
}

/// Returns the first element of the run of the flattened matrix at a place of the stage, and whether its row of the product is one
/// of the matrix; else element 0. Of columns that the matrix has not, which nobody writes, it is any run of the matrix.
#[cube]
fn element_at<EG: Numeric, NG: Size, W: Size>(
    job: &DecodingJob<W>,
    global_iter: &GlobalIterator<Vector<EG, NG>>,
    line: u32,
    along: u32,
    #[comptime] config: GlobalReaderConfig,
) -> (u32, bool) {
    let place = match config.smem_config.matrix_layout {
        MatrixLayout::RowMajor => (line, along),
        MatrixLayout::ColMajor => (along, line),
    };
    let view = global_iter.view();
    let in_bounds = view.is_in_bounds(place);
    let mut element = u32::cast_from(view.read_unchecked(place).extract(0usize));
    if comptime!(config.gmem_config.check_col_bounds) {
        let run = comptime!((job.weight.codes.per_word() * W::value()) as u32);
        let end = job.weight.packed.len() as u32 * run;
        // The last run, or the last element where a run may begin with any.
        let last = comptime!(if job.weight.load.whole_words { run } else { 1 });
        element = min(element, end - last);
    }
    (select(in_bounds, element, 0u32), in_bounds)
}

/// Returns the scale of an element; 0 where there is none, for no code stands for 0 in every codebook.
#[cube]
fn scale_in_bounds(scales: &Scales, element: u32, in_bounds: bool) -> f32 {
    select(in_bounds, scale_of(scales, element), f32::new(0.0))
}

/// Returns the minimum of the block of an element; 0 where there is none.
#[cube]
fn minimum_in_bounds(scales: &Scales, element: u32, in_bounds: bool) -> f32 {
    select(in_bounds, minimum_of(scales, element), f32::new(0.0))
}

/// Returns the place of an element of a line in a stage of contiguous tiles, `ahead` after element `start`, which begins a vector.
#[cube]
fn place_in_stage(
    line: u32,
    start: u32,
    #[comptime] ahead: u32,
    #[comptime] config: StageMemoryConfig,
) -> Place {
    let width = config.elements_per_tile_along_contiguous_dim();
    let height = comptime!(config.elements_per_tile() / width);
    // A run of several tiles begins with one.
    let tiles = comptime!(ahead / width);
    let along = start + comptime!(ahead % width);
    let tile = match config.matrix_layout {
        MatrixLayout::RowMajor => (line / height, along / width),
        MatrixLayout::ColMajor => (along / width, line / height),
    };
    let nth = Order::to_nth_tile(
        tile,
        config.tiles_per_stage_along_row(),
        config.tiles_per_stage_along_col(),
        config,
    );
    let next_tile = match config.matrix_layout {
        MatrixLayout::RowMajor => 1,
        MatrixLayout::ColMajor => config.tiles_per_stage_along_col(),
    };
    Place {
        element: nth * config.elements_per_tile() + (line % height) * width + along % width,
        ahead: comptime!(tiles * next_tile * config.elements_per_tile()),
    }
}
