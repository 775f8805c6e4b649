//! A reference asked about rows, a batch at a time.

use super::batch::{Laid, PreferenceBatch};
use super::reference::{ReferenceConfig, References};
use super::rows::is_apart;
use crate::data::spill::Spill;
use crate::data::{BatchLayout, Dataset, Row};
use crate::error::FinetuneError;
use burn::tensor::Device;
use burn_qlora::CausalLm;
use std::path::Path;

/// What a reference has given the first of the rows.
pub(super) struct Answers {
    ends: Spill,
    values: Spill,
}

impl Answers {
    /// Returns those of no row yet. What is too much for memory goes to the folder `dir`.
    pub(super) fn in_dir(dir: &Path) -> Self {
        Self {
            ends: Spill::into_dir(dir),
            values: Spill::into_dir(dir),
        }
    }

    /// Returns the number of rows.
    pub(super) fn rows(&self) -> usize {
        (self.ends.len() / 8) as usize
    }

    /// Adds the values of the next row.
    ///
    /// # Errors
    /// [`FinetuneError::Write`].
    pub(super) fn push(&mut self, values: &[f64]) -> Result<(), FinetuneError> {
        for value in values {
            self.values.write(&value.to_le_bytes())?;
        }
        self.ends.write(&(self.values.len() / 8).to_le_bytes())
    }

    fn finish(self, config: ReferenceConfig) -> Result<References, FinetuneError> {
        Ok(References {
            ends: self.ends.finish()?,
            values: self.values.finish()?,
            config,
        })
    }
}

/// A reference with the rows that it is asked about.
pub(super) struct Asked<'a, M> {
    model: M,
    device: Device,
    layout: BatchLayout,
    data: &'a Dataset,
    config: ReferenceConfig,
}

/// Told how many rows of how many are done before each batch; returns whether to go on.
pub(super) type GoesOn<'a> = dyn FnMut(usize, usize) -> bool + 'a;
/// Given the place of the first row of a batch, and the values of each of its rows.
pub(super) type Keep<'a> = dyn FnMut(usize, &[Vec<f64>]) -> Result<(), FinetuneError> + 'a;

impl<'a, M: CausalLm> Asked<'a, M> {
    pub(super) fn new(model: &M, data: &'a Dataset, config: ReferenceConfig) -> Self {
        let model = model.valid();
        Self {
            device: model.device().without_autodiff(),
            layout: BatchLayout::of(&model, 0.0),
            model,
            data,
            config,
        }
    }

    /// Asks about the rows that `answers` lacks, whose number is a multiple of the batch's, and hands the values of each batch
    /// to `keep` with the place of its first row; `None` when `goes_on` ends the asking.
    ///
    /// # Errors
    /// As [`References::compute`], and what `keep` says.
    pub(super) fn all(
        &self,
        mut answers: Answers,
        goes_on: &mut GoesOn<'_>,
        keep: &mut Keep<'_>,
    ) -> Result<Option<References>, FinetuneError> {
        let rows = self.data.len();
        while answers.rows() < rows {
            let start = answers.rows();
            if !goes_on(start, rows) {
                return Ok(None);
            }
            let batch = self.batch(start)?;
            keep(start, &batch)?;
            batch.iter().try_for_each(|values| answers.push(values))?;
        }
        answers.finish(self.config).map(Some)
    }

    /// Asks about the batches that have a row at `places`; other rows get no values.
    ///
    /// # Errors
    /// As [`References::compute`].
    pub(super) fn around(
        &self,
        places: &[usize],
        mut answers: Answers,
    ) -> Result<References, FinetuneError> {
        while answers.rows() < self.data.len() {
            let start = answers.rows();
            let batch = self.places(start);
            if places.iter().any(|place| batch.contains(place)) {
                for values in self.batch(start)? {
                    answers.push(&values)?;
                }
            } else {
                batch.into_iter().try_for_each(|_| answers.push(&[]))?;
            }
        }
        answers.finish(self.config)
    }

    /// Returns the places of the batch that begins with the row at `start`.
    fn places(&self, start: usize) -> std::ops::Range<usize> {
        start..(start + self.config.batch_size).min(self.data.len())
    }

    /// Returns the values of the rows of the batch that begins with the row at `start`.
    fn batch(&self, start: usize) -> Result<Vec<Vec<f64>>, FinetuneError> {
        let places = self.places(start);
        let rows = places.clone().map(|place| self.data.row(place));
        let rows: Vec<Row> = rows.collect::<Result<_, _>>()?;
        let mut answers = self.asked(&rows, is_apart(self.data))?.into_iter();
        let mut mismatched = match self.config.mismatched {
            Some(mismatched) => {
                let rows = places
                    .clone()
                    .map(|place| mismatched.rows(self.data, place));
                let rows: Vec<Vec<Row>> = rows.collect::<Result<_, _>>()?;
                self.asked(&rows.concat(), true)?
            }
            None => Vec::new(),
        }
        .into_iter();
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            let sequences = row.sequences().count();
            let of_row = answers.by_ref().take(sequences);
            let of_row: Vec<f64> = of_row.chain(mismatched.by_ref().take(sequences)).collect();
            if let Some(value) = of_row.iter().find(|value| !value.is_finite()) {
                return Err(FinetuneError::ReferenceNotFinite {
                    value: *value,
                    rows: self.data.places(places),
                });
            }
            found.push(of_row);
        }
        Ok(found)
    }

    /// Returns the log-probabilities of the answers in `rows`.
    fn asked(&self, rows: &[Row], apart: bool) -> Result<Vec<f64>, FinetuneError> {
        let laid = Laid {
            rows,
            references: &[],
            apart,
            learns_prompts: false,
            layout: self.layout,
        };
        let scored = PreferenceBatch::collate(&laid, &self.device).scored_by(&self.model)?;
        Ok(scored.iter().map(|scored| scored.answer.sum).collect())
    }
}
