use super::batch::{Laid, PreferenceBatch, check_examples};
use super::reference::References;
use crate::data::{BatchLayout, Dataset, Row};
use crate::error::FinetuneError;
use crate::objective::Objective;
use burn::tensor::Device;

/// Rows of preferences with what the reference gives them.
#[derive(Debug, Clone, Copy)]
pub struct PreferenceRows<'a> {
    data: &'a Dataset,
    references: Option<&'a References>,
    objective: Objective,
}

/// Returns whether each row is one example, whose sequences get rows of their own in a batch.
pub(super) fn is_apart(data: &Dataset) -> bool {
    data.examples() == data.len()
}

impl<'a> PreferenceRows<'a> {
    /// Returns the rows of `data`, which are what `objective` learns from.
    ///
    /// # Errors
    /// [`FinetuneError::InvalidConfig`] for rows of something else, and for an objective without the reference that it needs,
    /// [`FinetuneError::Read`].
    pub fn new(
        data: &'a Dataset,
        references: Option<&'a References>,
        objective: Objective,
    ) -> Result<Self, FinetuneError> {
        if !data.is_empty() {
            check_examples(&objective, &data.row(0)?)?;
        }
        let known = references.is_some_and(|references| references.len() == data.len());
        if objective.needs_reference() && !known {
            return Err(FinetuneError::InvalidConfig {
                field: "objective",
                value: objective.name().into(),
                expected: "one without a reference, where there are no log-probabilities of one for these rows",
            });
        }
        Ok(Self {
            data,
            references,
            objective,
        })
    }

    /// Returns what they are learnt by.
    pub(super) fn objective(&self) -> Objective {
        self.objective
    }

    /// Returns the number of rows.
    pub(super) fn len(&self) -> usize {
        self.data.len()
    }

    /// Returns where rows come from, for a message.
    pub(super) fn places(&self, rows: impl IntoIterator<Item = usize>) -> Vec<String> {
        self.data.places(rows)
    }

    /// Returns the rows at `places` in a batch.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    pub(super) fn batch(
        &self,
        places: &[usize],
        layout: BatchLayout,
        device: &Device,
    ) -> Result<PreferenceBatch, FinetuneError> {
        let rows = places.iter().map(|place| self.data.row(*place));
        let rows: Vec<Row> = rows.collect::<Result<_, _>>()?;
        let mut given = Vec::new();
        if let Some(references) = self.references {
            for place in places {
                given.extend(references.of_row(*place)?.answers);
            }
        }
        let laid = Laid {
            rows: &rows,
            references: &given,
            apart: is_apart(self.data),
            learns_prompts: self.objective.learns_prompts(),
            layout,
        };
        Ok(PreferenceBatch::collate(&laid, device))
    }

    /// Returns the prompts of the rows at `places` with the answers of others, in a batch; `None` where none are asked for.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    pub(super) fn mismatched(
        &self,
        places: &[usize],
        layout: BatchLayout,
        device: &Device,
    ) -> Result<Option<PreferenceBatch>, FinetuneError> {
        let known = self
            .references
            .and_then(|references| Some((references, references.mismatched()?)));
        let Some((references, mismatched)) = known else {
            return Ok(None);
        };
        let (mut rows, mut given) = (Vec::new(), Vec::new());
        for place in places {
            rows.extend(mismatched.rows(self.data, *place)?);
            given.extend(references.of_row(*place)?.mismatched);
        }
        let laid = Laid {
            rows: &rows,
            references: &given,
            apart: true,
            learns_prompts: false,
            layout,
        };
        Ok(Some(PreferenceBatch::collate(&laid, device)))
    }
}
