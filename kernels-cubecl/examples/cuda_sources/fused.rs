//! Calls of the fused operations, with the sizes of LLaMA-7B and 512 tokens.

use std::fmt;

use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind, IntKind};
use cubecl::server::Handle;
use qlora_cubecl::KernelError;
use qlora_cubecl::fused::attention::{self, Operands, Sizes, Starts};
use qlora_cubecl::fused::cross_entropy::{self, Targets};
use qlora_cubecl::fused::rms_norm::{self, NormWeight};
use qlora_cubecl::fused::rope::{self, Angles};
use qlora_cubecl::fused::{Matrix, swiglu};

const TOKENS: usize = 512;
const HIDDEN: usize = 4096;
const INTERMEDIATE: usize = 11008;
const VOCAB: usize = 32000;
const HEADS: usize = 32;

/// `[rows, columns]` of the matrix that a call is mostly about.
pub const SHAPE: [usize; 2] = [TOKENS, HIDDEN];

/// A launch function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fused {
    Norm,
    AddNorm,
    NormBackward,
    AddNormBackward,
    SwiGlu,
    SwiGluBackward,
    Rope,
    CrossEntropy,
    CrossEntropyGradient,
    Attention,
    AttentionBackward,
    /// With packed rows.
    PackedAttention,
    PackedAttentionBackward,
}

impl Fused {
    pub const ALL: [Self; 13] = [
        Self::Norm,
        Self::AddNorm,
        Self::NormBackward,
        Self::AddNormBackward,
        Self::SwiGlu,
        Self::SwiGluBackward,
        Self::Rope,
        Self::CrossEntropy,
        Self::CrossEntropyGradient,
        Self::Attention,
        Self::AttentionBackward,
        Self::PackedAttention,
        Self::PackedAttentionBackward,
    ];

    /// Whether it works in `dtype`: logits are f32.
    pub fn takes(self, dtype: FloatKind) -> bool {
        let of_logits = matches!(self, Self::CrossEntropy | Self::CrossEntropyGradient);
        !of_logits || dtype == FloatKind::F32
    }

    /// Makes the call, on buffers that are never filled.
    pub fn launch(self, client: &Client, dtype: FloatKind) -> Result<(), KernelError> {
        let dtype = ElemType::Float(dtype);
        let empty = |rows: usize, columns: usize| client.empty(dtype.size() * rows * columns);
        let x = empty(TOKENS, HIDDEN);
        let hidden = Matrix {
            handle: &x,
            dtype,
            rows: TOKENS,
            columns: HIDDEN,
        };
        let weight = empty(1, HIDDEN);
        let weight = NormWeight {
            handle: &weight,
            dtype,
        };
        let wide = empty(TOKENS, INTERMEDIATE);
        let gate = Matrix {
            handle: &wide,
            columns: INTERMEDIATE,
            ..hidden
        };
        let one_a_row = client.empty(4 * TOKENS * HEADS);
        let eps = 1e-5;
        match self {
            Self::Norm => rms_norm::forward(client, hidden, weight, eps).map(|_| ()),
            Self::AddNorm => rms_norm::add_forward(client, hidden, &x, weight, eps).map(|_| ()),
            Self::NormBackward | Self::AddNormBackward => {
                let grad_sum = (self == Self::AddNormBackward).then_some(&x);
                rms_norm::backward(client, hidden, weight, &one_a_row, &x, grad_sum).map(|_| ())
            }
            Self::SwiGlu => swiglu::forward(client, gate, &wide).map(|_| ()),
            Self::SwiGluBackward => swiglu::backward(client, gate, &wide, &wide).map(|_| ()),
            Self::Rope => {
                let heads = Matrix {
                    rows: TOKENS * HEADS,
                    columns: HIDDEN / HEADS,
                    ..hidden
                };
                let angles = client.empty(4 * TOKENS * HIDDEN / HEADS / 2);
                let angles = Angles {
                    cos: &angles,
                    sin: &angles,
                    dtype: ElemType::Float(FloatKind::F32),
                    rows: TOKENS,
                };
                rope::rotate(client, heads, HEADS, angles, false).map(|_| ())
            }
            Self::CrossEntropy | Self::CrossEntropyGradient => {
                let logits = empty(TOKENS, VOCAB);
                let logits = Matrix {
                    handle: &logits,
                    columns: VOCAB,
                    ..hidden
                };
                let targets = Targets {
                    classes: &one_a_row,
                    dtype: ElemType::Int(IntKind::I32),
                    weights: &one_a_row,
                };
                let gradient = self == Self::CrossEntropyGradient;
                cross_entropy::losses(client, logits, targets, gradient).map(|_| ())
            }
            Self::Attention => attend(client, dtype, &x, None),
            Self::AttentionBackward => attend_backward(client, dtype, &x, None),
            Self::PackedAttention => attend(client, dtype, &x, Some(&one_a_row)),
            Self::PackedAttentionBackward => attend_backward(client, dtype, &x, Some(&one_a_row)),
        }
    }
}

fn operands<'a>(dtype: ElemType, x: &'a Handle, starts: Option<&'a Handle>) -> Operands<'a> {
    Operands {
        q: x,
        k: x,
        v: x,
        dtype,
        sizes: Sizes {
            batch: 1,
            q_len: TOKENS,
            heads: HEADS,
            kv_len: TOKENS,
            kv_heads: HEADS,
            head_dim: HIDDEN / HEADS,
        },
        starts: starts.map(|handle| Starts {
            handle,
            dtype: ElemType::Int(IntKind::I32),
        }),
        scale: 1.0,
    }
}

fn attend(
    client: &Client,
    dtype: ElemType,
    x: &Handle,
    starts: Option<&Handle>,
) -> Result<(), KernelError> {
    attention::forward(client, operands(dtype, x, starts)).map(|_| ())
}

fn attend_backward(
    client: &Client,
    dtype: ElemType,
    x: &Handle,
    starts: Option<&Handle>,
) -> Result<(), KernelError> {
    let lse = client.empty(4 * TOKENS * HEADS);
    attention::backward(client, operands(dtype, x, starts), [x, &lse, x]).map(|_| ())
}

impl fmt::Display for Fused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Norm => "RMSNorm",
            Self::AddNorm => "RMSNorm with residual",
            Self::NormBackward => "RMSNorm, backward",
            Self::AddNormBackward => "RMSNorm with residual, backward",
            Self::SwiGlu => "SwiGLU",
            Self::SwiGluBackward => "SwiGLU, backward",
            Self::Rope => "RoPE",
            Self::CrossEntropy => "cross-entropy",
            Self::CrossEntropyGradient => "cross-entropy and its gradient",
            Self::Attention => "attention",
            Self::AttentionBackward => "attention, backward",
            Self::PackedAttention => "attention of packed rows",
            Self::PackedAttentionBackward => "attention of packed rows, backward",
        })
    }
}
