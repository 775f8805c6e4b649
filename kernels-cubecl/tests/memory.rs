//! What a device's memory report shows of a product: no dense weight. Alone in its process, since the report is of the
//! whole device.
#![cfg(any(feature = "wgpu", feature = "cpu"))]

use cubecl::MemoryScope;
use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use nf4::QuantConfig;
use nf4_cubecl::{CodeTable, Direction, Format, Rows, Weight, dequantize, matmul};

/// A down projection of LLaMA-7B and the rows of one sequence.
const SHAPE: [usize; 2] = [4096, 11008];
const ROWS: usize = 512;
const F32: ElemType = ElemType::Float(FloatKind::F32);
/// What a product may use beside its operands and its result.
const SCRATCH: u64 = 16 << 20;

/// The memory that the device's allocations have ever taken at once: pages are kept until they are asked back.
fn reserved(client: &Client) -> u64 {
    cubecl::future::block_on(client.sync()).expect("the device should answer");
    let report = client.memory_report(MemoryScope::Device);
    report
        .streams
        .iter()
        .map(|stream| stream.pools.usage().bytes_reserved)
        .sum()
}

fn forward_and_backward(client: &Client) {
    let [n, k] = SHAPE;
    let config = QuantConfig::default();
    let layout = nf4::Layout::new(SHAPE, config).unwrap();
    let codebook = config.codebook;
    let weight = Weight {
        packed: client.empty(4 * layout.packed_words()),
        absmax: client.empty(4 * layout.absmax_words()),
        out_features: n,
        in_features: k,
        format: Format {
            table: CodeTable::new(
                codebook.values(),
                codebook.codes_by_rank(),
                &codebook.midpoints(),
            ),
            block_size: config.block_size,
            double_quant: true,
        },
    };
    let rows = |columns: usize| Rows {
        handle: client.create_from_slice(f32::as_bytes(&vec![0.0; ROWS * columns])),
        dtype: F32,
        m: ROWS,
        row_stride: columns,
    };
    let (x, dy) = (rows(k), rows(n));
    client.memory_cleanup().expect("the device should answer");
    let before = reserved(client);
    let y = matmul(client, x, &weight, Direction::Forward).unwrap();
    let dx = matmul(client, dy, &weight, Direction::Transposed).unwrap();
    let taken = reserved(client) - before;
    let results = 4 * (ROWS * (n + k)) as u64;
    println!(
        "{taken} bytes for results of {results}; the dense weight has {}",
        4 * n * k
    );
    assert!(
        taken <= results + SCRATCH,
        "{taken} bytes were taken for results of {results}"
    );
    // The report would have shown a dense weight.
    let dense = dequantize(client, &weight, F32).unwrap();
    assert!(reserved(client) - before > results + SCRATCH);
    drop((y, dx, dense));
}

#[cfg(feature = "wgpu")]
#[test]
fn wgpu() {
    forward_and_backward(&cubecl::Device::Wgpu(Default::default()).client());
}

#[cfg(feature = "cpu")]
#[test]
fn cpu() {
    forward_and_backward(&cubecl::Device::Cpu(Default::default()).client());
}
