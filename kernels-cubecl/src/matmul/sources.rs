//! The sources behind the views that cubek reads its operands through.
//!
//! Neither knows bounds: those of rows and columns are checked, where a tile can exceed them at all, by the layout in
//! front, which reads first and selects afterwards. cubek's own sources compare with the end of the buffer as well and
//! select every element once more; here the index is clamped.

use std::marker::PhantomData;

use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;
use cubecl::std::tensor::layout::Coords1d;
use cubecl::std::tensor::{ViewOperations, ViewOperationsExpand};

/// A dense operand, by vectors.
#[allow(dead_code, reason = "read where the kernel is expanded only")]
#[derive(CubeType)]
pub(super) struct Elements<E: CubePrimitive> {
    elements: Box<[E]>,
    last: usize,
}

#[cube]
impl<E: CubePrimitive> Elements<E> {
    /// Returns a source whose last vector is at position `last`.
    pub(super) fn new(elements: Box<[E]>, last: usize) -> Self {
        Elements::<E> { elements, last }
    }

    #[allow(dead_code, reason = "called where the kernel is expanded only")]
    fn at(&self, position: usize) -> E {
        self.elements[min(position, self.last)]
    }

    #[allow(dead_code, reason = "called where the kernel is expanded only")]
    fn vector(&self) -> comptime_type!(VectorSize) {
        E::vector_size()
    }
}

/// The flattened matrix, where the value at a position is that position.
///
/// A loader that reads words rather than elements learns from it which element a coordinate of its tile is. It says
/// that its vectors are as long as those of the stage, for cubek takes the stage's from its view.
#[allow(dead_code, reason = "read where the kernel is expanded only")]
#[derive(CubeType)]
pub(super) struct Positions<E: CubePrimitive> {
    #[cube(comptime)]
    stage_vector: VectorSize,
    #[cube(comptime)]
    _element: PhantomData<E>,
}

#[cube]
impl<E: CubePrimitive> Positions<E> {
    pub(super) fn new(#[comptime] stage_vector: VectorSize) -> Self {
        Positions::<E> {
            stage_vector,
            _element: comptime!(PhantomData),
        }
    }

    #[allow(dead_code, reason = "called where the kernel is expanded only")]
    fn at(&self, position: usize) -> E {
        E::cast_from(Vector::<u32, E::Size>::new(position as u32))
    }

    #[allow(dead_code, reason = "called where the kernel is expanded only")]
    fn vector(&self) -> comptime_type!(VectorSize) {
        self.stage_vector
    }
}

macro_rules! view_without_bounds {
    ($source:ident, $expand:ident) => {
        impl<E: CubePrimitive> Vectorized for $source<E> {}
        impl<E: CubePrimitive> VectorizedExpand for $expand<E> {
            fn __expand_vector_size_method(&self, scope: &Scope) -> VectorSize {
                self.__expand_vector_method(scope)
            }
        }

        impl<E: CubePrimitive> ViewOperations<E, Coords1d> for $source<E> {}
        impl<E: CubePrimitive> ViewOperationsExpand<E, Coords1d> for $expand<E> {
            fn __expand_read_method(
                &self,
                scope: &Scope,
                pos: NativeExpand<usize>,
            ) -> E::ExpandType {
                self.__expand_at_method(scope, pos)
            }

            fn __expand_read_checked_method(
                &self,
                scope: &Scope,
                pos: NativeExpand<usize>,
            ) -> E::ExpandType {
                self.__expand_at_method(scope, pos)
            }

            fn __expand_read_masked_method(
                &self,
                scope: &Scope,
                pos: NativeExpand<usize>,
                _value: E::ExpandType,
            ) -> E::ExpandType {
                self.__expand_at_method(scope, pos)
            }

            fn __expand_read_unchecked_method(
                &self,
                scope: &Scope,
                pos: NativeExpand<usize>,
            ) -> E::ExpandType {
                self.__expand_at_method(scope, pos)
            }

            fn __expand_as_linear_slice_method(
                &self,
                _scope: &Scope,
                _pos: NativeExpand<usize>,
                _end: NativeExpand<usize>,
            ) -> &SliceExpand<E> {
                unreachable!("only copying loaders ask for a slice")
            }

            fn __expand_tensor_map_load_method(
                &self,
                _scope: &Scope,
                _barrier: &NativeExpand<Barrier>,
                _shared_memory: &mut SliceExpand<E>,
                _pos: NativeExpand<usize>,
            ) {
                unreachable!("only TMA loaders ask for a tensor map")
            }

            fn __expand_shape_method(&self, _scope: &Scope) -> NativeExpand<usize> {
                usize::MAX.into()
            }

            fn __expand_is_in_bounds_method(
                &self,
                _scope: &Scope,
                _pos: NativeExpand<usize>,
            ) -> NativeExpand<bool> {
                true.into()
            }
        }
    };
}

view_without_bounds!(Elements, ElementsExpand);
view_without_bounds!(Positions, PositionsExpand);
