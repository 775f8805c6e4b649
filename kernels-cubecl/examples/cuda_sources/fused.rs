//! Calls of the fused operations, with the sizes of LLaMA-7B and 512 tokens.

use std::fmt;

use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind, IntKind};
use cubecl::std::tensor::TensorHandle;
use qlora_cubecl::KernelError;
use qlora_cubecl::fused::attention::{self, Operands};
use qlora_cubecl::fused::{cross_entropy, rms_norm, rope, swiglu};

const TOKENS: usize = 512;
const HIDDEN: usize = 4096;
const INTERMEDIATE: usize = 11008;
const VOCAB: usize = 32000;
const HEADS: usize = 32;
const HEAD_DIM: usize = HIDDEN / HEADS;

const F32: ElemType = ElemType::Float(FloatKind::F32);
const I32: ElemType = ElemType::Int(IntKind::I32);

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
    /// Of scaled and capped logits.
    CappedCrossEntropy,
    CappedCrossEntropyGradient,
    Attention,
    AttentionBackward,
    /// With packed rows.
    PackedAttention,
    PackedAttentionBackward,
}

impl Fused {
    pub const ALL: [Self; 15] = [
        Self::Norm,
        Self::AddNorm,
        Self::NormBackward,
        Self::AddNormBackward,
        Self::SwiGlu,
        Self::SwiGluBackward,
        Self::Rope,
        Self::CrossEntropy,
        Self::CrossEntropyGradient,
        Self::CappedCrossEntropy,
        Self::CappedCrossEntropyGradient,
        Self::Attention,
        Self::AttentionBackward,
        Self::PackedAttention,
        Self::PackedAttentionBackward,
    ];

    /// Returns whether it works in `dtype`: logits are f32.
    pub fn takes(self, dtype: FloatKind) -> bool {
        let of_logits = matches!(
            self,
            Self::CrossEntropy
                | Self::CrossEntropyGradient
                | Self::CappedCrossEntropy
                | Self::CappedCrossEntropyGradient
        );
        !of_logits || dtype == FloatKind::F32
    }

    /// Makes the call, on buffers that are never filled.
    pub fn launch(self, client: &Client, dtype: FloatKind) -> Result<(), KernelError> {
        let dtype = ElemType::Float(dtype);
        let empty = |shape: &[usize], dtype: ElemType| {
            let handle = client.empty(dtype.size() * shape.iter().product::<usize>());
            TensorHandle::new_contiguous(shape, handle, dtype)
        };
        let x = || empty(&[TOKENS, HIDDEN], dtype);
        let gate = || empty(&[TOKENS, INTERMEDIATE], dtype);
        let one_a_token = |dtype| empty(&[TOKENS, 1], dtype);
        let weight = empty(&[HIDDEN], dtype);
        let eps = 1e-5;
        match self {
            Self::Norm => rms_norm::forward(client, x(), weight, eps).map(|_| ()),
            Self::AddNorm => rms_norm::add_forward(client, x(), x(), weight, eps).map(|_| ()),
            Self::NormBackward | Self::AddNormBackward => {
                let inv_rms = one_a_token(F32);
                let grad_sum = (self == Self::AddNormBackward).then(x);
                rms_norm::backward(client, x(), weight, inv_rms, x(), grad_sum).map(|_| ())
            }
            Self::SwiGlu => swiglu::forward(client, gate(), gate()).map(|_| ()),
            Self::SwiGluBackward => swiglu::backward(client, gate(), gate(), gate()).map(|_| ()),
            Self::Rope => {
                let heads = empty(&[1, TOKENS, HEADS, HEAD_DIM], dtype);
                let angles = || empty(&[TOKENS, HEAD_DIM / 2], F32);
                rope::rotate(client, heads, angles(), angles(), false).map(|_| ())
            }
            Self::CrossEntropy
            | Self::CrossEntropyGradient
            | Self::CappedCrossEntropy
            | Self::CappedCrossEntropyGradient => {
                let capped = matches!(
                    self,
                    Self::CappedCrossEntropy | Self::CappedCrossEntropyGradient
                );
                let operands = cross_entropy::Operands {
                    products: empty(&[TOKENS, VOCAB], dtype),
                    classes: one_a_token(I32),
                    weights: one_a_token(F32),
                    scale: if capped { 0.5 } else { 1.0 },
                    softcap: capped.then_some(30.0),
                };
                if matches!(self, Self::CrossEntropy | Self::CappedCrossEntropy) {
                    return cross_entropy::losses(client, operands).map(|_| ());
                }
                cross_entropy::losses_and_gradient(client, operands).map(|_| ())
            }
            Self::Attention
            | Self::PackedAttention
            | Self::AttentionBackward
            | Self::PackedAttentionBackward => {
                let packed = matches!(self, Self::PackedAttention | Self::PackedAttentionBackward);
                let heads = || empty(&[1, TOKENS, HEADS, HEAD_DIM], dtype);
                let operands = Operands {
                    q: heads(),
                    k: heads(),
                    v: heads(),
                    starts: packed.then(|| empty(&[1, TOKENS], I32)),
                    scale: 1.0,
                };
                if matches!(self, Self::Attention | Self::PackedAttention) {
                    return attention::forward(client, operands).map(|_| ());
                }
                let lse = empty(&[1, TOKENS, HEADS], F32);
                attention::backward(client, operands, [heads(), lse], heads()).map(|_| ())
            }
        }
    }
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
            Self::CappedCrossEntropy => "cross-entropy of capped logits",
            Self::CappedCrossEntropyGradient => "cross-entropy of capped logits and its gradient",
            Self::Attention => "attention",
            Self::AttentionBackward => "attention, backward",
            Self::PackedAttention => "attention of packed rows",
            Self::PackedAttentionBackward => "attention of packed rows, backward",
        })
    }
}
