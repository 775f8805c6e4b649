//! Keys and values of the tokens already seen.

use burn::tensor::{DType, Device, Tensor};

use crate::error::DecoderError;

/// The keys and values of every layer for one batch of rows that grow together.
///
/// Memory is allocated as the rows grow, for twice the tokens each time, so that most steps write their token in place and
/// a capacity that is never used costs nothing. Layers whose queries see a window keep all keys all the same: their
/// attention passes over those before it.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    capacity: usize,
    len: usize,
}

/// The part of a [`KvCache`] that one layer writes and reads.
#[derive(Debug)]
pub struct LayerCache {
    /// Keys and values, each `[batch, allocated, kv_heads, head_dim]`; `None` before the first step. Taken out while a step
    /// writes to them, because a tensor with a second owner would be copied instead of written in place.
    store: Option<(Tensor<4>, Tensor<4>)>,
    /// The place to allocate them in.
    room: Room,
    len: usize,
}

/// What a layer allocates its keys and values by.
#[derive(Clone, Debug)]
struct Room {
    /// `[batch, capacity, kv_heads, head_dim]`.
    shape: [usize; 4],
    device: Device,
    dtype: DType,
}

/// The fewest tokens that memory is allocated for, where the capacity is no smaller.
const SMALLEST: usize = 512;

impl Room {
    /// Returns zeros for at least `tokens` tokens.
    fn allocate(&self, tokens: usize) -> Tensor<4> {
        let [batch, capacity, heads, width] = self.shape;
        let tokens = tokens.saturating_mul(2).max(SMALLEST).min(capacity);
        Tensor::zeros([batch, tokens, heads, width], (&self.device, self.dtype))
    }

    /// Returns `store`, of which the first `len` tokens are held, with room for `tokens`.
    fn grown(&self, store: Tensor<4>, len: usize, tokens: usize) -> Tensor<4> {
        let [batch, allocated, heads, width] = store.dims();
        if tokens <= allocated {
            return store;
        }
        let held = [0..batch, 0..len, 0..heads, 0..width];
        let grown = self.allocate(tokens);
        if len == 0 {
            return grown;
        }
        grown.slice_assign(held.clone(), store.slice(held))
    }
}

impl KvCache {
    /// Returns an empty cache of `layers` layers, each of `shape: [batch, capacity, kv_heads, head_dim]`.
    pub(crate) fn empty(layers: usize, shape: [usize; 4], device: &Device, dtype: DType) -> Self {
        let room = Room {
            shape,
            device: device.clone(),
            dtype,
        };
        let layer = || LayerCache {
            store: None,
            room: room.clone(),
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

    /// Forgets all tokens and keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
        for layer in &mut self.layers {
            layer.len = 0;
        }
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
        let behind = self.len + seq;
        let (keys, values) = match self.store.take() {
            Some((keys, values)) => (
                self.room.grown(keys, self.len, behind),
                self.room.grown(values, self.len, behind),
            ),
            None => (self.room.allocate(behind), self.room.allocate(behind)),
        };
        let written = [0..batch, self.len..behind, 0..heads, 0..width];
        self.len = behind;
        let keys = keys.slice_assign(written.clone(), k);
        let values = values.slice_assign(written, v);
        let seen = [0..batch, 0..self.len, 0..heads, 0..width];
        let all = (keys.clone().slice(seen.clone()), values.clone().slice(seen));
        self.store = Some((keys, values));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_grow_beyond_what_was_allocated_first() {
        let device = Device::flex();
        let shape = [1, usize::MAX / 64, 1, 2];
        let mut cache = KvCache::empty(1, shape, &device, DType::F32);
        let mut expected = Vec::new();
        for step in [5, 1, SMALLEST, 1, 3 * SMALLEST] {
            let values: Vec<f32> = (0..2 * step).map(|i| (expected.len() + i) as f32).collect();
            expected.extend_from_slice(&values);
            let part = Tensor::<1>::from_floats(values.as_slice(), &device);
            let part = part.reshape([1, step, 1, 2]);
            cache.reserve(step).unwrap();
            let (keys, values) = cache.layer(0).append(part.clone(), part.neg());
            assert_eq!(qlora_test_support::values(keys), expected);
            assert_eq!(qlora_test_support::values(values.neg()), expected);
        }
        cache.clear();
        let part = Tensor::ones([1, 1, 1, 2], &device);
        let (keys, _) = cache.layer(0).append(part.clone(), part);
        assert_eq!(keys.dims(), [1, 1, 1, 2]);
    }
}
