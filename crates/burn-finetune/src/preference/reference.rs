use super::batch::{Laid, PreferenceBatch};
use super::mismatch::Mismatched;
use super::rows::is_apart;
use crate::data::spill::{Spill, Stored};
use crate::data::{Dataset, Row};
use crate::error::FinetuneError;
use crate::train::TrainConfig;
use burn::tensor::Device;
use burn_qlora::CausalLm;
use std::path::Path;

/// How the reference is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReferenceConfig {
    batch_size: usize,
    mismatched: Option<Mismatched>,
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
        let model = model.valid();
        let device = model.device().without_autodiff();
        let mut ends = Spill::into_dir(dir);
        let mut values = Spill::into_dir(dir);
        for start in (0..data.len()).step_by(config.batch_size) {
            if !goes_on(start, data.len()) {
                return Ok(None);
            }
            let places = start..(start + config.batch_size).min(data.len());
            let rows = places.clone().map(|place| data.row(place));
            let rows: Vec<Row> = rows.collect::<Result<_, _>>()?;
            let mut answers = asked(&model, &rows, is_apart(data), &device)?.into_iter();
            let mut mismatched = match config.mismatched {
                Some(mismatched) => {
                    let rows = places.clone().map(|place| mismatched.rows(data, place));
                    let rows: Vec<Vec<Row>> = rows.collect::<Result<_, _>>()?;
                    asked(&model, &rows.concat(), true, &device)?
                }
                None => Vec::new(),
            }
            .into_iter();
            for row in &rows {
                let sequences = row.sequences().count();
                let of_row = answers.by_ref().take(sequences);
                for value in of_row.chain(mismatched.by_ref().take(sequences)) {
                    if !value.is_finite() {
                        return Err(FinetuneError::ReferenceNotFinite {
                            value,
                            rows: data.places(places),
                        });
                    }
                    values.write(&value.to_le_bytes())?;
                }
                ends.write(&(values.len() / 8).to_le_bytes())?;
            }
        }
        Ok(Some(Self {
            ends: ends.finish()?,
            values: values.finish()?,
            config,
        }))
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

/// Returns the log-probabilities of the answers in `rows`.
fn asked<M: CausalLm>(
    model: &M,
    rows: &[Row],
    apart: bool,
    device: &Device,
) -> Result<Vec<f64>, FinetuneError> {
    let laid = Laid {
        rows,
        references: &[],
        apart,
        learns_prompts: false,
    };
    let scored = PreferenceBatch::collate(&laid, device).scored_by(model)?;
    Ok(scored.iter().map(|scored| scored.answer.sum).collect())
}
