//! The ranks of a run: processes that train the same adapters together, each on a device of its own.
//!
//! Every rank has the model, the data and the state of the optimizer. The micro-batches of a step are dealt to the ranks in
//! turn, the sums of their gradients and losses are added up, and every rank takes the same step with them. All that ranks
//! tell each other is a sum over them: what one of them says is a sum to which the others add nothing.

/// Gradients, losses and adapters as the numbers of a sum.
mod exchange;
/// Ranks that MPI joins.
#[cfg(feature = "mpi")]
mod mpi;

pub(crate) use exchange::Given;
pub use exchange::adapters_checksum;
#[cfg(feature = "mpi")]
pub use mpi::{Mpi, MpiError};

use crate::error::FinetuneError;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Joins a rank to the others of a run. Every rank calls the same methods in the same order with as many values.
pub trait Link: Debug + Send + Sync {
    /// Returns the number of this rank, from 0.
    fn rank(&self) -> usize;

    /// Returns the number of ranks.
    fn size(&self) -> usize;

    /// Replaces `values` by their sums over all ranks, which are the same bits on each. Where a `limit` is given, a rank that
    /// has waited so long for the others ends the run.
    ///
    /// # Errors
    /// [`FinetuneError::Ranks`] when the others cannot be reached.
    fn sum(&self, values: &mut [f64], limit: Option<Duration>) -> Result<(), FinetuneError>;

    /// Replaces gradients, or other values of adapters, by their sums as [`sum`](Self::sum) does, rounded to `dtype` on their
    /// way. They come as a vector, for they are many and need not be copied.
    ///
    /// # Errors
    /// As for that.
    fn sum_gradients(
        &self,
        values: &mut Vec<f32>,
        dtype: GradientDtype,
        limit: Option<Duration>,
    ) -> Result<(), FinetuneError>;

    /// Lets the others know soon that this rank is to stop. It is a hint: they agree on where they stop by sums.
    fn wish_to_stop(&self) {}

    /// Returns whether some rank is known to wish to stop.
    fn is_stop_wished(&self) -> bool {
        false
    }
}

/// What gradients are rounded to on their way between ranks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum GradientDtype {
    /// 32 bits: nothing is rounded
    #[default]
    F32,
    /// 16 bits, of which 8 are of the mantissa: half the bytes
    Bf16,
}

impl GradientDtype {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Returns the bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// The ranks of a run as one of them sees them. A run of one process is one rank, to which all of this costs nothing.
#[derive(Debug, Clone, Default)]
pub struct Ranks {
    link: Option<Arc<dyn Link>>,
    dtype: GradientDtype,
    /// Whether the first rank's adapters are sent after every step.
    sends_adapters: Arc<AtomicBool>,
}

impl Ranks {
    /// Returns the rank of a run of one process.
    pub fn single() -> Self {
        Self::default()
    }

    /// Returns this one of the ranks that `link` joins.
    pub fn linked(link: Arc<dyn Link>) -> Self {
        Self {
            link: Some(link),
            ..Self::default()
        }
    }

    /// Rounds gradients to `dtype` on their way between ranks.
    #[must_use]
    pub fn with_gradients_in(mut self, dtype: GradientDtype) -> Self {
        self.dtype = dtype;
        self
    }

    /// Says what this rank computes on: kind of device, instruction set. Ranks on the same compute the same bits, so that each
    /// takes the steps of the optimizer for itself; where one computes on something else, the first rank's adapters are sent to
    /// the others after every step.
    ///
    /// # Errors
    /// [`FinetuneError::Ranks`].
    pub fn computing_on(self, machine: &str) -> Result<Self, FinetuneError> {
        let digest = checksum(machine.as_bytes());
        if self.odd_one(digest)?.is_some() {
            self.sends_adapters.store(true, Ordering::Relaxed);
        }
        Ok(self)
    }

    /// Returns the number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.rank())
    }

    /// Returns the number of ranks.
    pub fn size(&self) -> usize {
        self.link.as_ref().map_or(1, |link| link.size())
    }

    /// Returns whether this is the first rank, which writes files and decides what one of them has to.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Returns whether there are others.
    pub fn are_many(&self) -> bool {
        self.size() > 1
    }

    /// Returns whether the first rank's adapters are sent to the others after every step, because not all compute the same bits.
    pub fn send_adapters(&self) -> bool {
        self.are_many() && self.sends_adapters.load(Ordering::Relaxed)
    }

    /// Returns the places of this rank's share of `count` things, which are dealt to the ranks in turn.
    pub fn share(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        (self.rank()..count).step_by(self.size())
    }

    /// Replaces `values` by their sums over all ranks, however long the others take.
    ///
    /// # Errors
    /// [`FinetuneError::Ranks`].
    pub fn sum(&self, values: &mut [f64]) -> Result<(), FinetuneError> {
        match &self.link {
            Some(link) => link.sum(values, None),
            None => Ok(()),
        }
    }

    /// Returns whether any rank says so.
    ///
    /// # Errors
    /// [`FinetuneError::Ranks`].
    pub fn any(&self, says: bool) -> Result<bool, FinetuneError> {
        let mut sum = [f64::from(says)];
        self.sum(&mut sum)?;
        Ok(sum[0] > 0.0)
    }

    /// Returns what the first rank says.
    ///
    /// # Errors
    /// [`FinetuneError::Ranks`].
    pub fn first(&self, says: bool) -> Result<bool, FinetuneError> {
        self.any(self.is_first() && says)
    }

    /// Returns the text that the first rank has.
    ///
    /// # Errors
    /// [`FinetuneError::Ranks`].
    pub fn text_of_first(&self, text: &str) -> Result<String, FinetuneError> {
        if !self.are_many() {
            return Ok(text.to_owned());
        }
        let text = if self.is_first() { text } else { "" };
        let mut len = [text.len() as f64];
        self.sum(&mut len)?;
        let mut bytes = vec![0.0; len[0] as usize];
        for (sum, byte) in bytes.iter_mut().zip(text.bytes()) {
            *sum = f64::from(byte);
        }
        self.sum(&mut bytes)?;
        let bytes = bytes.into_iter().map(|byte| byte as u8).collect();
        String::from_utf8(bytes).map_err(|error| FinetuneError::Ranks(error.to_string()))
    }

    /// Checks that all ranks have what this one has: each of `parts` by its name and a checksum of it.
    ///
    /// # Errors
    /// [`FinetuneError::RankDiffers`] naming the first part that is another on some rank, and the first such rank.
    pub fn check_same(&self, parts: &[(&'static str, u64)]) -> Result<(), FinetuneError> {
        for (what, digest) in parts {
            if let Some(rank) = self.odd_one(*digest)? {
                return Err(FinetuneError::RankDiffers { rank, what });
            }
        }
        Ok(())
    }

    /// Returns the first rank whose `digest` is not that of rank 0, if there is one.
    pub(crate) fn odd_one(&self, digest: u64) -> Result<Option<usize>, FinetuneError> {
        if !self.are_many() {
            return Ok(None);
        }
        // Two halves, each of which an f64 holds exactly.
        let mut all = vec![0.0; 2 * self.size()];
        all[2 * self.rank()] = f64::from((digest >> 32) as u32);
        all[2 * self.rank() + 1] = f64::from(digest as u32);
        self.sum(&mut all)?;
        let (digests, _) = all.as_chunks::<2>();
        Ok(digests.iter().position(|digest| *digest != digests[0]))
    }

    /// Lets the others know that this rank is to stop.
    pub(crate) fn wish_to_stop(&self) {
        if let Some(link) = &self.link {
            link.wish_to_stop();
        }
    }

    /// Returns whether another rank is known to wish to stop.
    pub(crate) fn is_stop_wished(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_stop_wished())
    }
}

/// Returns the checksum of bytes.
fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = tensor_files::Checksum::default();
    sum.add(bytes);
    sum.value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rank_has_everything_and_agrees_with_itself() {
        let ranks = Ranks::single();
        assert_eq!(ranks.share(4).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(ranks.is_first() && !ranks.are_many());
        assert!(ranks.any(true).unwrap() && !ranks.first(false).unwrap());
        assert_eq!(ranks.text_of_first("now").unwrap(), "now");
        ranks.check_same(&[("data", 7)]).unwrap();
    }

    /// A rank of three that hears nothing of the others.
    #[derive(Debug)]
    struct Second;

    impl Link for Second {
        fn rank(&self) -> usize {
            1
        }

        fn size(&self) -> usize {
            3
        }

        fn sum(&self, _: &mut [f64], _: Option<Duration>) -> Result<(), FinetuneError> {
            Ok(())
        }

        fn sum_gradients(
            &self,
            _: &mut Vec<f32>,
            _: GradientDtype,
            _: Option<Duration>,
        ) -> Result<(), FinetuneError> {
            Ok(())
        }
    }

    #[test]
    fn things_are_dealt_in_turn_and_what_differs_is_named() {
        let ranks = Ranks::linked(Arc::new(Second));
        assert_eq!(ranks.share(8).collect::<Vec<_>>(), [1, 4, 7]);
        assert_eq!(ranks.share(1).count(), 0);
        let error = ranks.check_same(&[("data", 7)]).unwrap_err().to_string();
        assert!(error.starts_with("rank 1 has another data"), "{error}");
    }
}
