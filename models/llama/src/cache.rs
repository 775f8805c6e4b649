//! Keys and values of the tokens already seen.

use burn::tensor::{DType, Device, Tensor};

use crate::error::DecoderError;

/// The keys and values of every layer for one batch of rows that grow together.
///
/// The whole capacity is allocated at once, so that a step writes its token in place.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    capacity: usize,
    len: usize,
}

/// The part of a [`KvCache`] that one layer writes and reads.
#[derive(Debug)]
pub struct LayerCache {
    /// Keys and values, each `[batch, capacity, kv_heads, head_dim]`. Taken out while a step writes to
    /// them, because a tensor with a second owner would be copied instead of written in place.
    store: Option<(Tensor<4>, Tensor<4>)>,
    len: usize,
}

impl KvCache {
    /// Returns an empty cache of `layers` layers, each of `shape: [batch, capacity, kv_heads, head_dim]`.
    pub(crate) fn zeros(layers: usize, shape: [usize; 4], device: &Device, dtype: DType) -> Self {
        let zeros = || Tensor::zeros(shape, (device, dtype));
        let layer = || LayerCache {
            store: Some((zeros(), zeros())),
            len: 0,
        };
        Self {
            layers: (0..layers).map(|_| layer()).collect(),
            capacity: shape[1],
            len: 0,
        }
    }

    /// Returns the number of tokens held in a row.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of tokens that fit in a row.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn reserve(&mut self, tokens: usize) -> Result<(), DecoderError> {
        let found = self.len + tokens;
        if found > self.capacity {
            return Err(DecoderError::ContextLength {
                found,
                limit: self.capacity,
            });
        }
        self.len = found;
        Ok(())
    }

    pub(crate) fn layer(&mut self, index: usize) -> &mut LayerCache {
        &mut self.layers[index]
    }
}

impl LayerCache {
    /// Appends `k` and `v`, each `[batch, seq, kv_heads, head_dim]`, and returns all held so far.
    pub(crate) fn append(&mut self, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [batch, seq, heads, width] = k.dims();
        let (keys, values) = self
            .store
            .take()
            .expect("a layer's cache is put back after each step");
        let written = [0..batch, self.len..self.len + seq, 0..heads, 0..width];
        self.len += seq;
        let keys = keys.slice_assign(written.clone(), k);
        let values = values.slice_assign(written, v);
        let seen = [0..batch, 0..self.len, 0..heads, 0..width];
        let all = (keys.clone().slice(seen.clone()), values.clone().slice(seen));
        self.store = Some((keys, values));
        all
    }
}
