//! Operands of operations that are more than a tensor.

use burn_core as burn;
use burn_core::backend::{
    Backend, Dispatch, ExtensionType,
    tensor::{FloatTensor, IntTensor},
};
use burn_core::tensor::{Int, Tensor};

/// The mask of causal attention: the keys, up to its own position, that a query sees.
#[derive(ExtensionType, Clone, Debug)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub enum AttentionMask<B: Backend> {
    /// All keys up to the query's own.
    Causal,
    /// The keys of the query's own sequence, where rows hold several.
    Packed {
        /// For every query the first key it sees, `[batch, q_len]`; its own it sees in any case.
        starts: IntTensor<B>,
    },
}

impl<B: Backend> AttentionMask<B> {
    /// Returns the first key of every query, `[batch, q_len]`; `None` if that is key 0.
    pub(crate) fn starts(self) -> Option<IntTensor<B>> {
        match self {
            Self::Causal => None,
            Self::Packed { starts } => Some(starts),
        }
    }
}

impl AttentionMask<Dispatch> {
    /// Returns the mask of rows that hold several sequences, given their starts, or of rows that are one each.
    pub(crate) fn of(starts: Option<Tensor<2, Int>>) -> Self {
        match starts {
            Some(starts) => Self::Packed {
                starts: starts.into_dispatch(),
            },
            None => Self::Causal,
        }
    }
}

/// The rotation of queries and keys by their positions.
#[derive(ExtensionType, Clone, Debug)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub enum Rotation<B: Backend> {
    /// They do not rotate.
    None,
    /// They rotate as [`FusedOps::rope`](crate::FusedOps::rope) does, by tables of cosines and sines.
    Angles {
        /// Cosines of the queries, `[seq, n/2]` or `[batch · seq, n/2]`.
        query_cos: FloatTensor<B>,
        /// Their sines.
        query_sin: FloatTensor<B>,
        /// Cosines of the keys, of the same shape.
        key_cos: FloatTensor<B>,
        /// Their sines.
        key_sin: FloatTensor<B>,
    },
}

/// Keys and values of the tokens that rows have so far.
#[derive(ExtensionType, Clone, Debug)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub struct CachedTokens<B: Backend> {
    /// `[batch, room, kv_heads, d]`, rotated.
    pub keys: FloatTensor<B>,
    /// `[batch, room, kv_heads, d]`.
    pub values: FloatTensor<B>,
    /// The tokens of a row that are held, which come first.
    pub len: usize,
}
