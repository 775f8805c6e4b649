//! The calls that training and generation with a model of LLaMA-7B's shapes make, and one odd shape.
//!
//! The table of CUDA kernels is of these calls: a new launch function, or a new choice within one, needs its case here.

use std::fmt;

use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::server::Handle;
use cubecl::std::tensor::TensorHandle;
use nf4::adamw::{AdamWStep, BLOCK, BLOCK_BYTES};
use nf4::glu::Activation;
use nf4::rms_norm::RmsNormConfig;
use nf4::{Direction, Format, GgufFormat, Layout, QuantConfig, Scales};
use qlora_cubecl::adamw::{self, Run};
use qlora_cubecl::matmul::low_rank::{self, LowRank};
use qlora_cubecl::matmul::{Epilogue, Layer, Norm, dense_rows};
use qlora_cubecl::{KernelError, Weight, dequantize, matmul, quantize};

use crate::fused::{self, Fused};

/// `[out_features, in_features]` of attention, of gate and up, of down; and one whose rows begin anywhere in a
/// packed word.
const SHAPES: [[usize; 2]; 4] = [[4096, 4096], [11008, 4096], [4096, 11008], [1000, 1001]];

/// One token, a few, a short row, a training step's.
const ROWS: [usize; 4] = [1, 8, 16, 512];

const FLOATS: [FloatKind; 3] = [FloatKind::BF16, FloatKind::F16, FloatKind::F32];

/// Formats of files: codes of 4 bits with minima, and of 8 bits with small blocks; scales of two levels. And the shape and type
/// that they are shown in.
const FILE_FORMATS: [GgufFormat; 2] = [GgufFormat::Q4_K, GgufFormat::Q6_K];
const FILE_SHAPE: [usize; 2] = SHAPES[1];
const FILE_FLOAT: FloatKind = FloatKind::F16;

/// `[vocab, hidden]`.
const HEAD: [usize; 2] = [32000, 4096];

/// The rank of a LoRA layer.
const RANK: usize = 16;

/// A launch function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Quantize,
    Dequantize,
    Matmul(Direction, usize),
    LowRank(usize),
    LowRankBackward(usize),
    /// Three of one input.
    LowRankLayers(usize),
    /// Gate and up of one row, with the norm before them and the gate behind.
    GatedLayers,
    /// A layer of one row, and the residual stream that it is added to.
    AddedLayer,
    /// A dense head of one row, with the norm before it.
    Head,
    AdamW,
    AdamW8bit,
    Fused(Fused),
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub operation: Operation,
    /// The type of `x`, or of the result of a dequantization.
    pub dtype: FloatKind,
    /// The shape of the weight, or of the operand of an operation between weights.
    pub shape: [usize; 2],
    /// The format of the weight.
    pub format: Format,
}

/// Returns all calls.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in SHAPES {
        let mut case = |operation, dtype, format| {
            cases.push(Case {
                operation,
                dtype,
                shape,
                format,
            });
        };
        for double_quant in [true, false] {
            let format = Format::from(QuantConfig {
                double_quant,
                ..QuantConfig::default()
            });
            case(Operation::Quantize, FloatKind::F32, format);
            // Without double quantization a kernel differs in how it reads a scale: one dtype shows that.
            let floats = if double_quant {
                &FLOATS[..]
            } else {
                &FLOATS[..1]
            };
            for &dtype in floats {
                case(Operation::Dequantize, dtype, format);
                for rows in ROWS {
                    for direction in [Direction::Forward, Direction::Transposed] {
                        case(Operation::Matmul(direction, rows), dtype, format);
                    }
                    if double_quant {
                        case(Operation::LowRank(rows), dtype, format);
                        case(Operation::LowRankBackward(rows), dtype, format);
                    }
                }
            }
        }
        let format = Format::from(QuantConfig::default());
        case(Operation::AdamW, FloatKind::F32, format);
        case(Operation::AdamW8bit, FloatKind::F32, format);
    }
    for format in FILE_FORMATS {
        let products = Direction::ALL
            .into_iter()
            .flat_map(|direction| [1, 512].map(|rows| Operation::Matmul(direction, rows)));
        for operation in products.chain([Operation::Dequantize]) {
            cases.push(Case {
                operation,
                dtype: FILE_FLOAT,
                shape: FILE_SHAPE,
                format: format.into(),
            });
        }
    }
    cases.push(Case {
        operation: Operation::LowRankLayers(1),
        dtype: FloatKind::F16,
        shape: SHAPES[0],
        format: QuantConfig::default().into(),
    });
    for (operation, shape) in [
        (Operation::GatedLayers, SHAPES[1]),
        (Operation::AddedLayer, SHAPES[2]),
        (Operation::Head, HEAD),
    ] {
        cases.push(Case {
            operation,
            dtype: FloatKind::F16,
            shape,
            format: QuantConfig::default().into(),
        });
    }
    for fused in Fused::ALL {
        for dtype in FLOATS.into_iter().filter(|dtype| fused.takes(*dtype)) {
            cases.push(Case {
                operation: Operation::Fused(fused),
                dtype,
                shape: fused::SHAPE,
                format: QuantConfig::default().into(),
            });
        }
    }
    cases
}

/// Returns the products of LLaMA-7B's layers whose time `ROOFLINE.md` predicts.
pub fn of_layers() -> Vec<Case> {
    let mut cases = Vec::new();
    for direction in [Direction::Forward, Direction::Transposed] {
        for shape in [[4096, 4096], [11008, 4096], [4096, 11008]] {
            for rows in [1, 16, 512, 2048] {
                cases.push(Case {
                    operation: Operation::Matmul(direction, rows),
                    dtype: FloatKind::F16,
                    shape,
                    format: QuantConfig::default().into(),
                });
            }
        }
    }
    cases
}

impl Case {
    /// Returns the call in words.
    pub fn name(&self) -> String {
        let rows = self.rows().map(|rows| format!(", m {rows}"));
        let [out, into] = self.shape;
        let dtype = self.type_name();
        format!(
            "{self}{}, {out} × {into}, {dtype}",
            rows.unwrap_or_default()
        )
    }

    /// Returns the rows of `x`, if that is what the kernel is chosen by.
    pub fn rows(&self) -> Option<usize> {
        match self.operation {
            Operation::Matmul(_, rows)
            | Operation::LowRank(rows)
            | Operation::LowRankBackward(rows)
            | Operation::LowRankLayers(rows) => Some(rows),
            _ => None,
        }
    }

    pub fn type_name(&self) -> String {
        format!("{:?}", self.dtype).to_lowercase()
    }

    /// Makes the call, on buffers that are never filled. Returns the buffer of packed words that it reads.
    pub fn launch(&self, client: &Client) -> Result<Option<Handle>, KernelError> {
        let elements = self.shape[0] * self.shape[1];
        let dtype = ElemType::Float(self.dtype);
        match self.operation {
            Operation::Quantize => {
                let values = client.empty(4 * elements);
                let values = TensorHandle::new_contiguous(self.shape, values, dtype);
                quantize::quantize(client, values, self.layout())?;
                Ok(None)
            }
            Operation::Dequantize => {
                let weight = self.weight(client);
                dequantize::dequantize(client, &weight, dtype)?;
                Ok(Some(weight.packed))
            }
            Operation::Matmul(direction, m) => {
                let weight = self.weight(client);
                let [k, _] = direction.widths(self.shape);
                let x = matrix(client, [m, k], dtype);
                let packed = weight.packed.clone();
                matmul::matmul(client, x, weight, direction)?;
                Ok(Some(packed))
            }
            Operation::LowRank(m) => {
                let [_, k] = self.shape;
                let (weight, x) = (self.weight(client), matrix(client, [m, k], dtype));
                low_rank::forward(client, x, weight, self.factors(client))?;
                Ok(None)
            }
            Operation::LowRankBackward(m) => {
                let [n, k] = self.shape;
                let (weight, factors) = (self.weight(client), self.factors(client));
                let (x, dy) = (matrix(client, [m, k], dtype), matrix(client, [m, n], dtype));
                low_rank::backward(client, x, weight, factors, dy)?;
                Ok(None)
            }
            Operation::LowRankLayers(m) => {
                let x = matrix(client, [m, self.shape[1]], dtype);
                let layers = [(); 3].map(|()| Layer {
                    weight: self.weight(client),
                    low_rank: Some(self.factors(client)),
                });
                matmul::layers(client, x, layers.into())?;
                Ok(None)
            }
            Operation::GatedLayers => {
                let gate = Epilogue::Glu(Activation::Silu);
                self.fused_layers(client, Some(self.norm(client)), 2, gate)
            }
            Operation::AddedLayer => {
                let residual = matrix(client, [1, self.shape[0]], dtype);
                self.fused_layers(client, None, 1, Epilogue::Add(residual))
            }
            Operation::Head => {
                let (x, head) = (
                    matrix(client, [1, self.shape[1]], dtype),
                    self.dense(client),
                );
                dense_rows::multiply(client, x, Some(self.norm(client)), &head)?;
                Ok(None)
            }
            Operation::Fused(fused) => fused.launch(client, self.dtype).map(|()| None),
            Operation::AdamW => {
                let run = run(elements, 2 * elements);
                let page = client.empty(4 * run.page_words);
                let buffers = parameter(client, elements);
                adamw::update_f32(client, buffers.each_ref(), &page, run, STEP)?;
                Ok(None)
            }
            Operation::AdamW8bit => {
                let run = run(elements, elements.div_ceil(BLOCK) * BLOCK_BYTES / 4);
                let page = client.empty(4 * run.page_words);
                let maps = client.empty(4 * 512);
                let buffers = parameter(client, elements);
                adamw::update_dynamic8(client, buffers.each_ref(), &page, &maps, run, STEP)?;
                Ok(None)
            }
        }
    }

    /// Multiplies one row by several weights, with what is around them.
    fn fused_layers(
        &self,
        client: &Client,
        norm: Option<Norm>,
        count: usize,
        epilogue: Epilogue,
    ) -> Result<Option<Handle>, KernelError> {
        let x = matrix(client, [1, self.shape[1]], ElemType::Float(self.dtype));
        let weights = (0..count).map(|_| self.weight(client)).collect();
        let results = matmul::fused_layers(client, x, norm, weights, epilogue)?;
        results.expect("a GPU has it in one launch");
        Ok(None)
    }

    /// Returns a norm of rows that the weight takes.
    fn norm(&self, client: &Client) -> Norm {
        let dtype = ElemType::Float(FloatKind::F32);
        Norm {
            weight: matrix(client, [1, self.shape[1]], dtype),
            config: RmsNormConfig::new(1e-5),
        }
    }

    fn dense(&self, client: &Client) -> TensorHandle {
        matrix(client, self.shape, ElemType::Float(self.dtype))
    }

    fn factors(&self, client: &Client) -> LowRank {
        let [n, k] = self.shape;
        let f32 = ElemType::Float(FloatKind::F32);
        LowRank {
            a: matrix(client, [k, RANK], f32),
            b: matrix(client, [RANK, n], f32),
            scale: 1.0,
        }
    }

    fn layout(&self) -> Layout {
        Layout::new(self.shape, self.format).expect("the shape of a weight")
    }

    /// Returns whether the weight is one that a file has as it is.
    pub fn is_of_file(&self) -> bool {
        matches!(self.format, Format::Gguf(_))
    }

    /// Returns whether the scales are plain numbers.
    pub fn has_plain_scales(&self) -> bool {
        self.format.blocks().scales == Scales::F32
    }

    /// Returns the bits of a code of the weight.
    pub fn code_bits(&self) -> usize {
        self.format.blocks().codes.bits()
    }

    fn weight(&self, client: &Client) -> Weight {
        let layout = self.layout();
        Weight {
            packed: client.empty(4 * layout.packed_words()),
            absmax: client.empty(4 * layout.absmax_words()),
            layout,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.operation {
            Operation::Quantize => write!(f, "quantize"),
            Operation::Dequantize => write!(f, "dequantize"),
            Operation::Matmul(Direction::Forward, _) => write!(f, "x · Wᵀ"),
            Operation::Matmul(Direction::Transposed, _) => write!(f, "x · W"),
            Operation::LowRank(_) => write!(f, "LoRA layer"),
            Operation::LowRankBackward(_) => write!(f, "LoRA layer, backward"),
            Operation::LowRankLayers(_) => write!(f, "three LoRA layers of one x"),
            Operation::GatedLayers => write!(f, "norm, gate and up, SwiGLU, m 1"),
            Operation::AddedLayer => write!(f, "layer and sum, m 1"),
            Operation::Head => write!(f, "norm and dense head, m 1"),
            Operation::AdamW => write!(f, "AdamW"),
            Operation::AdamW8bit => write!(f, "AdamW, 8-bit"),
            Operation::Fused(fused) => write!(f, "{fused}"),
        }?;
        match self.format {
            Format::Gguf(format) => write!(f, ", {format}"),
            Format::Quantized(_) => Ok(()),
        }
    }
}

fn matrix(client: &Client, shape: [usize; 2], dtype: ElemType) -> TensorHandle {
    let handle = client.empty(dtype.size() * shape[0] * shape[1]);
    TensorHandle::new_contiguous(shape, handle, dtype)
}

/// Returns a parameter, its gradient and the buffer of the result.
fn parameter(client: &Client, elements: usize) -> [Handle; 3] {
    [(); 3].map(|()| client.empty(4 * elements))
}

fn run(elements: usize, page_words: usize) -> Run {
    Run {
        parameter: elements,
        first: 0,
        elements,
        page_words,
        offset: 0,
        end: page_words,
    }
}

/// No kernel depends on them.
const STEP: AdamWStep = AdamWStep {
    rate_1: 0.1,
    beta_2: 0.999,
    rate_2: 0.001,
    correction_2: 1.0,
    epsilon: 1e-8,
    decay: 1.0,
    step_size: 1e-3,
};
