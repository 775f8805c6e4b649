//! Keys and values of the tokens already seen.

use std::ops::Range;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_fused::{AttentionConfig, KeyValues, RotationAngles};

use crate::config::DecoderConfig;
use crate::error::DecoderError;
use crate::rope::{Positions, Rope};

/// The keys and values of every layer for one batch of rows that grow together.
///
/// Rows of different lengths end together: the shorter ones begin behind padding, which none of their tokens sees and which
/// counts in no position.
///
/// Memory is allocated as the rows grow, for twice the tokens each time, so that most steps write their token in place and
/// a capacity that is never used costs nothing. Layers whose queries see a window keep all keys all the same: their
/// attention passes over those before it.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    /// Places before the first token of each row.
    padding: Vec<usize>,
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
    /// Returns an empty cache of `layers` layers, each of `shape: [batch, capacity, kv_heads, head_dim]`, whose rows begin behind
    /// `padding` places each.
    pub(crate) fn empty(
        layers: usize,
        shape: [usize; 4],
        padding: Vec<usize>,
        device: &Device,
        dtype: DType,
    ) -> Self {
        assert_eq!(padding.len(), shape[0], "every row has its padding");
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
            padding,
            capacity: shape[1],
            len: 0,
        }
    }

    /// Returns the bytes of the keys and values of `rows` rows of `capacity` tokens in `dtype`.
    pub fn most_bytes(config: &DecoderConfig, dtype: DType, rows: usize, capacity: usize) -> u64 {
        let token = 2 * config.num_key_value_heads * config.head_dim * dtype.size();
        let tokens = rows as u64 * capacity as u64;
        tokens.saturating_mul((config.layers.len() * token) as u64)
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.padding.len()
    }

    /// Returns the number of places held in a row, its padding and its tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the places before the first token of each row.
    pub fn padding(&self) -> &[usize] {
        &self.padding
    }

    /// Returns whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of places that fit in a row.
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

    /// Forgets all but the first `len` places of every row, and keeps the memory. What fewer hold stays as it is.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        for layer in &mut self.layers {
            layer.len = layer.len.min(len);
        }
    }

    /// Keeps the rows at these places, in this order: a row that is not among them is forgotten, and one that comes several times
    /// goes on in several ways.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn select(&mut self, rows: &[usize]) {
        self.padding = rows.iter().map(|row| self.padding[*row]).collect();
        for layer in &mut self.layers {
            layer.select(rows);
        }
    }

    /// Returns a cache of one row with places for `capacity`: a copy of the first `tokens` tokens of a row of this one.
    ///
    /// # Panics
    /// When there is no such row, or fewer tokens of it.
    pub(crate) fn start_of(&self, row: usize, tokens: usize, capacity: usize) -> Self {
        let first = self.padding[row];
        let places = first..first + tokens;
        let layers = self.layers.iter();
        Self {
            layers: layers
                .map(|layer| layer.part(row, places.clone(), capacity))
                .collect(),
            padding: vec![0],
            capacity,
            len: tokens,
        }
    }

    /// Returns a cache of rows of others, those of each at the places that are named with it, behind one another. They end together
    /// and begin behind no more padding than the longest of them leaves the others.
    ///
    /// # Panics
    /// When there is no such row, or no cache at all.
    pub(crate) fn regrouped(mut parts: Vec<(Self, Vec<usize>)>, capacity: usize) -> Self {
        for (cache, rows) in &mut parts {
            if !rows.iter().copied().eq(0..cache.rows()) {
                cache.select(rows);
            }
        }
        let held = |cache: &Self| cache.len - cache.padding.iter().min().unwrap_or(&0);
        let len = parts.iter().map(|(cache, _)| held(cache)).max();
        let len = len.unwrap_or(0);
        let mut padding = Vec::new();
        for (cache, _) in &parts {
            padding.extend(cache.padding.iter().map(|own| own + len - cache.len));
        }
        let mut caches = parts.into_iter().map(|(cache, _)| cache);
        let mut first = caches.next().expect("there is a cache");
        let others: Vec<Self> = caches.collect();
        let mut others: Vec<_> = others
            .into_iter()
            .map(|cache| cache.layers.into_iter())
            .collect();
        for layer in &mut first.layers {
            layer.room.shape[..2].copy_from_slice(&[padding.len(), capacity]);
            let others = others.iter_mut().map(|layers| layers.next());
            let others: Vec<LayerCache> = others.flatten().collect();
            layer.take_in(others, len);
        }
        Self {
            padding,
            capacity,
            len,
            ..first
        }
    }

    /// Returns the positions of the next `seq` places.
    ///
    /// # Errors
    /// [`DecoderError::OutdatedCache`] where the tokens of a row [would rotate otherwise](Rope::outdates) in one of its new
    /// length.
    pub(crate) fn next_positions(
        &self,
        rope: &Rope,
        seq: usize,
        device: &Device,
    ) -> Result<Positions, DecoderError> {
        for padding in &self.padding {
            let cached = self.len.saturating_sub(*padding);
            let length = (self.len + seq).saturating_sub(*padding);
            if rope.outdates(cached, length) {
                return Err(DecoderError::OutdatedCache { cached, length });
            }
        }
        Ok(rope.padded_positions(self.len, seq, &self.padding, device))
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
    /// Returns a copy of some places of a row, with room for `capacity`.
    fn part(&self, row: usize, places: Range<usize>, capacity: usize) -> Self {
        let mut room = self.room.clone();
        room.shape[..2].copy_from_slice(&[1, capacity]);
        let len = places.len();
        let copied = |kept: &Tensor<4>| {
            let [_, _, heads, width] = kept.dims();
            let part = [row..row + 1, places.clone(), 0..heads, 0..width];
            let to = [0..1, 0..len, 0..heads, 0..width];
            room.allocate(len)
                .slice_assign(to, kept.clone().slice(part))
        };
        let store = self.store.as_ref();
        let store = store.map(|(keys, values)| (copied(keys), copied(values)));
        Self { store, room, len }
    }

    /// Keeps the rows at these places.
    fn select(&mut self, rows: &[usize]) {
        self.room.shape[0] = rows.len();
        let Some((keys, values)) = self.store.take() else {
            return;
        };
        let places: Vec<i32> = rows.iter().map(|row| *row as i32).collect();
        let places = TensorData::new(places, [rows.len()]);
        let places = Tensor::<1, Int>::from_data(places, &self.room.device);
        self.store = Some((keys.select(0, places.clone()), values.select(0, places)));
    }

    /// Takes the rows of others behind its own, so that all end at `len`.
    fn take_in(&mut self, others: Vec<Self>, len: usize) {
        if others.is_empty() && self.len == len {
            return;
        }
        let own = std::mem::replace(&mut self.len, len);
        let own = self.store.take().map(|store| (store, own));
        let others = others.into_iter();
        let parts = own
            .into_iter()
            .chain(others.filter_map(|layer| Some((layer.store?, layer.len))));
        let (mut keys, mut values) = (self.room.allocate(len), self.room.allocate(len));
        let mut row = 0;
        for ((own_keys, own_values), own_len) in parts {
            let [rows, _, heads, width] = own_keys.dims();
            // What is before the shortest padding is left out, and what is missing before the first place is padding.
            let kept = own_len.min(len);
            let from = [0..rows, own_len - kept..own_len, 0..heads, 0..width];
            let to = [row..row + rows, len - kept..len, 0..heads, 0..width];
            keys = keys.slice_assign(to.clone(), own_keys.slice(from.clone()));
            values = values.slice_assign(to, own_values.slice(from));
            row += rows;
        }
        self.store = Some((keys, values));
    }

    /// Appends keys and values, rotated by `angles`, and returns what the queries, which rotate too, make of all held so far.
    ///
    /// `[q, k, v]`: `q: [batch, seq, heads, head_dim]`, `k` and `v`: `[batch, seq, kv_heads, head_dim]`.
    pub(crate) fn attend(
        &mut self,
        [q, k, v]: [Tensor<4>; 3],
        angles: Option<RotationAngles>,
        starts: Option<Tensor<2, Int>>,
        scores: AttentionConfig,
    ) -> Tensor<4> {
        let tokens = self.len + k.dims()[1];
        let (keys, values) = match self.store.take() {
            Some((keys, values)) => (
                self.room.grown(keys, self.len, tokens),
                self.room.grown(values, self.len, tokens),
            ),
            None => (self.room.allocate(tokens), self.room.allocate(tokens)),
        };
        let cache = KeyValues {
            keys,
            values,
            len: self.len,
        };
        let (out, cache) = burn_fused::cached_attention([q, k, v], angles, cache, starts, scores);
        self.len = cache.len;
        self.store = Some((cache.keys, cache.values));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appends `k` and `v`, and returns all held so far.
    fn append(layer: &mut LayerCache, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [batch, _, heads, width] = k.dims();
        layer.attend([k.clone(), k, v], None, None, AttentionConfig::new(1.0));
        let seen = [0..batch, 0..layer.len, 0..heads, 0..width];
        let (keys, values) = layer.store.clone().expect("there are tokens");
        (keys.slice(seen.clone()), values.slice(seen))
    }

    #[test]
    fn rows_grow_beyond_what_was_allocated_first() {
        let device = Device::flex();
        let shape = [1, usize::MAX / 64, 1, 2];
        let mut cache = KvCache::empty(1, shape, vec![0], &device, DType::F32);
        let mut expected = Vec::new();
        for step in [5, 1, SMALLEST, 1, 3 * SMALLEST] {
            let values: Vec<f32> = (0..2 * step).map(|i| (expected.len() + i) as f32).collect();
            expected.extend_from_slice(&values);
            let part = Tensor::<1>::from_floats(values.as_slice(), &device);
            let part = part.reshape([1, step, 1, 2]);
            cache.reserve(step).unwrap();
            let (keys, values) = append(cache.layer(0), part.clone(), part.neg());
            assert_eq!(qlora_test_support::values(keys), expected);
            assert_eq!(qlora_test_support::values(values.neg()), expected);
        }
        cache.clear();
        let part = Tensor::ones([1, 1, 1, 2], &device);
        let (keys, _) = append(cache.layer(0), part.clone(), part);
        assert_eq!(keys.dims(), [1, 1, 1, 2]);
    }

    #[test]
    fn places_that_are_cut_off_are_written_anew() {
        let device = Device::flex();
        let mut cache = KvCache::empty(1, [1, 8, 1, 1], vec![0], &device, DType::F32);
        let mut append_at = |cut: usize, values: &[f32]| {
            cache.truncate(cut);
            let part = Tensor::<1>::from_floats(values, &device).reshape([1, values.len(), 1, 1]);
            cache.reserve(values.len()).unwrap();
            let (keys, values) = append(cache.layer(0), part.clone(), part.neg());
            assert_eq!(cache.len(), keys.dims()[1]);
            [keys, values.neg()].map(qlora_test_support::values)
        };
        append_at(8, &[1.0, 2.0, 3.0]);
        assert_eq!(append_at(1, &[4.0]), [[1.0, 4.0]; 2]);
        assert_eq!(append_at(8, &[5.0]), [[1.0, 4.0, 5.0]; 2]);
    }

    #[test]
    fn rows_are_forgotten_and_go_on_in_several_ways() {
        let device = Device::flex();
        let padding = vec![0, 2, 1];
        let mut cache = KvCache::empty(1, [3, 8, 1, 1], padding, &device, DType::F32);
        let part = |values: &[f32]| {
            let rows = values.len();
            Tensor::<1>::from_floats(values, &device).reshape([rows, 1, 1, 1])
        };
        cache.reserve(1).unwrap();
        let first = part(&[1.0, 2.0, 3.0]);
        append(cache.layer(0), first.clone(), first);
        cache.select(&[2, 0, 2]);
        assert_eq!((cache.rows(), cache.padding()), (3, &[1, 0, 1][..]));
        cache.reserve(1).unwrap();
        let second = part(&[4.0, 5.0, 6.0]);
        let (keys, values) = append(cache.layer(0), second.clone(), second.neg());
        assert_eq!(
            qlora_test_support::values(keys),
            [3.0, 4.0, 1.0, 5.0, 3.0, 6.0]
        );
        assert_eq!(
            qlora_test_support::values(values),
            [3.0, -4.0, 1.0, -5.0, 3.0, -6.0]
        );
    }

    #[test]
    fn rows_of_several_end_together_without_padding_that_none_needs() {
        let device = Device::flex();
        let cache = |padding: Vec<usize>, places: usize, first: f32| {
            let rows = padding.len();
            let mut cache = KvCache::empty(1, [rows, 8, 1, 1], padding, &device, DType::F32);
            let count = rows * places;
            let values: Vec<f32> = (0..count).map(|place| first + place as f32).collect();
            let values = Tensor::<1>::from_floats(values.as_slice(), &device);
            let values = values.reshape([rows, places, 1, 1]);
            cache.reserve(places).unwrap();
            append(cache.layer(0), values.clone(), values.neg());
            cache
        };
        // Rows `_ 4 5` and `_ _ 8` remain of the first, `10 11` comes.
        let parts = vec![
            (cache(vec![0, 1, 2], 3, 0.0), vec![1, 2]),
            (cache(vec![0], 2, 10.0), vec![0]),
        ];
        let mut joined = KvCache::regrouped(parts, 9);
        assert_eq!(joined.padding(), [0, 1, 0]);
        assert_eq!((joined.len(), joined.capacity()), (2, 9));
        joined.reserve(1).unwrap();
        let next = Tensor::<1>::from_floats([20.0, 21.0, 22.0], &device).reshape([3, 1, 1, 1]);
        let (keys, values) = append(joined.layer(0), next.clone(), next.neg());
        let keys = qlora_test_support::values(keys);
        assert_eq!(keys[..3], [4.0, 5.0, 20.0]);
        assert_eq!(keys[4..], [8.0, 21.0, 10.0, 11.0, 22.0]);
        let values = qlora_test_support::values(values.neg());
        assert_eq!(values, keys);
        // The longest leaves.
        let joined = KvCache::regrouped(vec![(joined, vec![1])], 9);
        assert_eq!((joined.padding(), joined.len()), (&[0][..], 2));
    }
}
