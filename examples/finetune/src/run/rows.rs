use anyhow::{Result, ensure};
use burn_finetune::Learn;

use crate::flags::RowFlags;

/// Tokens in a row unless `--seq-len` says otherwise.
const SEQ_LEN: usize = 512;

/// The limits of the rows of a data file.
#[derive(Clone, Copy, Debug)]
pub struct RowLimits {
    /// Most tokens in a row; `None` for the default.
    seq_len: Option<usize>,
    /// That default, in a model whose context is no shorter.
    usual: usize,
    /// Whether longer rows are cut instead of refused.
    pub truncate: bool,
    /// The part of a row that is learnt.
    pub learn: Learn,
}

impl From<RowFlags> for RowLimits {
    fn from(flags: RowFlags) -> Self {
        Self {
            seq_len: flags.seq_len,
            usual: SEQ_LEN,
            truncate: flags.truncate,
            learn: flags.learn,
        }
    }
}

impl RowLimits {
    /// Returns the limits with the model's context as the default.
    #[must_use]
    pub fn of_whole_context(self) -> Self {
        Self {
            usual: usize::MAX,
            ..self
        }
    }

    /// Returns the most tokens in a row for a model with a context of `context` tokens.
    ///
    /// # Errors
    /// A `--seq-len` beyond the context.
    pub fn seq_len(self, context: usize) -> Result<usize> {
        let seq_len = self.seq_len.unwrap_or(self.usual.min(context));
        ensure!(
            seq_len <= context,
            "--seq-len {seq_len} is more than the model's context of {context} tokens; \
             use at most {context}"
        );
        Ok(seq_len)
    }
}
