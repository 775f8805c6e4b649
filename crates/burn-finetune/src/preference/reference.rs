use super::asking::{Answers, Asked};
use super::mismatch::Mismatched;
use crate::data::Dataset;
use crate::data::spill::Stored;
use crate::error::FinetuneError;
use crate::train::TrainConfig;
use burn_qlora::CausalLm;
use std::path::Path;

/// How the reference is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReferenceConfig {
    pub(super) batch_size: usize,
    pub(super) mismatched: Option<Mismatched>,
}

impl ReferenceConfig {
    /// Returns what a run needs, whose rows have up to `max_len` tokens; `None` where its objective has no reference.
    pub fn of(config: &TrainConfig, max_len: usize) -> Option<Self> {
        let objective = &config.objective;
        objective.needs_reference().then(|| Self {
            batch_size: config.batch_size,
            mismatched: objective.estimates_kl().then(|| Mismatched {
                group: config.rows_per_step(),
                max_len,
            }),
        })
    }
}

/// The log-probabilities that a reference gives the answers of all rows, and for KTO those to the prompts of others: eight
/// bytes each, in memory while they take a few MB and else in a file.
#[derive(Debug)]
pub struct References {
    /// Where each row's values end among all of them.
    pub(super) ends: Stored,
    pub(super) values: Stored,
    pub(super) config: ReferenceConfig,
}

/// What the reference gives the sequences of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct OfRow {
    /// Its answers.
    pub answers: Vec<f64>,
    /// The answers of others to its prompts.
    pub mismatched: Vec<f64>,
}

impl References {
    /// Asks the reference `model` about all rows of `data`. What is too much for memory goes to the folder `dir`. Before each
    /// batch `goes_on` is given how many rows of how many are done, and may end the asking, with `None`.
    ///
    /// # Errors
    /// [`FinetuneError::InvalidConfig`] for a model that gives no losses of tokens, [`FinetuneError::ReferenceNotFinite`], [`FinetuneError::Device`], [`FinetuneError::Read`], [`FinetuneError::Write`].
    pub fn compute<M: CausalLm>(
        model: &M,
        data: &Dataset,
        config: ReferenceConfig,
        dir: &Path,
        goes_on: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Option<Self>, FinetuneError> {
        let asked = Asked::new(model, data, config);
        asked.all(Answers::in_dir(dir), goes_on, &mut |_, _| Ok(()))
    }

    /// Asks the reference `model` about the rows of `data` at `places` alone, with the bits that [`compute`](Self::compute)
    /// gives them: the batches are the same. Steps on other rows cannot be taken with the result.
    ///
    /// # Errors
    /// As for that.
    pub fn compute_at<M: CausalLm>(
        model: &M,
        data: &Dataset,
        config: ReferenceConfig,
        dir: &Path,
        places: &[usize],
    ) -> Result<Self, FinetuneError> {
        Asked::new(model, data, config).around(places, Answers::in_dir(dir))
    }

    /// Returns how prompts get the answers of others.
    pub(super) fn mismatched(&self) -> Option<Mismatched> {
        self.config.mismatched
    }

    /// Returns the number of rows.
    pub(super) fn len(&self) -> usize {
        (self.ends.len() / 8) as usize
    }

    /// Returns the values of the row at `place`.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    ///
    /// # Panics
    /// When there is no such row.
    pub(super) fn of_row(&self, place: usize) -> Result<OfRow, FinetuneError> {
        let start = match place.checked_sub(1) {
            Some(before) => self.end(before)?,
            None => 0,
        };
        let end = self.end(place)?;
        let mut bytes = vec![0; 8 * end.saturating_sub(start) as usize];
        let found = self.values.read_at(8 * start, &mut bytes)?;
        assert!(
            found,
            "values {start} to {end} of {}",
            self.values.len() / 8
        );
        let numbers = bytes.as_chunks().0.iter();
        let mut answers: Vec<f64> = numbers.map(|bytes| f64::from_le_bytes(*bytes)).collect();
        let mismatched = match self.config.mismatched {
            Some(_) => answers.split_off(answers.len() / 2),
            None => Vec::new(),
        };
        Ok(OfRow {
            answers,
            mismatched,
        })
    }

    fn end(&self, place: usize) -> Result<u64, FinetuneError> {
        let mut bytes = [0; 8];
        let found = self.ends.read_at(8 * place as u64, &mut bytes)?;
        assert!(found, "row {place} of {}", self.len());
        Ok(u64::from_le_bytes(bytes))
    }
}
