//! Several examples in a row.

use crate::data::best_fit::best_fit;
use crate::data::dataset::{Dataset, Selection};
use crate::error::FinetuneError;

impl Dataset {
    /// Packs the examples, several into a row wherever they fit into `max_len` tokens together.
    ///
    /// Best fit, longest first (in the file's order where lengths are equal): a row goes to where the least
    /// room is left over. Within a row the examples keep the file's order, and so do rows by their first examples.
    /// Only lengths are looked at, and eight bytes a row are in memory meanwhile.
    ///
    /// # Errors
    /// [`FinetuneError::Read`], [`FinetuneError::Write`].
    pub fn packed(&self, max_len: usize) -> Result<Self, FinetuneError> {
        let packing = best_fit(|| self.lens(), max_len)?;
        let mut packed = Selection::of(self);
        for row in packing.rows() {
            packed.push(row.iter().map(|place| *place as usize))?;
        }
        packed.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::builder::DatasetBuilder;
    use crate::data::row::Row;

    fn rows(lengths: &[usize]) -> Dataset {
        let row = |(first, len): (usize, &usize)| Row::all(vec![first as u32; *len]);
        Dataset::from_rows(lengths.iter().enumerate().map(row).collect())
    }

    #[test]
    fn examples_share_rows_where_they_fit() {
        let data = rows(&[5, 7, 3, 10, 2, 1]);
        let fingerprint = data.fingerprint().unwrap();
        let packed = data.packed(10).unwrap();
        let ids = |row: &Row| {
            row.sequences()
                .map(|sequence| (row.ids[sequence.start], sequence.len()))
                .collect::<Vec<_>>()
        };
        let found: Vec<_> = packed.rows().map(|row| ids(&row.unwrap())).collect();
        let expected = [
            vec![(0, 5), (4, 2), (5, 1)],
            vec![(1, 7), (2, 3)],
            vec![(3, 10)],
        ];
        assert_eq!(found, expected);
        assert_eq!(
            (packed.len(), packed.examples(), packed.longest()),
            (3, 6, 10)
        );
        assert_ne!(packed.fingerprint().unwrap(), fingerprint);
    }

    #[test]
    fn no_target_is_lost_or_made() {
        let data = rows(&[2, 9, 4, 4, 6, 3, 3, 8]);
        let targets = |data: &Dataset| data.rows().map(|row| row.unwrap().targets()).sum::<usize>();
        let expected = targets(&data);
        assert_eq!(targets(&data.packed(12).unwrap()), expected);
    }

    /// The boundaries alone tell packed rows from one row of the same tokens.
    #[test]
    fn boundaries_are_part_of_the_fingerprint() {
        let mut packed = Row::all(vec![1, 2]);
        packed.append(&Row::all(vec![3, 4]));
        let whole = Row::new(packed.ids.clone(), packed.learn.clone());
        let [packed, whole] = [packed, whole].map(|row| Dataset::from_rows(vec![row]));
        assert_ne!(packed.fingerprint().unwrap(), whole.fingerprint().unwrap());
    }

    #[test]
    fn what_fits_with_nothing_stays_alone() {
        let packed = rows(&[6, 6, 12]).packed(10).unwrap();
        assert_eq!((packed.len(), packed.examples()), (3, 3));
    }

    #[test]
    fn rows_in_files_are_those_in_memory() {
        let in_memory = rows(&[2, 9, 4, 4, 6, 3, 3, 8]);
        let mut builder = DatasetBuilder::default().with_memory(0);
        for row in in_memory.rows() {
            builder.push(&row.unwrap()).unwrap();
        }
        let in_file = builder.finish().unwrap();
        assert!(in_file.is_in_file() && !in_memory.is_in_file());
        let same = |one: &Dataset, other: &Dataset| {
            assert_eq!(one.fingerprint().unwrap(), other.fingerprint().unwrap());
            let numbers = |data: &Dataset| (data.len(), data.longest(), data.examples());
            assert_eq!(numbers(one), numbers(other));
            let lens = (0..one.len()).map(|place| one.row_len(place).unwrap());
            assert!(lens.eq(other.rows().map(|row| row.unwrap().len())));
        };
        same(&in_file, &in_memory);
        let [one, other] = [&in_file, &in_memory].map(|data| data.packed(12).unwrap());
        same(&one, &other);
        same(&one.head(2).unwrap(), &other.head(2).unwrap());
        // What is packed can be packed again.
        same(&one.packed(24).unwrap(), &other.packed(24).unwrap());
        assert_eq!(one.packed(24).unwrap().examples(), 8);
    }
}
