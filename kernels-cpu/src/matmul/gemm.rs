//! The product for more than a few rows, in the loops of BLIS: packing of A, macro-kernel and micro-kernel.
//!
//! The rows of A are taken up to [`MC`] at a time, and packed once. Then every task packs some neighbouring micro-panels of
//! B, [`Precision::KC`] along k at a time, into a block that stays in the L2 cache, which for a quantized matrix is
//! where it is decoded, and multiplies all packed rows by it: the macro-kernel. The sums, in f32, stay in the cache too
//! until they are complete and go to C. A decoded weight serves all those rows, so that from some 30 rows on the
//! arithmetic bounds the time.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::output::{Output, SharedOutput};
use super::pack_b::{MatrixB, MicroPanel};
use super::packed_a::{PackedA, PackedARef, Packing};
use super::precision::Precision;
use super::scratch::Scratch;
use crate::cpu::Cpu;
use crate::element::Element;
use crate::simd::{Isa, Level, Portable, Simd, kernel};

/// Rows of A that are packed at a time.
pub(super) const MC: usize = 1024;

/// Most words of a task's block of B, and most of its sums: 256 KiB each, together half of an L2 cache of 1 MiB.
const BLOCK_WORDS: usize = 64 * 1024;

/// Most vectors of a micro-tile.
const MAX_TILE: usize = 24;

/// Words of packed A below which a product is so short that waking other threads costs more than they save: one packs A, and what
/// follows is for those that are awake.
const PARALLEL: usize = 1 << 15;

/// Returns the largest micro-tile, `[MR, NR]`.
fn largest_micro_tile(isa: Isa) -> [usize; 2] {
    fn of<S: Simd>() -> [usize; 2] {
        [S::MR, S::NR]
    }
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 => of::<crate::simd::Avx512<true>>(),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => of::<crate::simd::Avx512<false>>(),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => of::<crate::simd::Avx2>(),
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        Level::Neon => of::<crate::simd::Neon<false>>(),
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        Level::NeonDot => of::<crate::simd::Neon<true>>(),
        Level::Portable => of::<Portable>(),
    }
}

/// Returns the rows of the micro-tiles for `m` rows: as many as the largest has or fewer, so that all are equally full.
pub(super) fn mr(isa: Isa, m: usize) -> usize {
    let [most, _] = largest_micro_tile(isa);
    m.div_ceil(m.div_ceil(most).max(1)).max(1)
}

/// A product of the sum of products that a result is.
pub(super) struct Term<'a, P, B> {
    pub(super) a: PackedARef<'a, P>,
    pub(super) b: B,
}

/// The division of a result into micro-tiles, and of those among tasks.
#[derive(Clone, Copy)]
struct Blocking {
    mr: usize,
    nr: usize,
    /// Micro-panels of A, and of B.
    panels: [usize; 2],
    /// Parts that those are divided into.
    tasks: [usize; 2],
}

impl Blocking {
    fn new<P: Precision>(cpu: Cpu, packing: Packing<P>, a_panels: usize, n: usize) -> Self {
        let mr = packing.mr();
        let [_, most] = largest_micro_tile(cpu.isa);
        let nr = n.next_multiple_of(16).min(most);
        let b_panels = n.div_ceil(nr);
        let most = (BLOCK_WORDS / (packing.kc_words() * nr))
            .min(BLOCK_WORDS / (a_panels * mr * nr))
            .max(1);
        // Several micro-panels a task read A fewer times; as many tasks for each thread keep all of them busy to the end.
        // Where there are fewer micro-panels than threads, the rows are divided too.
        let threads = cpu.threads.count();
        Self {
            mr,
            nr,
            panels: [a_panels, b_panels],
            tasks: [
                threads.div_ceil(b_panels).min(a_panels),
                (threads * b_panels.div_ceil(threads * most)).min(b_panels),
            ],
        }
    }

    /// Returns the most words of B, of which a part is `k_words` long along k, and of sums that a task holds.
    fn task_words(&self, k_words: usize) -> usize {
        let [of_a, of_b] = self.tasks;
        let words = (0..of_a * of_b).map(|task| {
            let tile = self.macro_tile(task);
            tile.b_panels.len() * k_words * self.nr + tile.values()
        });
        words.max().unwrap_or(0)
    }

    fn macro_tile(&self, task: usize) -> MacroTile {
        let part = |which: usize, task: usize| {
            let (panels, tasks) = (self.panels[which], self.tasks[which]);
            task * panels / tasks..(task + 1) * panels / tasks
        };
        let [of_a, _] = self.tasks;
        MacroTile {
            a_panels: part(0, task % of_a),
            b_panels: part(1, task / of_a),
            mr: self.mr,
            nr: self.nr,
        }
    }
}

/// The part of a result that one task computes: some micro-panels of A times some neighbouring ones of B.
struct MacroTile {
    a_panels: Range<usize>,
    b_panels: Range<usize>,
    mr: usize,
    nr: usize,
}

impl MacroTile {
    fn values(&self) -> usize {
        self.a_panels.len() * self.mr * self.b_panels.len() * self.nr
    }
}

/// Multiplies packed rows: `C = A·B`.
pub(super) fn gemm<P: Precision, B: MatrixB, E: Element>(
    cpu: Cpu,
    a: PackedARef<'_, P>,
    b: B,
    c: Output<'_, E>,
) {
    gemm_sum::<P, B, P, B, E>(cpu, &Term { a, b }, None, c);
}

/// Multiplies packed rows and adds the products of the same rows with another matrix: `C = A·B + A'·B'`.
pub(super) fn gemm_sum<P: Precision, B: MatrixB, P2: Precision, B2: MatrixB, E: Element>(
    cpu: Cpu,
    first: &Term<'_, P, B>,
    second: Option<&Term<'_, P2, B2>>,
    c: Output<'_, E>,
) {
    let n = first.b.n();
    let blocking = Blocking::new(cpu, first.a.packing(), first.a.panels(), n);
    let c = SharedOutput::new(c, n);
    // Sums of a single part of a single product go to the output as they are.
    let kept = second.is_some() || first.a.packing().parts().len() > 1;
    let [of_a, of_b] = blocking.tasks;
    let run = |task| {
        let tile = blocking.macro_tile(task);
        let mut sums = Scratch::new(if kept { tile.values() } else { 0 });
        let first_c = second.is_none().then_some(c);
        macro_kernel(cpu.isa, first, &tile, false, &mut sums, first_c);
        if let Some(second) = second {
            macro_kernel(cpu.isa, second, &tile, true, &mut sums, Some(c));
        }
    };
    if first.a.panels() * first.a.packing().panel_words() < PARALLEL {
        return cpu.threads.share_numbers(of_a * of_b, run);
    }
    (0..of_a * of_b)
        .into_par_iter()
        .with_min_len(cpu.threads.min_len(1))
        .with_max_len(1)
        .for_each(run);
}

/// Returns the bytes of packed A for `m` rows of `k` values.
pub(super) fn packed_bytes<P: Precision>(cpu: Cpu, m: usize, k: usize) -> usize {
    let m = m.min(MC);
    let mr = mr(cpu.isa, m);
    m.div_ceil(mr) * Packing::<P>::new(mr, k).panel_words() * size_of::<u32>()
}

/// Returns the most bytes that a task of the product `[m, k]·[k, n]` packs of B and sums up of C; a second product of the sum,
/// in precision `P2`, has `second_k` in place of `k`.
pub(super) fn task_bytes<P: Precision, P2: Precision>(
    cpu: Cpu,
    [m, n, k]: [usize; 3],
    second_k: usize,
) -> usize {
    if n == 0 || k == 0 {
        return 0;
    }
    // The last rows are divided otherwise than all before them.
    let words = [m.min(MC), m % MC].into_iter().filter(|m| *m > 0).map(|m| {
        let packing = Packing::<P>::new(mr(cpu.isa, m), k);
        let blocking = Blocking::new(cpu, packing, m.div_ceil(packing.mr()), n);
        let second = Packing::<P2>::new(1, second_k);
        blocking.task_words(packing.kc_words().max(second.kc_words()))
    });
    words.max().unwrap_or(0) * size_of::<u32>()
}

/// Packs rows of `x: [m, k]` as A.
pub(super) fn pack<P: Precision, E: Element>(cpu: Cpu, x: &[E], k: usize) -> PackedA<P> {
    let m = x.len() / k;
    let mr = mr(cpu.isa, m);
    let packing = Packing::new(mr, k);
    let mut packed = PackedA::unfilled(m.div_ceil(mr), packing);
    pack_on_all(cpu, packing, x, packed.words_mut());
    packed
}

/// Packs rows of `x: [m, k]` into as many micro-panels as `words` holds, on all threads.
pub(super) fn pack_on_all<P: Precision, E: Element>(
    cpu: Cpu,
    packing: Packing<P>,
    x: &[E],
    words: &mut [u32],
) {
    let least = if words.len() < PARALLEL {
        usize::MAX
    } else {
        cpu.threads.min_len(4)
    };
    words
        .par_chunks_mut(packing.panel_words())
        .zip(x.par_chunks(packing.k() * packing.mr()))
        .with_min_len(least)
        .for_each(|(words, x)| pack_micro_panel(cpu.isa, packing, x, words));
}

/// Packs rows of `x: [m, k]` into as many micro-panels as `words` holds.
pub(super) fn pack_into<P: Precision, E: Element>(
    isa: Isa,
    packing: Packing<P>,
    x: &[E],
    words: &mut [u32],
) {
    let panels = words.chunks_exact_mut(packing.panel_words());
    for (words, x) in panels.zip(x.chunks(packing.k() * packing.mr())) {
        pack_micro_panel(isa, packing, x, words);
    }
}

kernel! {
    /// Packs up to `mr` rows.
    fn pack_micro_panel<P: Precision, E: Element>(packing: Packing<P>, x: &[E], words: &mut [u32]) = P::pack_a;
}

kernel! {
    /// Multiplies micro-panels of A by those of B, and puts the products into `sums: [panel of B][panel of A][mr][nr]`, or
    /// adds them; with `c`, the sums are then complete and go to their place in it. Without sums there is nothing to add to.
    fn macro_kernel<P: Precision, B: MatrixB, E: Element>(
        term: &Term<'_, P, B>,
        tile: &MacroTile,
        accumulate: bool,
        sums: &mut [u32],
        c: Option<SharedOutput<E>>,
    ) = multiply_blocks;
}

#[inline(always)]
fn multiply_blocks<S: Simd, P: Precision, B: MatrixB, E: Element>(
    s: S,
    term: &Term<'_, P, B>,
    tile: &MacroTile,
    accumulate: bool,
    sums: &mut [u32],
    c: Option<SharedOutput<E>>,
) {
    let &Term { a, b } = term;
    let &MacroTile { mr, nr, .. } = tile;
    let vectors = nr / 16;
    let (sums, _) = sums.as_chunks_mut::<16>();
    let per_panel = sums.len() / tile.b_panels.len();
    let mut tile_sums = [[0; 16]; MAX_TILE];
    let k = a.packing().k();
    for (p, kc) in a.packing().parts() {
        let words = P::b_words(kc);
        let mut block = Scratch::new(tile.b_panels.len() * words * nr);
        let (block, _) = block.as_chunks_mut::<16>();
        let panels = block.chunks_exact_mut(words * vectors);
        for (panel, out) in tile.b_panels.clone().zip(panels) {
            let j = panel * nr;
            P::pack_b(s, b, MicroPanel { j, nr, p, kc }, out);
        }
        let accumulate = accumulate || p > 0;
        let c = c.filter(|_| p + kc == k);
        for (i, a_panel) in tile.a_panels.clone().enumerate() {
            let a = a.part(a_panel, p, kc);
            let panels = block.chunks_exact(words * vectors);
            for (j, (b_panel, b)) in tile.b_panels.clone().zip(panels).enumerate() {
                let sums = match per_panel {
                    0 => &mut tile_sums[..mr * vectors],
                    _ => &mut sums[j * per_panel + i * mr * vectors..][..mr * vectors],
                };
                micro_kernel::<S, P>(s, a, b, sums, [mr, vectors], accumulate);
                if let Some(c) = c {
                    write(s, sums, [a_panel * mr, b_panel * nr], vectors, c);
                }
            }
        }
    }
}

/// Multiplies a micro-panel of A by one of B, and puts the product into `sums: [mr][vectors][16]`, or adds it.
///
/// There are at most [`Simd::MR`] rows, and as many vectors as [`Simd::NR`] is wide or one.
#[inline(always)]
fn micro_kernel<S: Simd, P: Precision>(
    s: S,
    a: &[u32],
    b: &[[u32; 16]],
    sums: &mut [[u32; 16]],
    [mr, vectors]: [usize; 2],
    accumulate: bool,
) {
    macro_rules! of_rows {
        ($($mr:literal)*) => {
            match (mr, vectors) {
                $(
                    ($mr, 1) if $mr <= S::MR => P::multiply::<S, $mr, 1>(s, a, b, sums, accumulate),
                    ($mr, 2) if $mr <= S::MR && S::NR == 32 => {
                        P::multiply::<S, $mr, 2>(s, a, b, sums, accumulate)
                    }
                )*
                _ => unreachable!("a micro-tile is at most {} x {}", S::MR, S::NR),
            }
        };
    }
    of_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// Writes the sums of a micro-tile to their place `[i, j]` in C, as far as it has rows and columns there.
#[inline(always)]
fn write<S: Simd, E: Element>(
    s: S,
    sums: &[[u32; 16]],
    [i, j]: [usize; 2],
    vectors: usize,
    c: SharedOutput<E>,
) {
    for (i, sums) in (i..c.m()).zip(sums.chunks_exact(vectors)) {
        // SAFETY: the macro-tiles of different tasks do not overlap, C outlives the tasks, and only values are written.
        let to = unsafe { c.columns(i, j, 16 * vectors) };
        for (to, sums) in to.chunks_mut(16).zip(sums) {
            let sums = s.float(s.load_u(sums));
            match <&mut [_; 16]>::try_from(&mut *to) {
                Ok(to) => put(s, to, sums, c.adds()),
                Err(_) => {
                    let mut whole = [MaybeUninit::new(E::default()); 16];
                    whole[..to.len()].copy_from_slice(to);
                    put(s, &mut whole, sums, c.adds());
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
