//! What every kernel of attention is given, and which keys a query sees.

use cubecl::prelude::*;

use super::grid::LanePart;
use super::scores::Scores;

/// The operands in a kernel with a cube for each batch and head.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Inputs<'a, F: Float, I: Int, N: Size> {
    pub(super) q: &'a [Vector<F, N>],
    pub(super) k: &'a [Vector<F, N>],
    pub(super) v: &'a [Vector<F, N>],
    pub(super) mask: Mask<'a, I>,
    pub(super) scores: Scores,
    #[cube(comptime)]
    pub(super) part: LanePart,
}

/// The keys that queries see.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Mask<'a, I: Int> {
    /// The first key of each query's sequence in packed rows.
    starts: ComptimeOption<&'a [I]>,
    pub(super) sizes: Sizes,
    /// Keys that a query sees, itself included, where it does not see all: at least 1, less than there are.
    window: ComptimeOption<u32>,
    // Tells instances apart: see `fused`.
    #[cube(comptime)]
    _present: Present,
}

/// Which of the operands that a kernel may lack there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Present {
    pub(super) starts: bool,
    pub(super) window: bool,
    pub(super) softcap: bool,
}

#[cube]
impl<'a, I: Int> Mask<'a, I> {
    /// Returns the first key that a query sees.
    pub(super) fn first(&self, query: u32) -> u32 {
        let in_window = self.window_start(query);
        #[comptime]
        match self.starts {
            ComptimeOption::Some(starts) => {
                let start = starts[(CUBE_POS_Z * self.sizes.q_len + query) as usize];
                let start = min(max(i32::cast_from(start), 0) as u32, self.sizes.own(query));
                max(start, in_window)
            }
            ComptimeOption::None => in_window,
        }
    }

    /// Returns the first key of a query's window.
    pub(super) fn window_start(&self, query: u32) -> u32 {
        #[comptime]
        match self.window {
            ComptimeOption::Some(window) => {
                let end = self.sizes.own(query) + 1;
                end - min(window, end)
            }
            ComptimeOption::None => 0u32.runtime(),
        }
    }

    /// Returns the end of the queries in whose window a key is.
    pub(super) fn window_end(&self, key: u32) -> u32 {
        #[comptime]
        match self.window {
            ComptimeOption::Some(window) => {
                let before = self.sizes.own(0);
                min(max(key + window, before) - before, self.sizes.q_len)
            }
            ComptimeOption::None => self.sizes.q_len,
        }
    }
}

/// The sizes of an attention in a kernel.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct Sizes {
    pub(super) q_len: u32,
    pub(super) heads: u32,
    pub(super) kv_len: u32,
    pub(super) kv_heads: u32,
}

#[cube]
impl Sizes {
    /// Returns the number of the row of scores of a query.
    pub(super) fn row(&self, query: u32, head: u32) -> u32 {
        (CUBE_POS_Z * self.q_len + query) * self.heads + head
    }

    /// Returns the number of the row of `k` and `v`.
    pub(super) fn key_row(&self, key: u32, kv_head: u32) -> u32 {
        (CUBE_POS_Z * self.kv_len + key) * self.kv_heads + kv_head
    }

    /// Returns the last key that a query sees, its own.
    pub(super) fn own(&self, query: u32) -> u32 {
        self.kv_len - self.q_len + query
    }
}

/// A query and what it sees.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Query {
    /// False in units beyond the last query, which stay and do the last one's work.
    pub(super) exists: bool,
    /// The number of its row of scores.
    pub(super) row: u32,
    pub(super) kv_head: u32,
    /// The first key that it sees.
    first: u32,
    /// The last key that it sees, its own.
    own: u32,
    /// The first key that any query of the cube sees, so that lanes go through them together; but for packed rows' starts.
    pub(super) begin: u32,
    /// The end of the keys that any query of the cube sees.
    pub(super) end: u32,
}

#[cube]
impl Query {
    /// Returns the query of the unit that asks, in a cube for each head.
    pub(super) fn new<F: Float, I: Int, N: Size>(inputs: &Inputs<'_, F, I, N>) -> Query {
        let sizes = inputs.mask.sizes;
        let asked = CUBE_POS_X * CUBE_DIM_Y + UNIT_POS_Y;
        let query = min(asked, sizes.q_len - 1);
        let head = CUBE_POS_Y;
        let last_of_cube = min((CUBE_POS_X + 1) * CUBE_DIM_Y, sizes.q_len) - 1;
        Query {
            exists: asked < sizes.q_len,
            row: sizes.row(query, head),
            kv_head: head / (sizes.heads / sizes.kv_heads),
            first: inputs.mask.first(query),
            own: sizes.own(query),
            begin: inputs.mask.window_start(CUBE_POS_X * CUBE_DIM_Y),
            end: sizes.own(last_of_cube) + 1,
        }
    }

    pub(super) fn sees(&self, key: u32) -> bool {
        key >= self.first && key <= self.own
    }
}
