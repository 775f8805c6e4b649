/// The sizes of one grouped-query attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Rows of a batch.
    pub batch: usize,
    /// Query positions, the last ones of the keys'.
    pub q_len: usize,
    /// Key positions.
    pub kv_len: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Query heads that share one key-value head.
    pub group: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl AttentionShape {
    /// Takes the shapes of `q: [batch, q_len, heads, d]` and `k: [batch, kv_len, kv_heads, d]`.
    pub fn new(q: [usize; 4], k: [usize; 4]) -> Self {
        let [batch, q_len, heads, head_dim] = q;
        let [_, kv_len, kv_heads, _] = k;
        Self {
            batch,
            q_len,
            kv_len,
            kv_heads,
            group: heads / kv_heads.max(1),
            head_dim,
        }
    }

    /// Returns the number of query heads.
    pub fn heads(&self) -> usize {
        self.kv_heads * self.group
    }

    /// Returns the number of query rows that share one key-value head: every position's heads of the group, position
    /// after position.
    pub fn rows(&self) -> usize {
        self.q_len * self.group
    }

    /// Keys that query position `i` does not see because they come after it begin here.
    pub fn visible(&self, i: usize) -> usize {
        self.kv_len - self.q_len + i + 1
    }
}
