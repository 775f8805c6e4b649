//! What a device's memory report shows of a product: no dense weight. Alone in its process, since the report is of the
//! whole device.

use cubecl::MemoryScope;
use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;
use nf4::{Direction, QuantConfig};
use qlora_cubecl::Weight;
use qlora_cubecl::dequantize::dequantize;
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

qlora_test_support::on_every_runtime! { in crate::run: a_product_takes_its_operands_and_its_result }

/// The report is of everything on the device: tests take turns.
fn run(feature: &str, test: fn(&Client)) {
    let _alone = alone();
    test(&runtime(feature).client());
}

fn a_product_takes_its_operands_and_its_result(client: &Client) {
    let [n, k] = SHAPE;
    let config = QuantConfig::default();
    let layout = nf4::Layout::new(SHAPE, config).unwrap();
    let weight = Weight {
        packed: client.create_from_slice(&vec![0; 4 * layout.packed_words()]),
        absmax: client.create_from_slice(&vec![0; 4 * layout.absmax_words()]),
        layout,
    };
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
