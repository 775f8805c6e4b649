//! Products by every kernel, in every shape and type, against the host's decoded weight multiplied in f64.

use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::server::Handle;
use nf4::{Codebook, QuantConfig};
use qlora_cubecl::matmul::{GEMV_MAX_ROWS, Kernel, matmul_with};
use qlora_cubecl::{Direction, KernelError, matmul};

use qlora_test_support::random::uniform;

use crate::support::{
    BF16, F16, F32, assert_close, is_cpu, read_values, reference, rows, sides, tolerance, upload,
    upload_values,
};

const DIRECTIONS: [Direction; 2] = [Direction::Forward, Direction::Transposed];

/// Rows of a block's, a word's and no multiple; one row, part of a tile, and more than any tile. The last is
/// longer than a panel and has more rows than share one.
const CASES: [(usize, [usize; 2]); 9] = [
    (1, [70, 128]),
    (2, [70, 128]),
    (20, [70, 128]),
    (3, [330, 320]),
    (3, [75, 104]),
    (1, [37, 51]),
    (7, [37, 51]),
    (20, [37, 51]),
    (250, [330, 320]),
];

/// The kernels that the runtime can run. Those with barriers would have a CPU's cores wait for each other.
fn kernels(client: &Client) -> &'static [Kernel] {
    if is_cpu(client) {
        &[Kernel::Panels, Kernel::Registers]
    } else {
        &[Kernel::Registers, Kernel::Gemv, Kernel::StagedUnits]
    }
}

/// Whether `kernel` is written for the case. What goes through cubek takes long to compile on a software rasterizer, so
/// that runs where it would be chosen, on many rows.
fn takes(kernel: Kernel, (m, [_, k]): (usize, [usize; 2])) -> bool {
    match kernel {
        Kernel::Gemv => m <= GEMV_MAX_ROWS && k.is_multiple_of(8),
        Kernel::StagedUnits => m > GEMV_MAX_ROWS,
        _ => true,
    }
}

fn check(
    client: &Client,
    dtype: ElemType,
    (m, shape): (usize, [usize; 2]),
    config: QuantConfig,
    padding: usize,
    direction: Direction,
    kernel: Option<Kernel>,
) {
    let what = format!("{kernel:?} {direction:?} {m} × {shape:?} {dtype:?} {config:?}");
    let matrix = qlora_cpu::quantize(&uniform(3, shape[0] * shape[1]), shape, config).unwrap();
    let weight = upload(client, &matrix);
    let stride = sides(direction, shape).0 + padding;
    let (handle, x) = upload_values(client, &uniform(5, m * stride), dtype);
    let x_rows = rows(handle, dtype, m, stride);
    let y: Result<Handle, KernelError> = match kernel {
        Some(kernel) => matmul_with(client, x_rows, &weight, direction, kernel),
        None => matmul(client, x_rows, &weight, direction),
    };
    let y = y.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_close(
        &read_values(client, y, dtype),
        &reference(&matrix, &x, m, stride, direction),
        tolerance(dtype),
        &what,
    );
}

pub fn every_kernel_multiplies_every_shape(client: &Client) {
    for &kernel in kernels(client) {
        for case in CASES.into_iter().filter(|case| takes(kernel, *case)) {
            for direction in DIRECTIONS {
                check(
                    client,
                    F32,
                    case,
                    QuantConfig::default(),
                    0,
                    direction,
                    Some(kernel),
                );
            }
        }
    }
}

pub fn half_precision_is_multiplied_in_single(client: &Client) {
    let mut checked = 0;
    for dtype in [F16, BF16] {
        if qlora_cubecl::matmul::check_float(client, "matmul", dtype).is_err() {
            continue;
        }
        for &kernel in kernels(client)
            .iter()
            .filter(|kernel| **kernel != Kernel::StagedUnits)
        {
            for direction in DIRECTIONS {
                let config = QuantConfig::default();
                check(
                    client,
                    dtype,
                    (7, [70, 128]),
                    config,
                    0,
                    direction,
                    Some(kernel),
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 0, "both runtimes have f16");
}

pub fn every_format_is_multiplied(client: &Client) {
    for (codebook, block_size, double_quant) in [
        (Codebook::Fp4, 32, false),
        (Codebook::Int4, 64, true),
        (Codebook::Nf4, 4096, true),
    ] {
        let config = QuantConfig {
            codebook,
            block_size,
            double_quant,
        };
        for direction in DIRECTIONS {
            check(client, F32, (5, [96, 64]), config, 0, direction, None);
        }
    }
}

pub fn rows_may_lie_apart(client: &Client) {
    for padding in [4, 5] {
        for direction in DIRECTIONS {
            let config = QuantConfig::default();
            check(
                client,
                F32,
                (7, [70, 128]),
                config,
                padding,
                direction,
                None,
            );
        }
    }
}

pub fn an_empty_product_is_empty_or_zero(client: &Client) {
    let run = |m: usize, shape: [usize; 2]| {
        let matrix = qlora_cpu::quantize(
            &vec![0.0f32; shape[0] * shape[1]],
            shape,
            QuantConfig::default(),
        );
        let weight = upload(client, &matrix.unwrap());
        let (x, _) = upload_values(client, &vec![1.0; (m * shape[1]).max(1)], F32);
        let y = matmul(
            client,
            rows(x, F32, m, shape[1]),
            &weight,
            Direction::Forward,
        )
        .unwrap();
        read_values(client, y, F32)
    };
    assert!(run(0, [8, 64]).is_empty());
    assert_eq!(run(3, [2, 0]), [0.0; 6]);
}
