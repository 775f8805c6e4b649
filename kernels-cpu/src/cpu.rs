//! [`Cpu`], the instruction set and threads that kernels run on, and the numbers they multiply by quantized weights; and
//! [`on_worker`], which calls kernels from such a thread.

use std::sync::OnceLock;

use crate::simd::{Isa, isa};

/// The instruction set and the threads that operations use; [`Cpu::default`] is [`isa`], all of them, and
/// [`QuantizedProducts::selected`].
///
/// Every operation is a method of it. The free functions of the same names use the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    pub(crate) isa: Isa,
    pub(crate) threads: Threads,
    pub(crate) products: QuantizedProducts,
}

/// The numbers that products of more than eight rows of bf16 with a quantized matrix multiply. Those of f32 and f16 multiply
/// f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QuantizedProducts {
    /// bf16.
    #[default]
    Float,
    /// Integers of 8 bits, forward and transposed: both operands are rounded to 255 steps in each group of 64 values along the
    /// sum, by the largest magnitude of the group. A low-rank matrix on top stays as it is.
    ///
    /// Gains most where the machine has AVX-512 with VNNI and BF16; without instructions for bytes it may be slower than f32.
    Int8,
}

/// The choice of the process.
static PRODUCTS: OnceLock<QuantizedProducts> = OnceLock::new();

impl QuantizedProducts {
    /// Returns the ones that the kernels of this process multiply wherever none are passed to them: those that
    /// [`select`](Self::select) was asked for, else [`Float`](Self::Float). The first kernel settles it.
    pub fn selected() -> Self {
        *PRODUCTS.get_or_init(Self::default)
    }

    /// Makes the kernels of this process multiply `self` wherever nothing else is passed to them; returns whether they do: not
    /// if the process uses others already.
    #[must_use]
    pub fn select(self) -> bool {
        *PRODUCTS.get_or_init(|| self) == self
    }
}

/// The threads that do the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// All threads of the rayon pool, or for short kernels as many that stay awake between them.
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
        Self::new(isa(), Threads::All).with_products(QuantizedProducts::selected())
    }
}

impl Cpu {
    /// Runs kernels on `isa` and `threads`, with products in [`QuantizedProducts::Float`].
    pub const fn new(isa: Isa, threads: Threads) -> Self {
        let products = QuantizedProducts::Float;
        Self {
            isa,
            threads,
            products,
        }
    }

    /// Multiplies `products`.
    #[must_use]
    pub const fn with_products(self, products: QuantizedProducts) -> Self {
        Self { products, ..self }
    }

    /// Runs kernels on [`isa`] and the calling thread.
    pub fn calling_thread() -> Self {
        Self {
            threads: Threads::Calling,
            ..Self::default()
        }
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
