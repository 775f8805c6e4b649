//! The fastest kernel for a product, measured once on the device that multiplies.
//!
//! Measured: every candidate, on the operands of the first product of its kind and into buffers of its own. Where there
//! is one candidate there is nothing to measure, as for more than [`GEMV_MAX_ROWS`](super::GEMV_MAX_ROWS) rows on a CPU. A
//! kernel that the device refuses is passed over; where all are, the unmeasured choice is the one whose error the caller sees.
//!
//! Remembered: the fastest for each [`Key`] on each device, in CubeCL's own table of results, in memory until the process
//! ends. Built with cubecl's feature `persistence`, that table is also written to the environment that CubeCL is configured
//! for (`target/environment` by default) and read back by the next process.
//!
//! Cost: the first product of a kind compiles all its candidates, runs each up to eleven times and waits for the
//! device. For 2048 × 2048 on two cores with AVX-512 that takes 10 to 20 ms on CubeCL's CPU runtime (up to 0.4 s where kernels
//! must be compiled); on Mesa's rasterizer 0.3 to 0.7 s for up to 8 rows and 4.5 s for 512. Every later product looks into the
//! table, for a microsecond, and waits for nothing; one that another thread is measuring at the moment takes the unmeasured
//! choice. The runs of a candidate follow one another, so a weight that fits the device's cache is read from there.

use std::fmt;

use cubecl::ir::ElemType;
use cubecl::tune::{AutotuneKey, LocalTuner, Tunable, TunableSet, TuneGroup, local_tuner};
use nf4::{Direction, Layout};
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::select::Kernel;

static TUNER: LocalTuner<Key, String> = local_tuner!();

/// The traits that products with one fastest kernel have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Key {
    /// Rows, up to a power of two.
    rows: usize,
    layout: Layout,
    dtype: ElemType,
    direction: Direction,
    /// The kernels to measure, the likeliest first.
    candidates: Vec<Kernel>,
}

impl AutotuneKey for Key {}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A product to run kernels on.
#[derive(Clone)]
struct Trial {
    problem: Problem,
    candidates: Vec<Kernel>,
    /// A kernel is being measured; the tuner also calls the fastest once more, whose result nobody would take.
    measuring: bool,
}

impl Trial {
    fn key(&self) -> Key {
        Key {
            rows: self.problem.x.m.next_power_of_two(),
            layout: self.problem.weight.layout,
            dtype: self.problem.x.dtype,
            direction: self.problem.direction,
            candidates: self.candidates.clone(),
        }
    }

    fn run(self, kernel: Kernel) -> Result<(), String> {
        if !self.measuring {
            return Ok(());
        }
        let y = self.problem.multiply(kernel);
        y.map(drop).map_err(|error| error.to_string())
    }
}

/// Returns the fastest of the candidates, measured now if it has not been before; `None` where there is nothing to measure
/// or nothing ran.
pub(super) fn fastest(problem: &Problem, candidates: Vec<Kernel>) -> Option<Kernel> {
    if problem.is_empty() || candidates.len() == 1 {
        return None;
    }
    let client = &problem.client;
    let device = client.service_id().device;
    let device = format!(
        "device-{}-{}-{}",
        device.type_id,
        device.index_id,
        client.name()
    );
    let kernels = TUNER.init(&device, tunable_kernels);
    let trial = Trial {
        problem: problem.clone(),
        candidates,
        measuring: false,
    };
    let key = trial.key();
    let known = || TUNER.fastest_identity(&device, &kernels, &key);
    let measured = || {
        TUNER.execute(&device, client, kernels.clone(), trial);
        known()
    };
    known().or_else(measured)
}

/// Returns all kernels, each restricted to the keys that it is a candidate for.
fn tunable_kernels() -> TunableSet<Key, Trial, (), Kernel> {
    let kernels = TunableSet::new(Trial::key, |_: &Key, trial: &Trial| Trial {
        measuring: true,
        ..trial.clone()
    });
    let group = TuneGroup::new("candidates", |_| 0);
    let with = |kernels: TunableSet<_, _, _, _>, kernel: Kernel| {
        let priority = move |key: &Key| {
            let candidate = key.candidates.contains(&kernel);
            if candidate { 0 } else { -1 }
        };
        let tunable = Tunable::identified(kernel, move |trial: Trial| trial.run(kernel));
        kernels.with(tunable.group(&group, priority))
    };
    Kernel::ALL.into_iter().fold(kernels, with)
}
