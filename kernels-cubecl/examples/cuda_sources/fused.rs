//! Calls of the fused operations, with the sizes of LLaMA-7B and 512 tokens.

use std::fmt;

use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind, IntKind};
use cubecl::std::tensor::TensorHandle;
use nf4::attention::AttentionConfig;
use nf4::glu::Activation;
use qlora_cubecl::KernelError;
use qlora_cubecl::fused::attention::{self, Angles, CachedOperands, Operands};
use qlora_cubecl::fused::rms_norm::{self, Saved};
use qlora_cubecl::fused::{cross_entropy, glu, rope};

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
    Norm(Factor),
    AddNorm,
    NormBackward(Factor),
    AddNormBackward,
    Glu(Activation),
    GluBackward(Activation),
    Rope,
    PartialRope,
    CrossEntropy,
    CrossEntropyGradient,
    /// Of scaled and capped logits.
    CappedCrossEntropy,
    CappedCrossEntropyGradient,
    Attention(Keys),
    AttentionBackward(Keys),
    /// Of a token behind all but the last, which rotates.
    CachedAttention(Keys),
}

/// The factor of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Factor {
    Weight,
    OneMore,
}

/// The keys that a query sees, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    All,
    Packed,
    Windowed,
    Capped,
    /// All three.
    PackedWindowedCapped,
}

impl Fused {
    pub const ALL: [Self; 28] = [
        Self::Norm(Factor::Weight),
        Self::Norm(Factor::OneMore),
        Self::AddNorm,
        Self::NormBackward(Factor::Weight),
        Self::NormBackward(Factor::OneMore),
        Self::AddNormBackward,
        Self::Glu(Activation::Silu),
        Self::Glu(Activation::GeluTanh),
        Self::GluBackward(Activation::Silu),
        Self::GluBackward(Activation::GeluTanh),
        Self::Rope,
        Self::PartialRope,
        Self::CrossEntropy,
        Self::CrossEntropyGradient,
        Self::CappedCrossEntropy,
        Self::CappedCrossEntropyGradient,
        Self::Attention(Keys::All),
        Self::Attention(Keys::Packed),
        Self::Attention(Keys::Windowed),
        Self::Attention(Keys::Capped),
        Self::Attention(Keys::PackedWindowedCapped),
        Self::AttentionBackward(Keys::All),
        Self::AttentionBackward(Keys::Packed),
        Self::AttentionBackward(Keys::Windowed),
        Self::AttentionBackward(Keys::Capped),
        Self::AttentionBackward(Keys::PackedWindowedCapped),
        Self::CachedAttention(Keys::All),
        Self::CachedAttention(Keys::PackedWindowedCapped),
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
        let heads = || empty(&[1, TOKENS, HEADS, HEAD_DIM], dtype);
        let one_a_token = |dtype| empty(&[TOKENS, 1], dtype);
        let weight = || empty(&[HIDDEN], dtype);
        let norm = |factor| nf4::rms_norm::RmsNormConfig {
            eps: 1e-5,
            unit_offset: factor == Factor::OneMore,
        };
        let saved = || Saved {
            x: x(),
            weight: weight(),
            inv_rms: one_a_token(F32),
        };
        let config = |keys: Keys| AttentionConfig {
            scale: 1.0,
            window: keys.are_windowed().then_some(TOKENS / 4),
            softcap: keys.are_capped().then_some(50.0),
        };
        let operands = |keys: Keys| Operands {
            q: heads(),
            k: heads(),
            v: heads(),
            starts: keys.are_packed().then(|| empty(&[1, TOKENS], I32)),
            config: config(keys),
        };
        match self {
            Self::Norm(factor) => {
                rms_norm::forward(client, x(), weight(), norm(factor)).map(|_| ())
            }
            Self::AddNorm => {
                let config = norm(Factor::Weight);
                rms_norm::add_forward(client, x(), x(), weight(), config).map(|_| ())
            }
            Self::NormBackward(factor) => {
                rms_norm::backward(client, saved(), x(), None, norm(factor)).map(|_| ())
            }
            Self::AddNormBackward => {
                let config = norm(Factor::Weight);
                rms_norm::backward(client, saved(), x(), Some(x()), config).map(|_| ())
            }
            Self::Glu(activation) => glu::forward(client, gate(), gate(), activation).map(|_| ()),
            Self::GluBackward(activation) => {
                glu::backward(client, gate(), gate(), gate(), activation).map(|_| ())
            }
            Self::Rope | Self::PartialRope => {
                let turned = match self {
                    Self::Rope => HEAD_DIM,
                    _ => HEAD_DIM / 2,
                };
                let angles = || empty(&[TOKENS, turned / 2], F32);
                rope::rotate(client, heads(), angles(), angles(), false).map(|_| ())
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
            Self::Attention(keys) => attention::forward(client, operands(keys)).map(|_| ()),
            Self::AttentionBackward(keys) => {
                let results = [heads(), empty(&[1, TOKENS, HEADS], F32)];
                attention::backward(client, operands(keys), results, heads()).map(|_| ())
            }
            Self::CachedAttention(keys) => {
                let token = || empty(&[1, 1, HEADS, HEAD_DIM], dtype);
                let angles = || [(); 2].map(|()| empty(&[1, HEAD_DIM / 2], F32));
                let operands = CachedOperands {
                    q: token(),
                    k: token(),
                    v: token(),
                    angles: Some(Angles {
                        query: angles(),
                        key: angles(),
                    }),
                    keys: heads(),
                    values: heads(),
                    len: TOKENS - 1,
                    starts: keys.are_packed().then(|| empty(&[1, 1], I32)),
                    config: config(keys),
                };
                attention::forward_cached(client, operands).map(|_| ())
            }
        }
    }
}

impl Keys {
    fn are_packed(self) -> bool {
        matches!(self, Self::Packed | Self::PackedWindowedCapped)
    }

    fn are_windowed(self) -> bool {
        matches!(self, Self::Windowed | Self::PackedWindowedCapped)
    }

    fn are_capped(self) -> bool {
        matches!(self, Self::Capped | Self::PackedWindowedCapped)
    }
}

impl fmt::Display for Fused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Norm(factor) => write!(f, "RMSNorm{factor}"),
            Self::AddNorm => f.write_str("RMSNorm with residual"),
            Self::NormBackward(factor) => write!(f, "RMSNorm{factor}, backward"),
            Self::AddNormBackward => f.write_str("RMSNorm with residual, backward"),
            Self::Glu(Activation::Silu) => f.write_str("SwiGLU"),
            Self::GluBackward(Activation::Silu) => f.write_str("SwiGLU, backward"),
            Self::Glu(Activation::GeluTanh) => f.write_str("GeGLU"),
            Self::GluBackward(Activation::GeluTanh) => f.write_str("GeGLU, backward"),
            Self::Rope => f.write_str("RoPE"),
            Self::PartialRope => f.write_str("RoPE of half a head"),
            Self::CrossEntropy => f.write_str("cross-entropy"),
            Self::CrossEntropyGradient => f.write_str("cross-entropy and its gradient"),
            Self::CappedCrossEntropy => f.write_str("cross-entropy of capped logits"),
            Self::CappedCrossEntropyGradient => {
                f.write_str("cross-entropy of capped logits and its gradient")
            }
            Self::Attention(keys) => write!(f, "attention{keys}"),
            Self::AttentionBackward(keys) => write!(f, "attention{keys}, backward"),
            Self::CachedAttention(keys) => write!(f, "attention of a token{keys}, cached"),
        }
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Weight => "",
            Self::OneMore => " by 1 + w",
        })
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "",
            Self::Packed => " of packed rows",
            Self::Windowed => " in a window",
            Self::Capped => " with a soft cap",
            Self::PackedWindowedCapped => " of packed rows in a window with a soft cap",
        })
    }
}
