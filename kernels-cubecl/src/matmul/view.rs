//! The words of a weight as a view of decoded elements, in the flattened order of the matrix.

use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;
use cubecl::std::tensor::{ViewOperations, ViewOperationsExpand, layout::Coords1d};
use std::marker::PhantomData;

use crate::decode::{Words, scale_of};

/// Decodes vectors of 1, 2, 4 or 8 elements; coordinate `i` is the `i`-th vector of the flattened matrix.
#[expect(dead_code, reason = "read where the kernel is expanded only")]
#[derive(CubeType)]
pub(super) struct DecodedWeight<E: CubePrimitive> {
    words: Words,
    table: Shared<[f32]>,
    #[cube(comptime)]
    _element: PhantomData<E>,
}

#[cube]
impl<E: CubePrimitive> DecodedWeight<E> {
    pub(super) fn new(words: Words, table: Shared<[f32]>) -> Self {
        DecodedWeight::<E> {
            words,
            table,
            _element: comptime!(PhantomData),
        }
    }
}

/// The vector at `position`; zeros where there is none.
///
/// A checked view reads first and selects afterwards, so what lies outside must be readable (the index
/// is clamped) and must not count (the scale is 0: code 0 is -1, so zeroed words would).
#[cube]
fn decode_vector<E: CubePrimitive>(
    words: &Words,
    table: &Shared<[f32]>,
    position: usize,
    in_bounds: bool,
) -> E {
    let size = E::vector_size();
    let first = select(in_bounds, position as u32 * comptime!(size as u32), 0u32);
    let scale = select(in_bounds, scale_of(&words.scales, first), f32::new(0.0));
    let word = words.packed[(first >> 3) as usize] >> ((first & 7) * 4);
    let mut values = Vector::<f32, E::Size>::zeroed();
    #[unroll]
    for i in 0..size {
        let code = (word >> comptime!(4 * i as u32)) & 15;
        values.insert(i, table[code as usize] * scale);
    }
    E::cast_from(values)
}

/// How many vectors the words hold.
#[cube]
fn stored<E: CubePrimitive>(words: &Words) -> usize {
    words.packed.len() * 8 / E::vector_size()
}

impl<E: CubePrimitive> Vectorized for DecodedWeight<E> {}
impl<E: CubePrimitive> VectorizedExpand for DecodedWeightExpand<E> {
    fn __expand_vector_size_method(&self, scope: &Scope) -> VectorSize {
        E::__expand_vector_size(scope)
    }
}

impl<E: CubePrimitive> ViewOperations<E, Coords1d> for DecodedWeight<E> {}
impl<E: CubePrimitive> ViewOperationsExpand<E, Coords1d> for DecodedWeightExpand<E> {
    fn __expand_read_method(&self, scope: &Scope, pos: NativeExpand<usize>) -> E::ExpandType {
        self.__expand_read_unchecked_method(scope, pos)
    }

    fn __expand_read_checked_method(
        &self,
        scope: &Scope,
        pos: NativeExpand<usize>,
    ) -> E::ExpandType {
        let in_bounds = self.__expand_is_in_bounds_method(scope, pos);
        decode_vector::expand::<E>(scope, &self.words, &self.table, pos, in_bounds)
    }

    fn __expand_read_masked_method(
        &self,
        scope: &Scope,
        pos: NativeExpand<usize>,
        value: E::ExpandType,
    ) -> E::ExpandType {
        let in_bounds = self.__expand_is_in_bounds_method(scope, pos);
        let read = decode_vector::expand::<E>(scope, &self.words, &self.table, pos, in_bounds);
        select::expand::<E>(scope, in_bounds, read, value)
    }

    fn __expand_read_unchecked_method(
        &self,
        scope: &Scope,
        pos: NativeExpand<usize>,
    ) -> E::ExpandType {
        let in_bounds = true.into();
        decode_vector::expand::<E>(scope, &self.words, &self.table, pos, in_bounds)
    }

    fn __expand_as_linear_slice_method(
        &self,
        _scope: &Scope,
        _pos: NativeExpand<usize>,
        _end: NativeExpand<usize>,
    ) -> &SliceExpand<E> {
        unreachable!("a packed weight has no slice of elements; only copying loaders ask for one")
    }

    fn __expand_tensor_map_load_method(
        &self,
        _scope: &Scope,
        _barrier: &NativeExpand<Barrier>,
        _shared_memory: &mut SliceExpand<E>,
        _pos: NativeExpand<usize>,
    ) {
        unreachable!("a packed weight has no tensor map; only TMA loaders ask for one")
    }

    fn __expand_shape_method(&self, scope: &Scope) -> NativeExpand<usize> {
        stored::expand::<E>(scope, &self.words)
    }

    fn __expand_is_in_bounds_method(
        &self,
        scope: &Scope,
        pos: NativeExpand<usize>,
    ) -> NativeExpand<bool> {
        pos.__expand_lt_method(scope, &stored::expand::<E>(scope, &self.words))
    }
}
