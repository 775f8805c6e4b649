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
    pub const fn heads(&self) -> usize {
        self.kv_heads * self.group
    }

    /// Returns the bytes that the forward pass takes beside operands and results.
    pub const fn forward_workspace_bytes(&self) -> u128 {
        0
    }

    /// Returns the bytes that the backward pass takes beside operands and results: an f32 for each row of scores.
    pub const fn backward_workspace_bytes(&self) -> u128 {
        4 * self.batch as u128 * self.q_len as u128 * self.heads() as u128
    }

    /// Returns the shape of a number for each row of scores.
    pub(super) const fn rows(&self) -> [usize; 3] {
        [self.batch, self.q_len, self.heads()]
    }

    pub(super) const fn q_elements(&self) -> usize {
        self.batch * self.q_len * self.heads() * self.head_dim
    }

    pub(super) const fn kv_elements(&self) -> usize {
        self.batch * self.kv_len * self.kv_heads * self.head_dim
    }
}
