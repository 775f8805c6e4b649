//! Writing to a stage of shared memory, by its swizzle.

use cubecl::prelude::*;
use cubek_matmul::multi_level::stage::StridedStageMemory;
use cubek_matmul::multi_level::tile::TilingLayout;

/// A place of the stage, in elements before the swizzle.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct Place {
    pub(super) element: u32,
    /// Elements from there on.
    #[cube(comptime)]
    pub(super) ahead: u32,
}

/// Writes a vector to a place of the stage.
///
/// A swizzle repeats itself: places that are whole periods apart stay so. The constant part of a place is added as such after the
/// swizzle, so that the compiler sees it and keeps one address for all of them.
#[cube]
pub(super) fn store<ES: Numeric, NS: Size, T: TilingLayout>(
    stage: &mut StridedStageMemory<ES, NS, T>,
    place: Place,
    value: Vector<ES, NS>,
) {
    let vector = NS::value().comptime();
    let swizzle = stage.swizzle;
    let element_bytes = ES::size();
    let period = swizzle.repeats_after();
    let period = comptime!((period / element_bytes as u32).max(1));
    let in_period = comptime!(place.ahead % period);
    let at = swizzle.apply(place.element + in_period, element_bytes) as usize / vector;
    let slice = stage.as_slice_mut::<NS>();
    slice[at + comptime!((place.ahead - in_period) as usize / vector)] = value;
}
