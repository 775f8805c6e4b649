//! The operands of operations as the kernels take them.

use std::marker::PhantomData;

use burn_core::backend::{Flex, TensorMetadata};
use burn_core::tensor::{DType, Shape};
use burn_flex::FlexTensor;
use burn_operands::flex::{FlexElement, Values, cast, integers};
use qlora_cpu::attention::{HeadsRef, Operands};
use qlora_cpu::cross_entropy::{self, LowRank};
use qlora_cpu::dense::DenseRef;

use crate::config::{AttentionConfig, LogitsConfig};
use crate::operands::AttentionMask;

/// A tensor `[batch, len, heads, d]` of `E`: a view as attention reads it, a copy where it cannot.
pub(super) struct Heads<E>(FlexTensor, PhantomData<E>);

impl<E: FlexElement> Heads<E> {
    pub(super) fn new(tensor: FlexTensor) -> Self {
        let heads = Self(cast::<E>(tensor), PhantomData);
        if heads.try_view().is_some() {
            return heads;
        }
        Self(heads.0.to_contiguous(), PhantomData)
    }

    pub(super) fn view(&self) -> HeadsRef<'_, E> {
        self.try_view().expect("a contiguous tensor can be read")
    }

    fn try_view(&self) -> Option<HeadsRef<'_, E>> {
        let layout = self.0.layout();
        let data = &self.0.storage()[layout.start_offset()..];
        let strides = [0, 1, 2, 3].map(|dim| layout.strides()[dim]);
        HeadsRef::new(data, layout.shape().dims(), strides)
    }
}

/// Returns the matrix of which `tensor` is the transposed view, where it lies; `None` if `tensor` is no such view.
pub(super) fn transposed<E: FlexElement>(tensor: &FlexTensor) -> Option<DenseRef<'_, E>> {
    let layout = tensor.layout();
    let [k, n] = layout.shape().dims();
    let stride = usize::try_from(layout.strides()[1]).ok()?;
    if layout.strides()[0] != 1 || stride < k {
        return None;
    }
    let data = &tensor.storage()[layout.start_offset()..];
    Some(DenseRef::with_stride(data, [n, k], stride))
}

/// The operands of an attention, keys and values in `K`.
pub(super) struct Attention<E, K> {
    q: Heads<E>,
    k: Heads<K>,
    v: Heads<K>,
    starts: Option<FlexTensor>,
}

impl<E: FlexElement, K: FlexElement> Attention<E, K> {
    pub(super) fn new(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        mask: AttentionMask<Flex>,
    ) -> Self {
        Self {
            q: Heads::new(q),
            k: Heads::new(k),
            v: Heads::new(v),
            starts: mask.starts().map(integers),
        }
    }

    pub(super) fn operands(&self, config: AttentionConfig) -> Operands<'_, E, K> {
        Operands {
            q: self.q.view(),
            k: self.k.view(),
            v: self.v.view(),
            sequence_offsets: self.starts.as_ref().map(|starts| starts.storage()),
            config,
        }
    }
}

/// The operands of the head's cross-entropy.
pub(super) struct Head<E> {
    hidden: Values<E>,
    weight: Values<E>,
    shape: [usize; 2],
    targets: FlexTensor,
    config: LogitsConfig,
}

impl<E: FlexElement> Head<E> {
    pub(super) fn new(
        hidden: FlexTensor,
        weight: FlexTensor,
        targets: FlexTensor,
        config: LogitsConfig,
    ) -> Self {
        Self {
            shape: weight.shape().dims(),
            hidden: Values::new(hidden),
            weight: Values::new(weight),
            targets: integers(targets),
            config,
        }
    }

    pub(super) fn operands(&self) -> cross_entropy::Operands<'_, E> {
        cross_entropy::Operands {
            hidden: &self.hidden,
            weight: &self.weight,
            shape: self.shape,
            targets: self.targets.storage(),
            scale: self.config.scale as f32,
            softcap: self.config.softcap.map(|cap| cap as f32),
        }
    }
}

/// The operands of the cross-entropy of a head with a low-rank product beside its own.
pub(super) struct LoraHead<E> {
    head: Head<E>,
    rows: Values<f32>,
    factor: Values<f32>,
    rank: usize,
}

impl<E: FlexElement> LoraHead<E> {
    /// Takes `[hidden, weight, rows, factor]`.
    pub(super) fn new(
        [hidden, weight, rows, factor]: [FlexTensor; 4],
        targets: FlexTensor,
        config: LogitsConfig,
    ) -> Self {
        Self {
            rank: rows.shape()[1],
            head: Head::new(hidden, weight, targets, config),
            rows: Values::new(rows),
            factor: Values::new(factor),
        }
    }

    pub(super) fn operands(&self) -> (cross_entropy::Operands<'_, E>, LowRank<'_>) {
        let low_rank = LowRank {
            rows: &self.rows,
            factor: &self.factor,
            rank: self.rank,
        };
        (self.head.operands(), low_rank)
    }
}

/// Returns the dtype that the head's products multiply: the weight's, or f64 where either is.
pub(super) fn head_dtype(hidden: &FlexTensor, weight: &FlexTensor) -> DType {
    if hidden.dtype() == DType::F64 {
        DType::F64
    } else {
        weight.dtype()
    }
}

/// Returns the shape of one number for each row.
pub(super) fn one_a_row(mut shape: Shape) -> Shape {
    let last = shape.num_dims() - 1;
    shape[last] = 1;
    shape
}
