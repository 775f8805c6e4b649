//! The fastest kernel for a product, measured once on the device that multiplies.
//!
//! What is measured: every kernel of [`candidates`], on the operands of the first product of its kind and into buffers of its
//! own. Where there is one candidate there is nothing to measure, as for more than [`GEMV_MAX_ROWS`] rows on a CPU. A
//! kernel that the device refuses is passed over; where all are, [`choose`] names the one whose error the caller sees.
//!
//! What is remembered: the fastest for each [`Key`] on each device, in CubeCL's own table of results, in memory until the process
//! ends. Built with cubecl's feature `persistence`, that table is also written to the environment that CubeCL is configured
//! for (`target/environment` by default) and read back by the next process.
//!
//! What it costs: the first product of a kind compiles all its candidates, runs each up to eleven times and waits for the
//! device. For 2048 × 2048 on two cores with AVX-512 that takes 10 to 20 ms on CubeCL's CPU runtime (up to 0.4 s where kernels
//! must be compiled); on Mesa's rasterizer 0.3 to 0.7 s for up to 8 rows and 4.5 s for 512. Every later product looks into the
//! table, for a microsecond, and waits for nothing; one that another thread is measuring at the moment takes the unmeasured
//! choice. The runs of a candidate follow one another, so a weight that fits the device's cache is read from there.

use std::fmt;

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::tune::{AutotuneKey, LocalTuner, Tunable, TunableSet, TuneGroup, local_tuner};
use serde::{Deserialize, Serialize};

use super::{
    Direction, GEMV_MAX_ROWS, Kernel, Rows, by_preference, candidates, checked_sides, choose,
    matmul_with,
};
use crate::format::Weight;

static TUNER: LocalTuner<Key, String> = local_tuner!();

/// Products of one key share their fastest kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Key {
    /// Rows, up to a power of two.
    rows: usize,
    out_features: usize,
    in_features: usize,
    dtype: ElemType,
    direction: Direction,
    block_size: usize,
    double_quant: bool,
}

// All products of a key have the same candidates.
const _: () = assert!(GEMV_MAX_ROWS.is_power_of_two());

impl AutotuneKey for Key {}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A product to run kernels on.
#[derive(Clone)]
struct Trial {
    client: Client,
    x: Rows,
    weight: Weight,
    direction: Direction,
    /// Whether a kernel is being measured; the tuner also calls the fastest once more, whose result nobody would take.
    measuring: bool,
}

impl Trial {
    fn key(&self) -> Key {
        Key {
            rows: self.x.m.next_power_of_two(),
            out_features: self.weight.out_features,
            in_features: self.weight.in_features,
            dtype: self.x.dtype,
            direction: self.direction,
            block_size: self.weight.format.block_size,
            double_quant: self.weight.format.double_quant,
        }
    }

    fn run(self, kernel: Kernel) -> Result<(), String> {
        if !self.measuring {
            return Ok(());
        }
        let y = matmul_with(&self.client, self.x, &self.weight, self.direction, kernel);
        y.map(drop).map_err(|error| error.to_string())
    }
}

/// The fastest of the candidates, measured now if it has not been before.
pub(super) fn fastest(client: &Client, x: &Rows, weight: &Weight, direction: Direction) -> Kernel {
    let chosen = choose(client, x.m, weight, x.dtype);
    let one_candidate = || {
        let mut candidates = candidates(client, x.m, weight.in_features, x.dtype);
        candidates.nth(1).is_none()
    };
    // Of a product that is refused or empty there is nothing to measure.
    let sides = checked_sides(client, x, weight, direction);
    if sides.map_or(true, |sides| x.m == 0 || sides.contains(&0)) || one_candidate() {
        return chosen;
    }
    let device = client.service_id().device;
    let device = format!(
        "device-{}-{}-{}",
        device.type_id,
        device.index_id,
        client.name()
    );
    let kernels = TUNER.init(&device, {
        let client = client.clone();
        move || tunable_kernels(&client)
    });
    let trial = Trial {
        client: client.clone(),
        x: x.clone(),
        weight: weight.clone(),
        direction,
        measuring: false,
    };
    let key = trial.key();
    let known = || TUNER.fastest_identity(&device, &kernels, &key);
    let measured = || {
        TUNER.execute(&device, client, kernels.clone(), trial);
        known()
    };
    known().or_else(measured).unwrap_or(chosen)
}

/// All kernels in the order of the device's preference, each restricted to the keys that it is a candidate for.
fn tunable_kernels(client: &Client) -> TunableSet<Key, Trial, (), Kernel> {
    let kernels = TunableSet::new(Trial::key, |_: &Key, trial: &Trial| Trial {
        measuring: true,
        ..trial.clone()
    });
    let group = TuneGroup::new("candidates", |_| 0);
    let with = |kernels: TunableSet<_, _, _, _>, kernel: Kernel| {
        let client = client.clone();
        let priority = move |key: &Key| {
            let candidate = kernel.is_candidate(&client, key.rows, key.in_features, key.dtype);
            if candidate { 0 } else { -1 }
        };
        let tunable = Tunable::identified(kernel, move |trial: Trial| trial.run(kernel));
        kernels.with(tunable.group(&group, priority))
    };
    by_preference(client).into_iter().fold(kernels, with)
}
