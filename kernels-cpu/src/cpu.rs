//! [`Cpu`], the instruction set and threads that kernels run on, and [`on_worker`], which calls them from such a thread.

use crate::simd::{Isa, isa};

/// The instruction set and the threads that operations use; [`Cpu::default`] is [`isa`] and all of them.
///
/// Every operation is a method of it. The free functions of the same names use the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    pub(crate) isa: Isa,
    pub(crate) threads: Threads,
}

/// The threads that do the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// All threads of the rayon pool.
    All,
    /// The calling one, for callers that are many threads already.
    Calling,
}

/// Runs `f` on one of the threads of [`Threads::All`], and returns what it returns.
///
/// A kernel that is called from another thread hands its work over and sleeps until it is done, which costs two changes of
/// threads: much where a model calls hundreds of short kernels for every token that it writes. `f` must not wait for a thread
/// that itself calls kernels on all threads.
pub fn on_worker<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new(isa(), Threads::All)
    }
}

impl Cpu {
    /// Runs kernels on `isa` and `threads`.
    pub const fn new(isa: Isa, threads: Threads) -> Self {
        Self { isa, threads }
    }

    /// Runs kernels on [`isa`] and the calling thread.
    pub fn calling_thread() -> Self {
        Self::new(isa(), Threads::Calling)
    }
}

impl Threads {
    /// Returns how many there are.
    pub(crate) fn count(self) -> usize {
        match self {
            Self::All => rayon::current_num_threads(),
            Self::Calling => 1,
        }
    }

    /// Returns the length below which a parallel iterator is not to be split: `least`, or any. Rayon runs an iterator
    /// that it does not split on the calling thread.
    pub(crate) fn min_len(self, least: usize) -> usize {
        match self {
            Self::All => least,
            Self::Calling => usize::MAX,
        }
    }

    /// Runs both, at the same time if there are threads for it.
    pub(crate) fn join<A: Send, B: Send>(
        self,
        a: impl FnOnce() -> A + Send,
        b: impl FnOnce() -> B + Send,
    ) -> (A, B) {
        match self {
            Self::All => rayon::join(a, b),
            Self::Calling => (a(), b()),
        }
    }
}
