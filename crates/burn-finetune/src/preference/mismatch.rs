use crate::data::{Dataset, Row};
use crate::error::FinetuneError;

/// How prompts get the answers of others, from which KTO estimates its divergence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatched {
    /// Rows that follow each other among which the answers change places: each prompt gets the answer of the one before it,
    /// the first that of the last, as in TRL's KTOTrainer.
    pub group: usize,
    /// The tokens of a prompt and its answer that are kept.
    pub max_len: usize,
}

impl Mismatched {
    /// Returns the prompts of the row at `place`, each with the answer of the one before it.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    pub(super) fn rows(&self, data: &Dataset, place: usize) -> Result<Vec<Row>, FinetuneError> {
        let own = data.row(place)?.apart();
        let before = self.before(data.len(), place);
        let last = data.row(before)?.apart().pop();
        let answers = last.iter().chain(&own);
        let pairs = own.iter().zip(answers);
        Ok(pairs
            .map(|(prompt, answer)| self.joined(prompt, answer))
            .collect())
    }

    /// Returns the row of the group before the one at `place`.
    fn before(&self, rows: usize, place: usize) -> usize {
        let group = self.group.max(1);
        let start = place / group * group;
        let size = group.min(rows - start);
        start + (place - start + size - 1) % size
    }

    fn joined(&self, prompt: &Row, answer: &Row) -> Row {
        let starts = [prompt, answer].map(|row| {
            let first = row.learn.iter().position(|learn| *learn);
            first.unwrap_or(row.len())
        });
        let mut ids = prompt.ids[..starts[0]].to_vec();
        ids.extend(&answer.ids[starts[1]..]);
        ids.truncate(self.max_len);
        let learn = (0..ids.len()).map(|place| place >= starts[0]);
        Row::new(ids.clone(), learn.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ids: Vec<u32>, prompt: usize) -> Row {
        let learn = (0..ids.len()).map(|place| place >= prompt).collect();
        Row::new(ids, learn).labelled(true)
    }

    fn data() -> Dataset {
        Dataset::from_rows(vec![
            row(vec![1, 2, 10], 2),
            row(vec![3, 11, 12], 1),
            row(vec![4, 5, 6, 13], 3),
            row(vec![7, 14], 1),
        ])
    }

    #[test]
    fn prompts_get_the_answers_of_those_before_them() {
        let mismatched = Mismatched {
            group: 3,
            max_len: 4,
        };
        let ids = |place| mismatched.rows(&data(), place).unwrap()[0].ids.clone();
        assert_eq!(ids(0), [1, 2, 13]);
        assert_eq!(ids(1), [3, 10]);
        // Cut to the length that is allowed.
        assert_eq!(ids(2), [4, 5, 6, 11]);
        // A group of its own.
        assert_eq!(ids(3), [7, 14]);
        let learn = &mismatched.rows(&data(), 2).unwrap()[0].learn;
        assert_eq!(learn, &[false, false, false, true]);
    }

    #[test]
    fn rows_that_are_packed_change_answers_within_and_with_the_row_before() {
        let packed = data().packed(7).unwrap();
        assert_eq!(packed.len(), 2);
        let mismatched = Mismatched {
            group: 2,
            max_len: 9,
        };
        let mut found = Vec::new();
        for place in 0..2 {
            let rows = mismatched.rows(&packed, place).unwrap();
            found.push(rows.into_iter().map(|row| row.ids).collect::<Vec<_>>());
        }
        let all: usize = found.iter().map(Vec::len).sum();
        assert_eq!(all, 4);
        // Every answer comes once.
        let mut answers: Vec<u32> = found
            .concat()
            .iter()
            .map(|ids| *ids.last().unwrap())
            .collect();
        answers.sort_unstable();
        assert_eq!(answers, [10, 12, 13, 14]);
    }
}
