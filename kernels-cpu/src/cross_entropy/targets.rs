/// The target of a token that adds nothing to the loss, as in torch and Hugging Face.
pub const IGNORED: i64 = -100;

/// The tokens that count.
pub(super) struct Targets {
    /// All tokens, ignored ones too.
    tokens: usize,
    /// The tokens that are not ignored, in order.
    positions: Vec<usize>,
    /// Their classes.
    pub classes: Vec<usize>,
}

impl Targets {
    /// # Panics
    /// When a target is neither a class nor ignored.
    pub fn new(targets: &[i64], vocab: usize) -> Self {
        let (mut positions, mut classes) = (Vec::new(), Vec::new());
        for (position, target) in targets.iter().enumerate() {
            if *target == IGNORED {
                continue;
            }
            let class = usize::try_from(*target).unwrap_or(usize::MAX);
            assert!(
                class < vocab,
                "linear_cross_entropy: target {target} of token {position} is neither below \
                 {vocab}, the number of classes, nor {IGNORED}, which is ignored"
            );
            positions.push(position);
            classes.push(class);
        }
        Self {
            tokens: targets.len(),
            positions,
            classes,
        }
    }

    /// Returns the rows that count, `None` if that is all of them.
    pub fn gather<E: Copy>(&self, rows: &[E], n: usize) -> Option<Vec<E>> {
        (self.positions.len() < self.tokens).then(|| {
            let mut selected = Vec::with_capacity(self.positions.len() * n);
            for position in &self.positions {
                selected.extend_from_slice(&rows[position * n..][..n]);
            }
            selected
        })
    }

    /// Reverses [`Self::gather`], with zeros for the ignored rows.
    pub fn scatter(&self, rows: Vec<f32>, n: usize) -> Vec<f32> {
        if self.positions.len() == self.tokens {
            return rows;
        }
        let mut all = vec![0f32; self.tokens * n];
        for (row, position) in self.positions.iter().enumerate() {
            all[position * n..][..n].copy_from_slice(&rows[row * n..][..n]);
        }
        all
    }
}
