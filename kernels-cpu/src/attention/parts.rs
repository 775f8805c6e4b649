use std::ops::Range;

use super::tile::positions;
use nf4::attention::AttentionShape;

/// Tasks that are enough to keep many threads equally busy.
const TASKS: usize = 12;

/// The division of the backward pass of each (batch, key-value head) pair into parts, one for pairs enough.
///
/// A part has some tiles of queries, and sums of its own for the keys that these see.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    shape: &'a AttentionShape,
    window: Option<usize>,
    /// Query positions of a tile.
    tile: usize,
    tiles: usize,
    count: usize,
}

impl<'a> Parts<'a> {
    pub fn new(shape: &'a AttentionShape, window: Option<usize>) -> Self {
        let pairs = shape.batch * shape.kv_heads;
        let tile = positions(shape);
        let tiles = shape.q_len.div_ceil(tile);
        let count = TASKS.div_ceil(pairs.max(1)).min(tiles.max(1));
        Self {
            shape,
            window,
            tile,
            tiles,
            count: match window {
                Some(_) => tiles.div_ceil(tiles.div_ceil(count).max(1)).max(1),
                None => count,
            },
        }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Tiles of each part, which are one after another where a window makes them equally long, and so see few keys
    /// together. Without one later tiles are longer, and a part has every `count`-th.
    fn run(&self) -> usize {
        self.tiles.div_ceil(self.count).max(1)
    }

    /// Returns the query positions of every tile of a part.
    pub fn tiles(&self, part: usize) -> impl Iterator<Item = Range<usize>> {
        let (tile, q_len) = (self.tile, self.shape.q_len);
        let (tiles, step) = match self.window {
            Some(_) => (part * self.run()..(part + 1) * self.run(), 1),
            None => (part..self.tiles, self.count),
        };
        let tiles = tiles.start..tiles.end.min(self.tiles);
        tiles
            .step_by(step)
            .map(move |i| i * tile..((i + 1) * tile).min(q_len))
    }

    /// Returns the query positions between which a part's tiles lie.
    pub fn queries(&self, part: usize) -> Range<usize> {
        let q_len = self.shape.q_len;
        match self.window {
            Some(_) => {
                let run = self.run() * self.tile;
                (part * run).min(q_len)..((part + 1) * run).min(q_len)
            }
            None => 0..q_len,
        }
    }

    /// Returns the keys between which those lie that a part's queries see.
    pub fn keys(&self, part: usize) -> Range<usize> {
        let queries = self.queries(part);
        match self.window {
            _ if queries.is_empty() => 0..0,
            Some(window) => {
                let first = self.shape.visible(queries.start).saturating_sub(window);
                first..self.shape.visible(queries.end - 1)
            }
            None => 0..self.shape.kv_len,
        }
    }

    /// Returns the part that has a query position.
    pub fn of_query(&self, position: usize) -> usize {
        let tile = position / self.tile;
        match self.window {
            Some(_) => tile / self.run(),
            None => tile % self.count,
        }
    }

    /// Returns the parts that have a sum for a key.
    pub fn of_key(&self, key: usize) -> Range<usize> {
        let Some(window) = self.window else {
            return 0..self.count;
        };
        let AttentionShape { q_len, kv_len, .. } = *self.shape;
        let cached = kv_len - q_len;
        let queries = key.saturating_sub(cached)..(key + window).saturating_sub(cached).min(q_len);
        if queries.is_empty() {
            return 0..0;
        }
        self.of_query(queries.start)..self.of_query(queries.end - 1) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part has a sum for exactly the keys that its queries see, and every query is in one part.
    #[test]
    fn windowed_parts_cover_what_their_queries_see() {
        for [batch, q_len, kv_len, window] in [
            [1, 700, 700, 100],
            [1, 700, 1100, 1],
            [1, 64, 900, 70],
            [5, 130, 131, 130],
            [1, 1, 300, 256],
        ] {
            let shape = AttentionShape {
                batch,
                q_len,
                kv_len,
                kv_heads: 1,
                group: 2,
                head_dim: 8,
            };
            let parts = Parts::new(&shape, Some(window));
            let mut sums = vec![Vec::new(); kv_len];
            let mut queries = Vec::new();
            for part in 0..parts.count() {
                let mut seen = vec![false; kv_len];
                for i in parts.tiles(part).flatten() {
                    assert!(parts.of_query(i) == part && parts.queries(part).contains(&i));
                    let end = shape.visible(i);
                    seen[end.saturating_sub(window)..end].fill(true);
                    queries.push(i);
                }
                for (key, _) in seen.iter().enumerate().filter(|(_, seen)| **seen) {
                    assert!(parts.keys(part).contains(&key));
                    sums[key].push(part);
                }
            }
            assert!(queries.into_iter().eq(0..q_len));
            for (key, sums) in sums.into_iter().enumerate() {
                assert!(parts.of_key(key).eq(sums), "key {key} of {shape:?}");
            }
        }
    }

    /// Parts of a windowed layer keep sums for the keys once, and for a window more each.
    #[test]
    fn windowed_sums_grow_with_the_window() {
        let shape = AttentionShape {
            batch: 1,
            q_len: 8192,
            kv_len: 8192,
            kv_heads: 1,
            group: 1,
            head_dim: 8,
        };
        let parts = Parts::new(&shape, Some(512));
        assert_eq!(parts.count(), TASKS);
        let keys: usize = (0..TASKS).map(|part| parts.keys(part).len()).sum();
        assert!(keys <= 8192 + (TASKS - 1) * 512, "{keys}");
    }
}
