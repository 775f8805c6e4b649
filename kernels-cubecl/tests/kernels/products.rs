//! Products by every kernel, in every shape and type, against the host's decoded weight multiplied in f64.

use cubecl::client::Client;
use cubecl::ir::ElemType;
use nf4::{Codebook, Direction, QuantConfig, QuantizedMatrix};
use qlora_cubecl::check_float;
use qlora_cubecl::matmul::{
    Alignment, DeviceKind, GEMV_MAX_ROWS, Kernel, Problem, ProductClass, matmul,
};

use qlora_test_support::random::uniform;

use crate::support::{
    BF16, F16, F32, assert_close, read_values, reference, rows, strided_rows, tolerance, upload,
    upload_values,
};

/// Rows of `x` and `[out_features, in_features]`.
type Case = (usize, [usize; 2]);

/// Rows of the weight of a block's, a word's and no multiple; of `x` one row, every power of two that a kernel tells apart,
/// and more than any tile. The last is longer than a panel and has more rows than share one.
const CASES: [Case; 16] = [
    (1, [70, 128]),
    (2, [70, 128]),
    (3, [330, 320]),
    (7, [70, 128]),
    (20, [70, 128]),
    (1, [75, 104]),
    (2, [75, 104]),
    (3, [75, 104]),
    (5, [75, 104]),
    (20, [75, 104]),
    (1, [37, 51]),
    (2, [37, 51]),
    (4, [37, 51]),
    (7, [37, 51]),
    (20, [37, 51]),
    (250, [330, 320]),
];

/// A few rows that the caches of a core do not hold: forward, a CPU has two kernels for them. LLaMA-7B's down projection has
/// as many columns.
const LONG_ROWS: [Case; 3] = [(2, [6, 16448]), (3, [6, 11008]), (4, [6, 11008])];

/// The elements of a few rows that those caches hold.
const CACHED: usize = 32 * 1024;

/// Returns the kernels for a kind of device, but for that which multiplies matrices by instruction: not every device has those.
pub fn kernels(device: DeviceKind) -> &'static [Kernel] {
    match device {
        DeviceKind::Cpu => &[Kernel::Dots, Kernel::Panels, Kernel::RegisterTiled],
        DeviceKind::Rasterizer | DeviceKind::Gpu => {
            &[Kernel::RegisterTiled, Kernel::Gemv, Kernel::StagedUnits]
        }
    }
}

/// Returns the cases that every kernel for a kind of device multiplies if it [takes](takes) them.
fn cases(device: DeviceKind) -> impl Iterator<Item = Case> {
    let long = match device {
        DeviceKind::Cpu => &LONG_ROWS[..],
        DeviceKind::Rasterizer | DeviceKind::Gpu => &[],
    };
    CASES.iter().chain(long).copied()
}

/// Returns whether `kernel` is written for the case.
pub fn takes(kernel: Kernel, m: usize, alignment: Alignment, direction: Direction) -> bool {
    match kernel {
        Kernel::Gemv => m <= GEMV_MAX_ROWS && alignment != Alignment::Elements,
        Kernel::Dots => {
            m <= 4 && direction == Direction::Forward && matches!(alignment, Alignment::Blocks(_))
        }
        _ => true,
    }
}

fn alignment(in_features: usize) -> Alignment {
    match in_features {
        n if n.is_multiple_of(64) => Alignment::Blocks(64),
        n if n.is_multiple_of(8) => Alignment::Words,
        _ => Alignment::Elements,
    }
}

/// A product on the device, and the numbers that it is made of.
pub struct Product {
    pub problem: Problem,
    expected: Vec<f64>,
    dtype: ElemType,
    what: String,
}

impl Product {
    fn new(
        client: &Client,
        dtype: ElemType,
        (m, shape): Case,
        config: QuantConfig,
        padding: usize,
        direction: Direction,
    ) -> Self {
        let matrix = qlora_cpu::quantize(&uniform(3, shape[0] * shape[1]), shape, config).unwrap();
        Self::of(client, dtype, (m, &matrix), padding, direction)
    }

    pub fn of(
        client: &Client,
        dtype: ElemType,
        (m, matrix): (usize, &QuantizedMatrix),
        padding: usize,
        direction: Direction,
    ) -> Self {
        let layout = matrix.layout();
        let weight = upload(client, matrix);
        let [k, _] = direction.widths(layout.shape());
        let stride = k + padding;
        let (handle, x) = upload_values(client, &uniform(5, m * stride), dtype);
        let x_rows = strided_rows(handle, dtype, [m, k], stride);
        Self {
            problem: Problem::new(client, x_rows, weight, direction).unwrap(),
            expected: reference(matrix, &x, m, stride, direction),
            dtype,
            what: format!("{direction:?} {m} × {layout:?} {dtype:?}"),
        }
    }

    pub fn check(&self, client: &Client, kernel: Kernel) {
        let what = format!("{kernel} {}", self.what);
        let y = self.problem.multiply(kernel);
        let y = y.unwrap_or_else(|error| panic!("{what}: {error}"));
        let y = read_values(client, y.handle, self.dtype);
        assert_close(&y, &self.expected, tolerance(self.dtype), &what);
    }

    /// The likeliest kernel.
    fn check_chosen(&self, client: &Client) {
        self.check(client, self.problem.candidates()[0]);
    }
}

pub fn every_kernel_multiplies_every_shape(client: &Client) {
    let device = DeviceKind::of(client);
    for case in cases(device) {
        for direction in Direction::ALL {
            let config = QuantConfig::default();
            let product = Product::new(client, F32, case, config, 0, direction);
            let kernels = kernels(device).iter().copied();
            let (m, alignment) = (case.0, alignment(case.1[1]));
            for kernel in kernels.filter(|kernel| takes(*kernel, m, alignment, direction)) {
                product.check(client, kernel);
            }
        }
    }
}

/// The traits of a product that decide which of a kernel's code it runs.
#[derive(Debug, PartialEq)]
struct Shape {
    rows: usize,
    alignment: Alignment,
    direction: Direction,
    are_long: bool,
}

impl Shape {
    fn new(m: usize, k: usize, alignment: Alignment, direction: Direction) -> Self {
        let few = (2..=4).contains(&m) && matches!(alignment, Alignment::Blocks(_));
        Self {
            rows: m.next_power_of_two().min(16),
            alignment,
            direction,
            are_long: few && direction == Direction::Forward && m * k > CACHED,
        }
    }
}

/// Returns whether [`every_kernel_multiplies_every_shape`] runs `kernel` on the class, on a runtime with that kind of device.
fn is_forced(kernel: Kernel, class: &ProductClass) -> bool {
    let wanted = Shape::new(class.m, class.k, class.alignment, class.direction);
    let found = |case: Case| {
        let (m, shape) = case;
        let [k, _] = class.direction.widths(shape);
        let alignment = alignment(shape[1]);
        takes(kernel, m, alignment, class.direction)
            && Shape::new(m, k, alignment, class.direction) == wanted
    };
    kernels(class.device).contains(&kernel) && cases(class.device).any(found)
}

/// No kernel can become a candidate in production without a case here.
pub fn every_candidate_is_forced(_: &Client) {
    let mut candidates = 0;
    for device in [DeviceKind::Cpu, DeviceKind::Rasterizer, DeviceKind::Gpu] {
        for m in (1..=20).chain([250]) {
            for direction in Direction::ALL {
                for alignment in [Alignment::Blocks(64), Alignment::Words, Alignment::Elements] {
                    for (k, half) in [(128, false), (128, true), (11008, false), (16448, true)] {
                        // Rows that the caches do not hold matter to a CPU alone.
                        if k > 128 && device != DeviceKind::Cpu {
                            continue;
                        }
                        let class = ProductClass {
                            device,
                            has_matrix_instructions: half && device == DeviceKind::Gpu,
                            direction,
                            m,
                            k,
                            alignment,
                            x_is_vectors: half || m > 1,
                        };
                        for kernel in class.candidates() {
                            // `matrix_instructions_multiply_every_shape` forces it where there are such instructions.
                            let forced =
                                kernel == Kernel::StagedMatrix || is_forced(kernel, &class);
                            assert!(forced, "{kernel} is not forced on {class:?}");
                            candidates += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(candidates > 0);
}

pub fn half_precision_is_multiplied_in_single(client: &Client) {
    let mut checked = 0;
    let device = DeviceKind::of(client);
    for dtype in [F16, BF16] {
        if check_float(client, "matmul", dtype).is_err() {
            continue;
        }
        for direction in Direction::ALL {
            for case in [(3, [70, 128]), (7, [70, 128])] {
                let config = QuantConfig::default();
                let product = Product::new(client, dtype, case, config, 0, direction);
                let class = product.problem.class();
                let by_instruction = class
                    .has_matrix_instructions
                    .then_some(Kernel::StagedMatrix);
                let kernels = kernels(device).iter().copied().chain(by_instruction);
                let (m, alignment) = (case.0, class.alignment);
                for kernel in kernels.filter(|kernel| takes(*kernel, m, alignment, direction)) {
                    product.check(client, kernel);
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 0, "both runtimes have f16");
}

/// Rows of `x` for every size of tile, and one more than fills them.
const MATRIX_ROWS: [usize; 6] = [1, 9, 16, 33, 64, 130];
/// Weights that fill tiles, and such as fill no vector.
const MATRIX_SHAPES: [[usize; 2]; 4] = [[70, 128], [128, 96], [33, 37], [136, 264]];

/// A device without such instructions refuses the kernel in every shape.
pub fn matrix_instructions_multiply_every_shape(client: &Client) {
    for dtype in [F16, BF16] {
        if check_float(client, "matmul", dtype).is_err() {
            continue;
        }
        for m in MATRIX_ROWS {
            for shape in MATRIX_SHAPES {
                for direction in Direction::ALL {
                    let config = QuantConfig::default();
                    let product = Product::new(client, dtype, (m, shape), config, 0, direction);
                    let kernel = Kernel::StagedMatrix;
                    if product.problem.class().has_matrix_instructions {
                        product.check(client, kernel);
                    } else {
                        product.problem.multiply(kernel).unwrap_err();
                    }
                }
            }
        }
    }
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
        for direction in Direction::ALL {
            let product = Product::new(client, F32, (5, [96, 64]), config, 0, direction);
            product.check_chosen(client);
        }
    }
}

pub fn rows_may_lie_apart(client: &Client) {
    for m in [3, 7] {
        for padding in [4, 5, 16] {
            for direction in Direction::ALL {
                let config = QuantConfig::default();
                let case = (m, [70, 128]);
                let product = Product::new(client, F32, case, config, padding, direction);
                product.check_chosen(client);
            }
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
        let x = rows(x, F32, m, shape[1]);
        let y = matmul(client, x, weight, Direction::Forward).unwrap();
        read_values(client, y.handle, F32)
    };
    assert!(run(0, [8, 64]).is_empty());
    assert_eq!(run(3, [2, 0]), [0.0; 6]);
}
