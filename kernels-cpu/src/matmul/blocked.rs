//! The product for many rows.
//!
//! The rows of `x` are taken up to [`MAX_ROWS`] at a time, and packed once. Then every task decodes some neighbouring
//! panels of the right-hand matrix, a part of the sum at a time, into scratch that stays in the L2 cache and multiplies
//! all packed rows by them; the sums, in f32, stay there too until they are complete and go to the output. A decoded weight serves all those
//! rows, so that from some 30 rows on the arithmetic bounds the time.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::Threads;
use super::pack::Tiles;
use super::panel::{Panels, Place};
use super::precision::Precision;
use super::scratch::Scratch;
use super::tile::multiply;
use crate::element::Element;
use crate::simd::{Isa, Level, Portable, Simd, kernel};

/// Rows of `x` that a decoded panel serves at most.
pub(super) const MAX_ROWS: usize = 1024;

/// Most words of the panels and most of the sums of a task: 256 KiB each, together half of an L2 cache of 1 MiB.
const MAX_SCRATCH: usize = 64 * 1024;

/// Most vectors of a register tile.
const MAX_TILE: usize = 24;

/// Where a product goes.
pub(super) enum Destination<'a, E> {
    /// Values that need not exist yet: each of them is written.
    New(&'a mut [MaybeUninit<E>]),
    /// Values that the product is added to.
    Sum(&'a mut [E]),
}

/// Most rows and most vectors of the register tile.
fn tile_size(isa: Isa) -> [usize; 2] {
    fn of<S: Simd>() -> [usize; 2] {
        [S::TILE_ROWS, S::TILE_VECTORS]
    }
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 => of::<crate::simd::Avx512<true>>(),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => of::<crate::simd::Avx512<false>>(),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => of::<crate::simd::Avx2>(),
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        Level::Neon => of::<crate::simd::Neon>(),
        Level::Portable => of::<Portable>(),
    }
}

/// Rows of the register tile for `m` rows: as many as it has or fewer, so that tiles are equally full.
pub(super) fn tile_rows(isa: Isa, m: usize) -> usize {
    let [most, _] = tile_size(isa);
    m.div_ceil(m.div_ceil(most).max(1)).max(1)
}

/// One product of a sum of products.
pub(super) struct Term<'a, P, W> {
    pub(super) x: Tiles<'a, P>,
    pub(super) w: W,
}

/// `y = x·W`, or `y = x·W + x'·W'` with a second term; `y: [m, outer]` for the `m` rows that were packed.
pub(super) fn product<P: Precision, W: Panels, L: Panels, E: Element>(
    isa: Isa,
    first: &Term<'_, P, W>,
    second: Option<&Term<'_, P, L>>,
    y: Destination<'_, E>,
    threads: Threads,
) {
    let outer = first.w.outer();
    let [_, most_vectors] = tile_size(isa);
    let vectors = outer.div_ceil(16).min(most_vectors);
    let width = 16 * vectors;
    let panels = outer.div_ceil(width);
    let (rows, tiles) = (first.x.rows(), first.x.count());
    let most = (MAX_SCRATCH / first.x.panel_words(width))
        .min(MAX_SCRATCH / (tiles * rows * width))
        .max(1);
    // Several panels a task read `x` fewer times; as many tasks for each thread keep all of them busy to the end. Where
    // there are fewer panels than threads, the rows are divided too.
    let workers = match threads {
        Threads::All => rayon::current_num_threads(),
        Threads::One => 1,
    };
    let columns = (workers * panels.div_ceil(workers * most)).min(panels);
    let bands = workers.div_ceil(panels).min(tiles);
    let y = Output::new(y, outer);
    // Sums of a single part of a single product go to the output as they are.
    let kept = second.is_some() || first.x.parts().count() > 1;
    let task = |task: usize| {
        let (column, band) = (task / bands, task % bands);
        let region = Region {
            panels: column * panels / columns..(column + 1) * panels / columns,
            tiles: band * tiles / bands..(band + 1) * tiles / bands,
            rows,
            vectors,
        };
        let values = region.panels.len() * region.tiles.len() * rows * width;
        let mut sums = Scratch::new(if kept { values } else { 0 });
        let first_y = second.is_none().then_some(y);
        add_term(isa, first.x, first.w, &region, false, &mut sums, first_y);
        if let Some(second) = second {
            add_term(isa, second.x, second.w, &region, true, &mut sums, Some(y));
        }
    };
    match threads {
        Threads::All => (0..columns * bands)
            .into_par_iter()
            .with_max_len(1)
            .for_each(task),
        Threads::One => (0..columns * bands).for_each(task),
    }
}

/// What one task computes: some neighbouring panels for some tiles of `x`.
struct Region {
    panels: Range<usize>,
    tiles: Range<usize>,
    /// Rows of a tile.
    rows: usize,
    /// Vectors that a panel is wide.
    vectors: usize,
}

kernel! {
    /// Adds tiles of `x` times panels of `w` to `sums: [panel][tile][rows][vectors][16]`, or puts it there; with `y`,
    /// the sums are then complete and go to their place in it. Without sums there is nothing to add to.
    fn add_term<P: Precision, W: Panels, E: Element>(
        x: Tiles<'_, P>,
        w: W,
        region: &Region,
        accumulate: bool,
        sums: &mut [u32],
        y: Option<Output<E>>,
    ) = add;
}

#[inline(always)]
fn add<S: Simd, P: Precision, W: Panels, E: Element>(
    s: S,
    x: Tiles<'_, P>,
    w: W,
    region: &Region,
    accumulate: bool,
    sums: &mut [u32],
    y: Option<Output<E>>,
) {
    let &Region { rows, vectors, .. } = region;
    let (sums, _) = sums.as_chunks_mut::<16>();
    let per_panel = sums.len() / region.panels.len();
    let mut tile_sums = [[0; 16]; MAX_TILE];
    for (start, depth) in x.parts() {
        let words = depth.div_ceil(P::STEPS);
        let mut scratch = Scratch::new(region.panels.len() * words * vectors * 16);
        let (decoded, _) = scratch.as_chunks_mut::<16>();
        let panels = decoded.chunks_exact_mut(words * vectors);
        for (panel, out) in region.panels.clone().zip(panels) {
            let place = Place {
                column: panel * 16 * vectors,
                vectors,
                start,
                depth,
            };
            w.decode::<S, P>(s, place, out);
        }
        let accumulate = accumulate || start > 0;
        let y = y.filter(|_| start + depth == x.inner());
        for (i, tile) in region.tiles.clone().enumerate() {
            let x = x.part(tile, start, depth);
            let panels = decoded.chunks_exact(words * vectors);
            for (j, (panel, weights)) in region.panels.clone().zip(panels).enumerate() {
                let sums = match per_panel {
                    0 => &mut tile_sums[..rows * vectors],
                    _ => &mut sums[j * per_panel + i * rows * vectors..][..rows * vectors],
                };
                multiply::<S, P>(s, x, weights, sums, [rows, vectors], accumulate);
                if let Some(y) = y {
                    write(s, sums, [tile * rows, panel * 16 * vectors], vectors, y);
                }
            }
        }
    }
}

/// Writes the sums of a tile to their place in `y`, as far as it has rows and columns there.
#[inline(always)]
fn write<S: Simd, E: Element>(
    s: S,
    sums: &[[u32; 16]],
    [row, column]: [usize; 2],
    vectors: usize,
    y: Output<E>,
) {
    for (row, sums) in (row..y.rows()).zip(sums.chunks_exact(vectors)) {
        // SAFETY: the regions of different tasks do not overlap, and `y` outlives the tasks.
        let to = unsafe { y.columns(row, column, 16 * vectors) };
        for (to, sums) in to.chunks_mut(16).zip(sums) {
            let sums = s.float(s.load_u(sums));
            match <&mut [_; 16]>::try_from(&mut *to) {
                Ok(to) => put(s, to, sums, y.adds),
                Err(_) => {
                    let mut whole = [MaybeUninit::new(E::default()); 16];
                    whole[..to.len()].copy_from_slice(to);
                    put(s, &mut whole, sums, y.adds);
                    to.copy_from_slice(&whole[..to.len()]);
                }
            }
        }
    }
}

/// Writes sums, or adds them to values that are there.
#[inline(always)]
fn put<S: Simd, E: Element>(s: S, to: &mut [MaybeUninit<E>; 16], mut total: S::F, adds: bool) {
    if adds {
        // SAFETY: an output that is added to was made of values.
        let before = to.map(|value| unsafe { value.assume_init() });
        total = s.add(E::load_16(s, &before), total);
    }
    *to = E::round_16(s, total).map(MaybeUninit::new);
}

/// An output matrix that several threads write disjoint parts of.
pub(crate) struct Output<E> {
    start: *mut MaybeUninit<E>,
    len: usize,
    stride: usize,
    /// Whether there are values, and what is written is added to them.
    adds: bool,
}

impl<E> Clone for Output<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Output<E> {}

// SAFETY: every access goes through `columns`, whose callers keep the threads apart.
unsafe impl<E: Send> Send for Output<E> {}
// SAFETY: as above.
unsafe impl<E: Send> Sync for Output<E> {}

impl<E> Output<E> {
    /// A view of `y`, whose rows are `stride` long.
    fn new(y: Destination<'_, E>, stride: usize) -> Self {
        let (start, len, adds) = match y {
            Destination::New(y) => (y.as_mut_ptr(), y.len(), false),
            Destination::Sum(y) => (y.as_mut_ptr().cast(), y.len(), true),
        };
        Self {
            start,
            len,
            stride,
            adds,
        }
    }

    fn rows(self) -> usize {
        self.len / self.stride
    }

    /// Up to `width` elements of a row from `column` on, as many as the row has.
    ///
    /// # Safety
    /// `y` is still borrowed, the row exists, and no other thread touches these elements meanwhile.
    #[inline(always)]
    unsafe fn columns<'a>(
        self,
        row: usize,
        column: usize,
        width: usize,
    ) -> &'a mut [MaybeUninit<E>] {
        let len = self.stride.saturating_sub(column).min(width);
        let at = row * self.stride + column.min(self.stride);
        debug_assert!(at + len <= self.len);
        // SAFETY: the row exists and the columns were cut to it; the caller owns them.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
