//! What a device's memory report shows of a product: no dense weight, and no copy of an operand. Alone in its process, since the report is of the
//! whole device.

use cubecl::MemoryScope;
use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;
use nf4::{Direction, QuantConfig};
use qlora_cubecl::Weight;
use qlora_cubecl::dequantize::dequantize;
use qlora_cubecl::matmul::low_rank::{self, LowRank};
use qlora_cubecl::matmul::matmul;
use qlora_test_support::{alone, runtime};

/// A down projection of LLaMA-7B and the rows of one sequence.
const SHAPE: [usize; 2] = [4096, 11008];
const ROWS: usize = 512;
const F32: ElemType = ElemType::Float(FloatKind::F32);
const F16: ElemType = ElemType::Float(FloatKind::F16);
/// Bytes that a product may use beside its operands and its result.
const SCRATCH: u64 = 16 << 20;

/// Bytes in use, and bytes ever taken at once: pages are kept until they are asked back. Pages may be large, so the second
/// shows what a product used and gave back only where it exceeds a page.
fn usage(client: &Client) -> [u64; 2] {
    client.flush().expect("the device should answer");
    cubecl::future::block_on(client.sync()).expect("the device should answer");
    let report = client.memory_report(MemoryScope::Device);
    let pools = report.streams.iter().map(|stream| stream.pools.usage());
    pools.fold([0, 0], |[in_use, reserved], usage| {
        [in_use + usage.bytes_in_use, reserved + usage.bytes_reserved]
    })
}

/// Returns the bytes used beyond those at `before`, by whichever count grew more.
fn taken(client: &Client, before: [u64; 2]) -> u64 {
    let grown = usage(client).into_iter().zip(before);
    grown
        .map(|(now, before)| now.saturating_sub(before))
        .max()
        .unwrap_or(0)
}

qlora_test_support::on_every_runtime! {
    in crate::run:
    products::take_their_operands_and_their_results,
    products::of_a_layer_take_no_copies_of_their_operands,
}

/// The report is of everything on the device: tests take turns.
fn run(feature: &str, test: fn(&Client)) {
    let _alone = alone();
    test(&runtime(feature).client());
}

mod products {
    use super::*;

    fn weight(client: &Client) -> Weight {
        let layout = nf4::Layout::new(SHAPE, QuantConfig::default()).unwrap();
        Weight {
            packed: client.create_from_slice(&vec![0; 4 * layout.packed_words()]),
            absmax: client.create_from_slice(&vec![0; 4 * layout.absmax_words()]),
            layout,
        }
    }

    pub fn take_their_operands_and_their_results(client: &Client) {
        let [n, k] = SHAPE;
        let weight = weight(client);
        let rows = |columns: usize| {
            let handle = client.create_from_slice(f32::as_bytes(&vec![0.0; ROWS * columns]));
            TensorHandle::new_contiguous([ROWS, columns], handle, F32)
        };
        let (x, dy) = (rows(k), rows(n));
        client.memory_cleanup().expect("the device should answer");
        let before = usage(client);
        // `x` and `dy` stay, or the results would take their place.
        let y = matmul(client, x.clone(), weight.clone(), Direction::Forward).unwrap();
        let dx = matmul(client, dy.clone(), weight.clone(), Direction::Transposed).unwrap();
        let used = taken(client, before);
        let results = 4 * (ROWS * (n + k)) as u64;
        println!(
            "{used} bytes for results of {results}; the dense weight has {}",
            2 * n * k
        );
        assert!(
            used <= results + SCRATCH,
            "{used} bytes were taken for results of {results}"
        );
        // The report would have shown a dense weight, even one in f16. In f32 it is larger than a buffer may be on some devices.
        let dense = dequantize(client, &weight, F16).unwrap();
        assert!(taken(client, before) > results + SCRATCH);
        drop((x, dy, y, dx, dense));
    }

    pub fn of_a_layer_take_no_copies_of_their_operands(client: &Client) {
        let ([n, k], rank) = (SHAPE, 64);
        let matrix = |shape: [usize; 2], dtype: ElemType| {
            let bytes = vec![0; dtype.size() * shape[0] * shape[1]];
            TensorHandle::new_contiguous(shape, client.create_from_slice(&bytes), dtype)
        };
        let (x, dy) = (matrix([ROWS, k], F16), matrix([ROWS, n], F16));
        let (a, b, scale) = (matrix([k, rank], F32), matrix([rank, n], F32), 1.0);
        let weight = weight(client);
        client.memory_cleanup().expect("the device should answer");
        let before = usage(client);
        let factors = LowRank { a, b, scale };
        let (of_forward, of_backward) = (factors.clone(), factors.clone());
        let y = low_rank::forward(client, x.clone(), weight.clone(), of_forward).unwrap();
        let gradients =
            low_rank::backward(client, x.clone(), weight.clone(), of_backward, dy.clone()).unwrap();
        let used = taken(client, before);
        let results = (2 * ROWS * (n + k) + 4 * rank * (n + k)) as u64;
        let workspace = low_rank::backward_workspace_bytes(ROWS, SHAPE, rank) as u64;
        println!("{used} bytes for results of {results} and a workspace of {workspace}");
        // In f32, `x` and `dy` would be twice the allowance.
        assert!(
            used <= results + workspace + SCRATCH,
            "{used} bytes were taken for results of {results} and a workspace of {workspace}"
        );
        drop((x, dy, factors, weight, y, gradients));
    }
}
