//! Products by the kernel that was measured to be the fastest. Alone in its process, since launches are counted in all of it.

#[allow(dead_code, reason = "the other suite uses the rest of it")]
#[path = "kernels/support.rs"]
mod support;

use std::sync::{Arc, Mutex, PoisonError};

use cubecl::client::Client;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use cubecl::logging::{LaunchObservation, LaunchObserver};
use nf4::{Direction, QuantConfig, QuantizedMatrix};
use qlora_cubecl::KernelError;
use qlora_cubecl::matmul::{Kernel, Problem, matmul};
use qlora_test_support::random::uniform;
use qlora_test_support::{alone, runtime};

use support::{F32, assert_close, read_values, reference, rows, tolerance, upload, upload_values};

/// The names of the kernels that were launched.
#[derive(Default)]
struct Launches(Mutex<Vec<&'static str>>);

impl LaunchObserver for Launches {
    fn launched(&self, kernel: &'static str) {
        let mut launched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        launched.push(kernel);
    }
}

/// Returns the names of the kernels that `launch` launches, on whatever thread.
fn launches_of(launch: impl FnOnce()) -> Vec<&'static str> {
    let launches = Arc::new(Launches::default());
    let observation = LaunchObservation::new(launches.clone());
    launch();
    drop(observation);
    let mut launched = launches.0.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut launched)
}

struct Product {
    matrix: QuantizedMatrix,
    x: Vec<f32>,
    m: usize,
    k: usize,
    direction: Direction,
}

impl Product {
    fn new(m: usize, shape: [usize; 2], direction: Direction) -> Self {
        let values = uniform(3, shape[0] * shape[1]);
        let [k, _] = direction.widths(shape);
        Self {
            matrix: qlora_cpu::quantize(&values, shape, QuantConfig::default()).unwrap(),
            x: uniform(5, m * k),
            m,
            k,
            direction,
        }
    }

    fn problem(&self, client: &Client) -> Problem {
        let (x, _) = upload_values(client, &self.x, F32);
        let x = rows(x, F32, self.m, self.k);
        Problem::new(client, x, upload(client, &self.matrix), self.direction).unwrap()
    }

    fn tuned(&self, client: &Client) -> Vec<f32> {
        let (x, _) = upload_values(client, &self.x, F32);
        let x = rows(x, F32, self.m, self.k);
        let y = matmul(client, x, upload(client, &self.matrix), self.direction).unwrap();
        read_values(client, y.handle, F32)
    }

    fn by(&self, client: &Client, kernel: Kernel) -> Vec<f32> {
        let y = self.problem(client).multiply(kernel).unwrap();
        read_values(client, y.handle, F32)
    }

    fn candidates(&self, client: &Client) -> Vec<Kernel> {
        self.problem(client).candidates()
    }

    fn reference(&self) -> Vec<f64> {
        reference(&self.matrix, &self.x, self.m, self.k, self.direction)
    }
}

/// The first of these products is measured, the others take its kernel.
fn a_kind_of_product_is_measured_once(client: &Client) {
    for (shape, [first_m, second_m]) in [
        ([70, 128], [1, 1]),
        ([70, 128], [3, 4]),
        ([75, 104], [5, 8]),
        ([37, 51], [3, 4]),
        ([70, 128], [20, 32]),
    ] {
        for direction in Direction::ALL {
            let first = Product::new(first_m, shape, direction);
            let second = Product::new(second_m, shape, direction);
            let what = format!("{direction:?} {first_m} and {second_m} × {shape:?}");
            let [mut tuned, mut again] = [vec![], vec![]];
            let measured = launches_of(|| tuned = first.tuned(client));
            let known = launches_of(|| again = second.tuned(client));

            let candidates = second.candidates(client);
            assert_eq!(candidates, first.candidates(client), "{what}");
            let launched: Vec<_> = candidates
                .iter()
                .map(|kernel| launches_of(|| drop(second.by(client, *kernel))))
                .collect();
            assert!(launched.contains(&known), "{what}: {known:?}");
            if candidates.len() == 1 {
                assert_eq!(measured, known, "{what}");
            } else {
                for kernels in &launched {
                    let missing = kernels.iter().find(|kernel| !measured.contains(kernel));
                    assert_eq!(missing, None, "{what}: {measured:?}");
                }
            }

            for (product, y) in [(&first, tuned), (&second, again)] {
                assert_close(&y, &product.reference(), tolerance(F32), &what);
                for &kernel in &candidates {
                    let named = product.by(client, kernel).into_iter();
                    let named: Vec<_> = named.map(f64::from).collect();
                    assert_close(&y, &named, tolerance(F32), &format!("{kernel} {what}"));
                }
            }
        }
    }
}

/// More rows than one of the kernels has a grid for.
fn a_kernel_that_refuses_is_passed_over(client: &Client) {
    let limit = client.properties().hardware.max_cube_count.1 as usize;
    let m = 8 * limit + 1;
    let product = Product::new(m, [8, 8], Direction::Forward);
    let refused: Vec<_> = product
        .candidates(client)
        .into_iter()
        .filter_map(|kernel| product.problem(client).multiply(kernel).err())
        .collect();
    assert!(
        matches!(refused[..], [KernelError::TooManyRows { .. }]),
        "{refused:?}"
    );
    let y = product.tuned(client);
    assert_close(
        &y,
        &product.reference(),
        tolerance(F32),
        "more rows than a grid has",
    );
}

/// Everything, one after the other: what has been measured stays known.
fn the_fastest_kernel_multiplies(client: &Client) {
    a_kind_of_product_is_measured_once(client);
    // The grids of a CPU have no end that a test could reach.
    if client.properties().hardware.num_cpu_cores.is_none() {
        a_kernel_that_refuses_is_passed_over(client);
    }
}

qlora_test_support::on_every_runtime! { in crate::run: the_fastest_kernel_multiplies }

/// With the other runtimes' tests and their launches kept out, and with few samples: which kernel is the fastest does not matter
/// here.
fn run(feature: &str, test: fn(&Client)) {
    let _alone = alone();
    let mut config = CubeClRuntimeConfig::default();
    config.autotune.bench.min_samples = 1;
    config.autotune.bench.max_samples = 1;
    // The second test finds it set.
    CubeClRuntimeConfig::try_set(config);
    test(&runtime(feature).client());
}
