use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// The environment variable that forces an instruction set on a process, by its [`name`](Isa::name).
pub const ISA_VARIABLE: &str = "QLORA_CPU_ISA";

/// An instruction set that this machine has, and that kernels can be asked to use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isa(pub(crate) Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 with the dot products of bf16 pairs and of bytes (VNNI).
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    Neon,
    /// NEON with the dot products of bytes.
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    NeonDot,
}

/// The reason why an instruction set cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IsaError {
    /// No kernel is compiled for an instruction set of this name, on any machine.
    #[error(
        "{name:?} is no instruction set of the kernels; this machine has {}",
        names()
    )]
    Unknown {
        /// The name as it was given.
        name: String,
    },
    /// There are kernels for it, but this machine cannot run them.
    #[error("this machine cannot run {name}; it has {}", names())]
    Absent {
        /// The name of the instruction set.
        name: &'static str,
    },
    /// The environment variable [`ISA_VARIABLE`] names what cannot be used.
    #[error("{ISA_VARIABLE}: {0}")]
    Variable(Box<IsaError>),
    /// The process uses another instruction set already.
    #[error("the kernels of this process use {} already, not {}", used.name(), asked.name())]
    Settled {
        /// The one in use.
        used: Isa,
        /// The one that was asked for.
        asked: Isa,
    },
}

/// Names of all instruction sets that kernels are compiled for, on whatever machine.
const NAMES: [&str; 6] = [
    "avx512bf16",
    "avx512",
    "avx2",
    "neondot",
    "neon",
    "portable",
];

/// The choice of the process.
static CHOICE: OnceLock<Result<Isa, IsaError>> = OnceLock::new();

/// Returns the instruction set that the kernels of this process use: [`Isa::selected`].
///
/// # Panics
/// When [`ISA_VARIABLE`] names one that cannot be used, with the error of [`Isa::selected`].
pub fn isa() -> Isa {
    Isa::selected().unwrap_or_else(|error| panic!("{error}"))
}

impl Isa {
    /// Returns the fastest one.
    pub fn best() -> Self {
        Self::available()[0]
    }

    /// Returns plain Rust, which every machine has.
    pub const fn portable() -> Self {
        Self(Level::Portable)
    }

    /// Returns the one that the kernels of this process use wherever none is passed to them: the one that
    /// [`Isa::select`] was asked for, else the one that [`ISA_VARIABLE`] names, else the fastest.
    ///
    /// The first call, or the first kernel, settles it.
    ///
    /// # Errors
    /// When [`ISA_VARIABLE`] names an instruction set that there is not, or that this machine lacks. Kernels panic then: a
    /// program asks before it runs one.
    pub fn selected() -> Result<Self, IsaError> {
        CHOICE.get_or_init(Self::from_environment).clone()
    }

    /// Makes the kernels of this process use `self` wherever none is passed to them, whatever [`ISA_VARIABLE`] names.
    ///
    /// # Errors
    /// When they use another already.
    pub fn select(self) -> Result<(), IsaError> {
        match CHOICE.get_or_init(|| Ok(self)) {
            Ok(used) if *used == self => Ok(()),
            Ok(used) => Err(IsaError::Settled {
                used: *used,
                asked: self,
            }),
            Err(error) => Err(error.clone()),
        }
    }

    fn from_environment() -> Result<Self, IsaError> {
        match std::env::var_os(ISA_VARIABLE) {
            Some(name) => name
                .to_string_lossy()
                .parse()
                .map_err(|error| IsaError::Variable(Box::new(error))),
            None => Ok(Self::best()),
        }
    }

    /// Returns the name: `avx512bf16`, `avx512`, `avx2`, `neondot`, `neon` or `portable`.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => "avx512bf16",
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Level::Neon => "neon",
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Level::NeonDot => "neondot",
        }
    }

    /// Returns whether an instruction multiplies bf16 and sums them up in pairs.
    pub(crate) const fn multiplies_pairs(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => true,
            _ => false,
        }
    }

    /// Returns whether bytes are multiplied and summed up in fours by a few instructions.
    pub(crate) const fn multiplies_bytes(self) -> bool {
        match self.0 {
            Level::Portable => false,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 | Level::Avx512Bf16 => true,
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Level::Neon => false,
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Level::NeonDot => true,
        }
    }

    /// Returns all that this machine has, fastest first.
    pub fn available() -> &'static [Self] {
        #[cfg(target_arch = "x86_64")]
        {
            const WITH_AVX2: &[Isa] = &[Isa(Level::Avx2), Isa(Level::Portable)];
            const WITH_AVX512: &[Isa] =
                &[Isa(Level::Avx512), Isa(Level::Avx2), Isa(Level::Portable)];
            const WITH_AVX512_BF16: &[Isa] = &[
                Isa(Level::Avx512Bf16),
                Isa(Level::Avx512),
                Isa(Level::Avx2),
                Isa(Level::Portable),
            ];
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl");
            let bf16 =
                is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni");
            match (avx512, avx2) {
                (true, true) if bf16 => WITH_AVX512_BF16,
                (true, true) => WITH_AVX512,
                (false, true) => WITH_AVX2,
                _ => &[Isa(Level::Portable)],
            }
        }
        // Every AArch64 target of the standard library includes NEON: that need not be detected.
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        {
            const WITH_DOT: &[Isa] = &[Isa(Level::NeonDot), Isa(Level::Neon), Isa(Level::Portable)];
            match std::arch::is_aarch64_feature_detected!("dotprod") {
                true => WITH_DOT,
                false => &WITH_DOT[1..],
            }
        }
        #[cfg(not(any(
            target_arch = "x86_64",
            all(target_arch = "aarch64", target_endian = "little")
        )))]
        {
            &[Isa(Level::Portable)]
        }
    }
}

/// Returns the instruction set of a [`name`](Isa::name), if this machine has it.
impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        let Some(name) = NAMES.into_iter().find(|known| *known == name) else {
            return Err(IsaError::Unknown { name: name.into() });
        };
        let found = Self::available().iter().find(|isa| isa.name() == name);
        found.copied().ok_or(IsaError::Absent { name })
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Returns the names of what this machine has, fastest first.
fn names() -> String {
    let names: Vec<_> = Isa::available().iter().map(|isa| isa.name()).collect();
    names.join(", ")
}
