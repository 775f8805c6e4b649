//! The sizes of an attention and the settings of its scores, the same for the kernels of all devices.

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

    /// Returns the number of query rows that share one key-value head: every position's heads of the group, position
    /// after position.
    pub const fn rows(&self) -> usize {
        self.q_len * self.group
    }

    /// Returns the number of elements of `q`.
    pub const fn q_elements(&self) -> usize {
        self.batch * self.q_len * self.heads() * self.head_dim
    }

    /// Returns the number of elements of `k`, and of `v`.
    pub const fn kv_elements(&self) -> usize {
        self.batch * self.kv_len * self.kv_heads * self.head_dim
    }

    /// Returns the position of the first key that query position `i` does not see because it comes after it.
    pub const fn visible(&self, i: usize) -> usize {
        self.kv_len - self.q_len + i + 1
    }
}

/// The scale, window and bound of attention's scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionConfig {
    /// The factor of the products, `1 / sqrt(head_dim)` in most models.
    pub scale: f64,
    /// Keys that a query sees, itself included, which it sees in any case: the query at position `i` sees the positions
    /// `i - window < j <= i`. `None` for all of them.
    pub window: Option<usize>,
    /// Bound `c` of the scores, above 0, which become `c · tanh(score / c)` before the mask and the softmax (Gemma 2).
    pub softcap: Option<f64>,
}

impl AttentionConfig {
    /// Returns attention with the factor `scale`, to all keys up to the query's own and without a bound.
    pub const fn new(scale: f64) -> Self {
        Self {
            scale,
            window: None,
            softcap: None,
        }
    }

    /// Sets the number of keys that a query sees.
    pub const fn with_window(mut self, window: Option<usize>) -> Self {
        self.window = window;
        self
    }

    /// Sets the bound of the scores.
    pub const fn with_softcap(mut self, softcap: Option<f64>) -> Self {
        self.softcap = softcap;
        self
    }

    /// Returns the window where it hides keys.
    pub fn hiding_window(&self, shape: &AttentionShape) -> Option<usize> {
        self.window.filter(|window| *window < shape.kv_len)
    }
}
